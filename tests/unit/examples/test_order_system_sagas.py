"""The two sagas of the order system, without broker or database."""

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

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
from kafkasaga.examples.order_system.orchestrator import Placement, PlaceOrder
from kafkasaga.examples.order_system.order import ValidateOrder, Validation
from kafkasaga.testing import Scenario, scenario

ORDER = UUID(int=1)
LINES = (Line(sku="tea", quantity=2), Line(sku="pot", quantity=1))
TOTAL = Decimal("31.50")

ASKED = (ValidateCustomer(order_id=ORDER, customer_id="ann"), ValidateInventory(order_id=ORDER, lines=LINES))
CREATED = OrderCreated(order_id=ORDER, customer_id="ann", lines=LINES, total=TOTAL)
RESERVE = ReserveInventory(order_id=ORDER, lines=LINES)
PAY = ProcessPayment(order_id=ORDER, customer_id="ann", amount=TOTAL)


def validation() -> Scenario[Validation]:
    state = Validation(order_id=ORDER, customer_id="ann", lines=LINES)
    return scenario(ValidateOrder).given(state, key=str(ORDER)).expect(*ASKED)


def placement() -> Scenario[Placement]:
    return scenario(PlaceOrder).given(CREATED).expect(RESERVE)


def test_an_order_is_created_once_both_services_have_agreed() -> None:
    saga = validation().when(InventoryValidated(order_id=ORDER, total=TOTAL)).expect_nothing()
    saga.when(CustomerValidated(order_id=ORDER)).expect(CREATED).expect_completed()


def test_an_unknown_customer_rejects_the_order_at_once() -> None:
    saga = validation().when(CustomerRejected(order_id=ORDER, reason="unknown customer: ann"))
    saga.expect(OrderRejected(order_id=ORDER, reason="unknown customer: ann"))


def test_a_product_that_is_not_available_rejects_the_order() -> None:
    saga = validation().when(CustomerValidated(order_id=ORDER)).expect_nothing()
    saga.when(InventoryUnavailable(order_id=ORDER, reason="not available: pot"))
    saga.expect(OrderRejected(order_id=ORDER, reason="not available: pot"))


def test_silence_rejects_the_order_and_the_reason_says_so() -> None:
    saga = validation().when(CustomerValidated(order_id=ORDER)).after(timedelta(seconds=59)).expect_nothing()
    saga.after(timedelta(seconds=1))
    saga.expect(OrderRejected(order_id=ORDER, reason="no reply from step 'products' within 0:01:00"))


def test_an_answer_after_the_rejection_changes_nothing() -> None:
    saga = validation().when(CustomerRejected(order_id=ORDER, reason="unknown"))
    saga.expect(OrderRejected(order_id=ORDER, reason="unknown"))
    saga.when(InventoryValidated(order_id=ORDER, total=TOTAL)).expect_nothing().expect_cancelled()


def test_an_order_is_reserved_paid_and_completed() -> None:
    saga = placement().when(InventoryReserved(order_id=ORDER)).expect(PAY)
    saga.when(PaymentSucceeded(order_id=ORDER)).expect(OrderCompleted(order_id=ORDER)).expect_completed()


def test_a_declined_payment_is_refunded_then_released_then_cancelled() -> None:
    saga = placement().when(InventoryReserved(order_id=ORDER)).expect(PAY)
    saga.when(PaymentFailed(order_id=ORDER, reason="card declined")).expect(RefundPayment(order_id=ORDER))
    saga.when(PaymentRefunded(order_id=ORDER)).expect(ReleaseInventory(order_id=ORDER))
    saga.when(InventoryReleased(order_id=ORDER))
    saga.expect(OrderCancelled(order_id=ORDER, reason="card declined")).expect_cancelled(reason="card declined")


def test_an_order_that_cannot_be_reserved_is_released_and_never_charged() -> None:
    saga = placement().when(InventoryFailed(order_id=ORDER, reason="out of stock: pot"))
    saga.expect(ReleaseInventory(order_id=ORDER))
    saga.when(InventoryReleased(order_id=ORDER)).expect(OrderCancelled(order_id=ORDER, reason="out of stock: pot"))


def test_an_order_that_is_created_twice_is_placed_once() -> None:
    placement().again().expect_nothing().when(InventoryReserved(order_id=ORDER)).expect(PAY)


def test_a_payment_that_nobody_answers_is_undone() -> None:
    saga = placement().when(InventoryReserved(order_id=ORDER)).expect(PAY)
    saga.after(timedelta(minutes=2)).expect(RefundPayment(order_id=ORDER))
    saga.when(PaymentRefunded(order_id=ORDER)).expect(ReleaseInventory(order_id=ORDER))
