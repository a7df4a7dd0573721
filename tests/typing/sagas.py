"""What a user writes, for the type checkers: a line marked ``# E`` must be an error, any other must not.

The shape is that of the order saga with every construct. It runs too: importing it checks the definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Protocol, assert_type
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Session

from kafkasaga import Service
from kafkasaga.messages import Message, SagaState
from kafkasaga.saga.definition import Saga
from kafkasaga.saga.flow import Each, Ends, Flow, LocalStep, Step, WaitFor, parallel, reply
from kafkasaga.saga.policy import exponential
from kafkasaga.testing import Scenario, scenario


class Line(BaseModel, frozen=True):
    sku: str
    quantity: int


class OrderMessage(Message, key="order_id"):
    order_id: UUID


class OrderCreated(OrderMessage, topic="order.created"):
    lines: tuple[Line, ...]
    total: Decimal


class OrderCompleted(OrderMessage, topic="order.completed"): ...


class OrderCancelled(OrderMessage, topic="order.cancelled"):
    reason: str


class ReserveInventory(OrderMessage, topic="inventory.reserve.request"):
    lines: tuple[Line, ...]


class InventoryReserved(OrderMessage, topic="inventory.reserved"):
    reservation_id: UUID


class Backordered(OrderMessage, topic="inventory.backordered"):
    until: str


class InventoryFailed(OrderMessage, topic="inventory.failed"):
    reason: str


class ReleaseInventory(OrderMessage, topic="inventory.release"):
    reservation_id: UUID | None


class InventoryReleased(OrderMessage, topic="inventory.released"): ...


class ProcessPayment(OrderMessage, topic="payment.process"):
    amount: Decimal


class PaymentSucceeded(OrderMessage, topic="payment.succeeded"): ...


class PaymentFailed(OrderMessage, topic="payment.failed"):
    reason: str


class OrderApproved(OrderMessage, topic="order.approved"):
    by: str


class OrderRejected(OrderMessage, topic="order.rejected"): ...


class ShipLine(OrderMessage, topic="line.ship"):
    line: Line


class LineShipped(OrderMessage, topic="line.shipped"):
    tracking: str


class OrderState(SagaState):
    order_id: UUID
    lines: tuple[Line, ...]
    total: Decimal
    reservation_id: UUID | None = None

    def reserved(self, reply: InventoryReserved) -> None:
        self.reservation_id = reply.reservation_id


class BigState(OrderState):
    approver: str | None = None
    late: bool = False
    tracking: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)

    def backordered(self, reply: Backordered) -> None:
        self.late = True

    def approved(self, event: OrderApproved) -> None:
        self.approver = event.by


def shipped(s: Each[BigState, Line], reply: LineShipped) -> None:
    s.saga.tracking[s.item.sku] = reply.tracking


class HasOrder(Protocol):
    """What a shared step needs of any saga's state."""

    @property
    def order_id(self) -> UUID: ...
    @property
    def total(self) -> Decimal: ...


pay = Step[HasOrder](
    command=lambda s: ProcessPayment(order_id=s.order_id, amount=s.total),
    succeeds_on=PaymentSucceeded,
    fails_on=PaymentFailed,
    kind="pivot",
    retry=exponential(attempts=3),
)


def book(s: BigState, session: object) -> None: ...


def unbook(s: BigState, session: object) -> None: ...


class Big(Saga[BigState], name="big", version=2, starts_on=OrderCreated):
    reserve = Step[BigState](
        command=lambda s: ReserveInventory(order_id=s.order_id, lines=s.lines),
        succeeds_on=[reply(InventoryReserved, BigState.reserved), reply(Backordered, BigState.backordered)],
        fails_on=InventoryFailed,
        compensation=lambda s: ReleaseInventory(order_id=s.order_id, reservation_id=s.reservation_id),
        compensated_on=InventoryReleased,
    )
    approve = WaitFor[BigState](
        reply(OrderApproved, BigState.approved),
        fails_on=OrderRejected,
        deadline=timedelta(days=2),
        at_deadline="compensate",
    )
    book = LocalStep[BigState](book, compensation=unbook)
    pay = pay
    ship = Step[Each[BigState, Line]](
        command=lambda s: ShipLine(order_id=s.saga.order_id, line=s.item),
        succeeds_on=reply(LineShipped, shipped),
        kind="retriable",
    )
    flow = reserve >> parallel(approve.when(lambda s: s.total > 1000), book) >> pay >> ship.for_each(lambda s: s.lines)
    ends = Ends[BigState](
        completed=lambda s: OrderCompleted(order_id=s.order_id),
        cancelled=lambda s, why: OrderCancelled(order_id=s.order_id, reason=why.reason),
    )


