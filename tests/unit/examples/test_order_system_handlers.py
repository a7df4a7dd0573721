"""The handlers of the order system, called directly, each with a session of its own service."""

from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Session

from kafkasaga.examples.order_system import customer, inventory, order, payment
from kafkasaga.examples.order_system.contracts import (
    CustomerRejected,
    CustomerValidated,
    InventoryFailed,
    InventoryReleased,
    InventoryReserved,
    InventoryUnavailable,
    InventoryValidated,
    Line,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderRejected,
    PaymentFailed,
    PaymentRefunded,
    PaymentSucceeded,
    ProcessPayment,
    RefundPayment,
    ReleaseInventory,
    ReserveInventory,
    ValidateCustomer,
    ValidateInventory,
)
from kafkasaga.examples.order_system.order import Status

ORDER = UUID(int=1)


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session on an empty database with the tables of `request.param`."""
    base: type[DeclarativeBase] = request.param
    engine = create_engine("sqlite://")
    base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


of_customer = pytest.mark.parametrize("session", [customer.Base], indirect=True, ids=["customer"])
of_inventory = pytest.mark.parametrize("session", [inventory.Base], indirect=True, ids=["inventory"])
of_payment = pytest.mark.parametrize("session", [payment.Base], indirect=True, ids=["payment"])
of_order = pytest.mark.parametrize("session", [order.Base], indirect=True, ids=["order"])


@of_customer
def test_a_known_customer_is_validated_and_an_unknown_one_rejected(session: Session) -> None:
    session.add(customer.Customer(id="ann"))
    assert customer.validate(ValidateCustomer(order_id=ORDER, customer_id="ann"), session) == CustomerValidated(
        order_id=ORDER
    )
    assert customer.validate(ValidateCustomer(order_id=ORDER, customer_id="bob"), session) == CustomerRejected(
        order_id=ORDER, reason="unknown customer: bob"
    )


def stocked(session: Session, **available: int) -> None:
    session.add_all(
        inventory.Stock(sku=sku, price=Decimal("2.50"), available=count, reserved=0, sold=0)
        for sku, count in available.items()
    )
    session.flush()


def lines(**quantities: int) -> tuple[Line, ...]:
    return tuple(Line(sku=sku, quantity=quantity) for sku, quantity in quantities.items())


def shelf(session: Session, sku: str) -> tuple[int, int, int]:
    stock = session.get_one(inventory.Stock, sku)
    return stock.available, stock.reserved, stock.sold


@of_inventory
def test_validation_prices_what_is_in_stock(session: Session) -> None:
    stocked(session, tea=5, pot=1)
    command = ValidateInventory(order_id=ORDER, lines=lines(tea=2, pot=1))
    assert inventory.validate(command, session) == InventoryValidated(order_id=ORDER, total=Decimal("7.50"))


@of_inventory
def test_validation_names_what_is_unknown_or_sold_out(session: Session) -> None:
    stocked(session, tea=5, pot=0)
    command = ValidateInventory(order_id=ORDER, lines=lines(tea=2, pot=1, cup=1))
    assert inventory.validate(command, session) == InventoryUnavailable(
        order_id=ORDER, reason="not available: cup, pot"
    )


@of_inventory
def test_a_reservation_is_all_or_nothing(session: Session) -> None:
    stocked(session, tea=5, pot=1)
    refused = inventory.reserve(ReserveInventory(order_id=ORDER, lines=lines(tea=2, pot=2)), session)
    assert refused == InventoryFailed(order_id=ORDER, reason="out of stock: pot")
    assert shelf(session, "tea") == (5, 0, 0)
    assert not session.scalars(select(inventory.Reservation)).all()


@of_inventory
def test_what_is_reserved_is_released_or_sold(session: Session) -> None:
    stocked(session, tea=5, pot=1)
    for order_id in (ORDER, UUID(int=2)):
        command = ReserveInventory(order_id=order_id, lines=lines(tea=2))
        assert inventory.reserve(command, session) == InventoryReserved(order_id=order_id)
    assert shelf(session, "tea") == (1, 4, 0)
    assert inventory.release(ReleaseInventory(order_id=ORDER), session) == InventoryReleased(order_id=ORDER)
    assert shelf(session, "tea") == (3, 2, 0)
    inventory.sell(OrderCompleted(order_id=UUID(int=2)), session)
    assert shelf(session, "tea") == (3, 0, 2)


@of_payment
@pytest.mark.parametrize(
    ("customer_id", "amount", "refused"),
    [("ann", "10.00", None), ("ann", "10.01", "card declined"), ("bob", "1.00", "no card on file")],
)
def test_a_payment_is_charged_up_to_the_limit_of_the_card(
    session: Session, customer_id: str, amount: str, refused: str | None
) -> None:
    session.add(payment.Card(customer_id="ann", limit=Decimal("10.00")))
    answer = payment.pay(ProcessPayment(order_id=ORDER, customer_id=customer_id, amount=Decimal(amount)), session)
    if refused is None:
        assert answer == PaymentSucceeded(order_id=ORDER)
        assert session.get_one(payment.Charge, ORDER).amount == Decimal(amount)
    else:
        assert answer == PaymentFailed(order_id=ORDER, reason=refused)
        assert session.get(payment.Charge, ORDER) is None


@of_payment
def test_a_refund_gives_back_what_was_charged(session: Session) -> None:
    session.add(payment.Charge(order_id=ORDER, customer_id="ann", amount=Decimal("9.90")))
    assert payment.refund(RefundPayment(order_id=ORDER), session) == PaymentRefunded(order_id=ORDER)
    assert session.get_one(payment.Refund, ORDER).amount == Decimal("9.90")


def accepted(session: Session) -> None:
    session.add(order.Order(id=ORDER, request="{}", status=Status.VALIDATING))
    session.flush()


CREATED = OrderCreated(order_id=ORDER, customer_id="ann", lines=lines(tea=1), total=Decimal("2.50"))


@of_order
def test_an_order_follows_its_events_and_remembers_them(session: Session) -> None:
    accepted(session)
    order.created(CREATED, session)
    order.cancelled(OrderCancelled(order_id=ORDER, reason="card declined"), session)
    session.flush()
    session.expire_all()
    found = session.get_one(order.Order, ORDER)
    assert (found.status, found.reason, found.total) == (Status.CANCELLED, "card declined", Decimal("2.50"))
    assert [change.status for change in found.history] == [Status.CREATED, Status.CANCELLED]


@of_order
def test_a_rejected_order_says_why(session: Session) -> None:
    accepted(session)
    order.rejected(OrderRejected(order_id=ORDER, reason="unknown customer: ann"), session)
    found = session.get_one(order.Order, ORDER)
    assert (found.status, found.reason) == (Status.REJECTED, "unknown customer: ann")


@of_order
def test_news_that_comes_late_does_not_reopen_an_order(session: Session) -> None:
    accepted(session)
    order.completed(OrderCompleted(order_id=ORDER), session)
    order.created(CREATED, session)
    found = session.get_one(order.Order, ORDER)
    assert (found.status, found.total) == (Status.COMPLETED, Decimal("2.50"))
