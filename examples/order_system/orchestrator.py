"""The Orchestrator: once an order is created, reserve and pay, or undo both."""

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from kafkasaga import Ends, Saga, SagaState, Service, Step

from .contracts import (
    InventoryFailed,
    InventoryReleased,
    InventoryReserved,
    Lines,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    PaymentFailed,
    PaymentRefunded,
    PaymentSucceeded,
    ProcessPayment,
    RefundPayment,
    ReleaseInventory,
    ReserveInventory,
)


class Placement(SagaState):
    order_id: UUID
    customer_id: str
    lines: Lines
    total: Decimal


class PlaceOrder(Saga[Placement], name="place-order", version=1, starts_on=OrderCreated):
    reserve = Step[Placement](
        command=lambda s: ReserveInventory(order_id=s.order_id, lines=s.lines),
        succeeds_on=InventoryReserved,
        fails_on=InventoryFailed,
        compensation=lambda s: ReleaseInventory(order_id=s.order_id),
        compensated_on=InventoryReleased,
        deadline=timedelta(minutes=2),
    )
    pay = Step[Placement](
        command=lambda s: ProcessPayment(order_id=s.order_id, customer_id=s.customer_id, amount=s.total),
        succeeds_on=PaymentSucceeded,
        fails_on=PaymentFailed,
        compensation=lambda s: RefundPayment(order_id=s.order_id),
        compensated_on=PaymentRefunded,
        deadline=timedelta(minutes=2),
    )
    flow = reserve >> pay
    ends = Ends[Placement](
        completed=lambda s: OrderCompleted(order_id=s.order_id),
        cancelled=lambda s, why: OrderCancelled(order_id=s.order_id, reason=why.reason),
    )


orchestrator = Service("orchestrator", sagas=[PlaceOrder])