class Small(Saga[OrderState], name="small", version=1, starts_on=OrderCreated):
    pay = pay
    flow = pay


def right(state: BigState) -> None:
    assert_type(scenario(Big), Scenario[BigState])
    assert_type(scenario(Big).state, BigState)
    assert_type(scenario(Big).given(state).when(OrderRejected(order_id=state.order_id)), Scenario[BigState])
    assert_type(Big.reserve >> Big.approve, Flow[BigState])


def wrong(message: OrderCreated, state: OrderState, big: BigState) -> object:
    Step[BigState](command=lambda s: s.order_idd, succeeds_on=PaymentSucceeded)  # type: ignore[attr-defined]  # E
    Step[BigState](command=lambda s: s.order_id, succeeds_on=PaymentSucceeded)  # type: ignore[arg-type, return-value]  # E
    Step[BigState](command=lambda s: ProcessPayment(order_id=s.order_id), succeeds_on=PaymentSucceeded)  # type: ignore[call-arg]  # E
    Step[BigState](command=lambda s: message, succeeds_on=reply(InventoryReserved, BigState.approved))  # type: ignore[arg-type]  # E
    Step[OrderState](command=lambda s: message, succeeds_on=reply(OrderApproved, BigState.approved))  # type: ignore[arg-type]  # E
    Step[BigState](command=lambda s: message, succeeds_on=PaymentSucceeded, kind="pivott")  # type: ignore[arg-type]  # E
    Step[BigState](command=lambda s: message, succeeds_on=PaymentSucceeded, deadline=30)  # type: ignore[arg-type]  # E
    Step[BigState](command=lambda s: message)  # type: ignore[call-arg]  # E
    WaitFor[BigState](OrderApproved, deadline=timedelta(1), at_deadline="continu")  # type: ignore[arg-type]  # E
    WaitFor[BigState](OrderApproved)  # type: ignore[call-arg]  # E
    LocalStep[OrderState](book)  # type: ignore[arg-type]  # E
    Ends[OrderState](completed=lambda s: s.total)  # type: ignore[arg-type, return-value]  # E
    Ends[OrderState](cancelled=lambda s, why: OrderCancelled(order_id=s.order_id, reason=why.raeson))  # type: ignore[attr-defined]  # E
    flow: Flow[OrderState] = Big.reserve  # type: ignore[assignment]  # E
    Small.flow & pay  # type: ignore[operator]  # E
    Big.ship.for_each(lambda s: [1])  # type: ignore[list-item]  # E
    Big.approve.when(lambda s: s.totl > 1)  # type: ignore[attr-defined]  # E
    message.total = Decimal(1)  # type: ignore[misc]  # E
    OrderCreated(order_id=message.order_id, lines=())  # type: ignore[call-arg]  # E
    OrderCreated(message.order_id, (), Decimal(1))  # type: ignore[call-arg]  # E
    scenario(Big).given(state)  # type: ignore[arg-type]  # E
    assert scenario(Big).given(big).state.totl  # type: ignore[attr-defined]  # E
    scenario(big)  # type: ignore[arg-type]  # E
    many: Sequence[Flow[BigState]] = [Big.reserve, 1]  # type: ignore[list-item]  # E
    return flow, many


service = Service("typed")


@service.batch_handler
def pay_all(commands: list[ProcessPayment], session: Session) -> list[PaymentSucceeded | PaymentFailed]:
    return [PaymentSucceeded(order_id=command.order_id) for command in commands]


@service.batch_handler(consumer="typed.second")
def listen_to_all(commands: Sequence[ProcessPayment]) -> None: ...


def handlers_in_the_wrong_place() -> None:
    @service.batch_handler  # type: ignore[type-var]  # E
    def one_answer(commands: list[ProcessPayment]) -> PaymentSucceeded:
        return PaymentSucceeded(order_id=commands[0].order_id)
