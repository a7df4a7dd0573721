"""The Order service: it has every order validated before it creates it, and keeps track of what becomes of it.

Customers reach it by HTTP; that part is in ``front``.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from kafkasaga import Ends, Saga, SagaState, Service, Step, parallel, reply

from .contracts import (
    CustomerRejected,
    CustomerValidated,
    InventoryUnavailable,
    InventoryValidated,
    Lines,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderRejected,
    ValidateCustomer,
    ValidateInventory,
)


class Base(DeclarativeBase): ...


class Status(StrEnum):
    VALIDATING = "validating"
    CREATED = "created"
    REJECTED = "rejected"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


ENDED = (Status.REJECTED, Status.COMPLETED, Status.CANCELLED)


class Order(Base):
    __tablename__ = "customer_order"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request: Mapped[str]
    """What was asked for, as JSON."""
    status: Mapped[Status]
    reason: Mapped[str | None]
    total: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    history: Mapped[list["Change"]] = relationship(order_by="Change.at")


class Change(Base):
    __tablename__ = "order_history"

    order_id: Mapped[UUID] = mapped_column(ForeignKey(Order.id), primary_key=True)
    status: Mapped[Status] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Validation(SagaState):
    order_id: UUID
    customer_id: str
    lines: Lines
    total: Decimal = Decimal()

    def priced(self, answer: InventoryValidated) -> None:
        self.total = answer.total


class ValidateOrder(Saga[Validation], name="validate-order", version=1):
    """Ask both at once. A refusal rejects the order, and so does silence."""

    customer = Step[Validation](
        command=lambda s: ValidateCustomer(order_id=s.order_id, customer_id=s.customer_id),
        succeeds_on=CustomerValidated,
        fails_on=CustomerRejected,
        kind="read-only",
        deadline=timedelta(minutes=1),
    )
    products = Step[Validation](
        command=lambda s: ValidateInventory(order_id=s.order_id, lines=s.lines),
        succeeds_on=reply(InventoryValidated, Validation.priced),
        fails_on=InventoryUnavailable,
        kind="read-only",
        deadline=timedelta(minutes=1),
    )
    flow = parallel(customer, products)
    ends = Ends[Validation](
        completed=lambda s: OrderCreated(order_id=s.order_id, customer_id=s.customer_id, lines=s.lines, total=s.total),
        cancelled=lambda s, why: OrderRejected(order_id=s.order_id, reason=why.reason),
    )


order = Service("order", sagas=[ValidateOrder])


def place(session: Session, order_id: UUID, customer_id: str, lines: Lines, request: str) -> Order:
    """Take an order in and begin its validation, both in the caller's transaction."""
    placed = Order(id=order_id, request=request, status=Status.VALIDATING)
    placed.history.append(Change(status=Status.VALIDATING, at=datetime.now(UTC)))
    session.add(placed)
    state = Validation(order_id=order_id, customer_id=customer_id, lines=lines)
    order.start(session, ValidateOrder, state, key=str(order_id))
    return placed


@order.handler
def created(event: OrderCreated, session: Session) -> None:
    move(session, event.order_id, Status.CREATED).total = event.total


@order.handler
def rejected(event: OrderRejected, session: Session) -> None:
    move(session, event.order_id, Status.REJECTED, event.reason)


@order.handler
def completed(event: OrderCompleted, session: Session) -> None:
    move(session, event.order_id, Status.COMPLETED)


@order.handler
def cancelled(event: OrderCancelled, session: Session) -> None:
    move(session, event.order_id, Status.CANCELLED, event.reason)


def move(session: Session, order_id: UUID, status: Status, reason: str | None = None) -> Order:
    """Topics are not ordered among each other: ``order.created`` may come last, and must not reopen an order."""
    found = session.get_one(Order, order_id, with_for_update=True)
    session.add(Change(order_id=order_id, status=status, at=datetime.now(UTC)))
    if found.status not in ENDED:
        found.status, found.reason = status, reason
    return found
