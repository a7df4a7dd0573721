"""A saga over two services, for tests that run them: `stock` and `orders`, each with tables of its own prefix.

Imported anew for each test, with other topics each time (SHOP_TOPICS); also run as processes. While the file SHOP_FAULT
exists, an order whose id begins with "poison" makes its handler raise.
"""

# No `from __future__ import annotations`: the module may be loaded under a name that is not in sys.modules.
import os
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from kafkasaga import Ends, Message, Outbox, Saga, SagaState, Service, Step, exponential
from kafkasaga.stores import Session

TOPICS = os.environ.get("SHOP_TOPICS", "shop")
FAULT = Path(os.environ.get("SHOP_FAULT", "/nonexistent"))


class OrderMessage(Message, key="order"):
    order: str


class OrderPlaced(OrderMessage, topic=f"{TOPICS}.placed"): ...


class Reserve(OrderMessage, topic=f"{TOPICS}.reserve"): ...


class Reserved(OrderMessage, topic=f"{TOPICS}.reserved"): ...


class Release(OrderMessage, topic=f"{TOPICS}.release"): ...


class Released(OrderMessage, topic=f"{TOPICS}.released"): ...


class Pay(OrderMessage, topic=f"{TOPICS}.pay"): ...


class Paid(OrderMessage, topic=f"{TOPICS}.paid"): ...


class Declined(OrderMessage, topic=f"{TOPICS}.declined"):
    reason: str


class OrderEnded(OrderMessage, topic=f"{TOPICS}.ended"):
    well: bool


class OrderState(SagaState):
    order: str


class PlaceOrder(Saga[OrderState], name="place-order", version=1, starts_on=OrderPlaced):
    reserve = Step[OrderState](
        command=lambda s: Reserve(order=s.order),
        succeeds_on=Reserved,
        compensation=lambda s: Release(order=s.order),
        compensated_on=Released,
        deadline=timedelta(minutes=10),
    )
    pay = Step[OrderState](
        command=lambda s: Pay(order=s.order),
        succeeds_on=Paid,
        fails_on=Declined,
        kind="read-only",
        deadline=timedelta(minutes=10),
    )
    flow = reserve >> pay
    ends = Ends[OrderState](
        completed=lambda s: OrderEnded(order=s.order, well=True),
        cancelled=lambda s, why: OrderEnded(order=s.order, well=False),
    )


metadata = MetaData()
movements = Table(
    "movements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("order", String, nullable=False),
    Column("what", String, nullable=False),
)

stock = Service(
    "stock",
    outbox=Outbox(metadata, prefix="stock_", source="stock"),
    parking=exponential(first=timedelta(milliseconds=200), attempts=1000, factor=1.0),
)
orders = Service("orders", sagas=[PlaceOrder], outbox=Outbox(MetaData(), prefix="orders_", source="orders"))


def move(session: Session, command: OrderMessage, what: str) -> None:
    session.execute(insert(movements).values(order=command.order, what=what))


@stock.handler
def reserve(command: Reserve, session: Session) -> Reserved:
    move(session, command, "reserve")
    if command.order.startswith("poison") and FAULT.exists():
        raise RuntimeError("the shelf collapsed")
    return Reserved(order=command.order)


@stock.handler
def release(command: Release, session: Session) -> Released:
    move(session, command, "release")
    return Released(order=command.order)


@stock.handler
def pay(command: Pay, session: Session) -> Paid | Declined:
    if command.order.startswith("declined"):
        return Declined(order=command.order, reason="no cover")
    move(session, command, "pay")
    return Paid(order=command.order)
