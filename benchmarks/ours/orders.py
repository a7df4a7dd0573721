"""The order system's participants with batch handlers: the same tables, messages and outcomes, in bulk SQL.

Each function does for many messages what its namesake in ``kafkasaga.examples.order_system`` does for one. The
statements take arrays, so their texts are the same for any number of messages: compiled once, prepared once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Numeric,
    String,
    Table,
    TableValuedAlias,
    Uuid,
    any_,
    bindparam,
    case,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeEngine

from kafkasaga import Service
from kafkasaga.examples.order_system.contracts import (
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
from kafkasaga.examples.order_system.inventory import Held, Reservation, Stock
from kafkasaga.examples.order_system.order import ENDED, Change, Order, Status
from kafkasaga.examples.order_system.payment import Card, Charge, Refund

inventory, payment, order = Service("inventory"), Service("payment"), Service("order")
Counts = Mapping[str, int]


def _any_of(name: str, type: TypeEngine[Any]) -> ColumnElement[Any]:
    return any_(bindparam(name, type_=ARRAY(type)))


def _rows(**columns: TypeEngine[Any]) -> TableValuedAlias:
    """A table of parameters: an array for each column."""
    arrays = [bindparam(f"each_{name}", type_=ARRAY(type)) for name, type in columns.items()]
    return func.unnest(*arrays).table_valued(*columns).render_derived()


def _table(entity: type[DeclarativeBase]) -> Table:
    """What bulk SQL writes to: nothing is in the session that it would have to keep in step."""
    return entity.metadata.tables[entity.__tablename__]


# ---- inventory ----------------------------------------------------------------------------------------------------

_LOCK = (
    select(Stock.sku, Stock.available)
    .where(Stock.sku == _any_of("skus", String()))
    .order_by(Stock.sku)
    .with_for_update()
)
_held = _rows(order_id=Uuid(), sku=String(), quantity=Integer())
_RESERVE = insert(_table(Reservation)).from_select(
    ["order_id", "sku", "quantity", "status"],
    select(_held.c.order_id, _held.c.sku, _held.c.quantity, bindparam("how", type_=Reservation.status.type)),
    include_defaults=False,
)
_END = (
    update(_table(Reservation))
    .where(Reservation.order_id == _any_of("order_ids", Uuid()), Reservation.status == Held.RESERVED)
    .values(status=bindparam("how", type_=Reservation.status.type))
    .returning(Reservation.sku, Reservation.quantity)
)
_moved = _rows(sku=String(), number=Integer())
_MOVE_STOCK = (
    update(_table(Stock))
    .where(Stock.sku == _moved.c.sku)
    .values(
        {
            column.key: column + bindparam(f"by_{column.key}", type_=Integer()) * _moved.c.number
            for column in (Stock.available, Stock.reserved, Stock.sold)
        }
    )
)


@inventory.batch_handler
def reserve(commands: list[ReserveInventory], session: Session) -> list[InventoryReserved | InventoryFailed]:
    left = _lock(session, {line.sku for command in commands for line in command.lines})
    taken: Counter[str] = Counter()
    held: list[tuple[UUID, str, int]] = []
    answers: list[InventoryReserved | InventoryFailed] = []
    for command in commands:
        if short := _short(command.lines, left, taken):
            answers.append(InventoryFailed(order_id=command.order_id, reason=f"out of stock: {', '.join(short)}"))
            continue
        for line in command.lines:
            taken[line.sku] += line.quantity
            held.append((command.order_id, line.sku, line.quantity))
        answers.append(InventoryReserved(order_id=command.order_id))
    if held:
        session.execute(_RESERVE, {"how": Held.RESERVED, **_columns(("order_id", "sku", "quantity"), held)})
        _move_stock(session, taken, available=-1, reserved=1)
    return answers


@inventory.batch_handler
def release(commands: list[ReleaseInventory], session: Session) -> list[InventoryReleased]:
    freed = _end(session, [command.order_id for command in commands], Held.RELEASED)
    _move_stock(session, freed, available=1, reserved=-1)
    return [InventoryReleased(order_id=command.order_id) for command in commands]


@inventory.batch_handler
def sell(events: list[OrderCompleted], session: Session) -> list[None]:
    gone = _end(session, [event.order_id for event in events], Held.SOLD)
    _move_stock(session, gone, reserved=-1, sold=1)
    return [None] * len(events)


def _lock(session: Session, skus: Collection[str]) -> dict[str, int]:
    """How many of each there are, locked in the order of their sku: two batches cannot dead-lock."""
    return {row.sku: row.available for row in session.execute(_LOCK, {"skus": list(skus)})}


def _short(lines: Lines, left: Counts, taken: Counts) -> list[str]:
    return sorted(line.sku for line in lines if left.get(line.sku, 0) - taken.get(line.sku, 0) < line.quantity)


def _end(session: Session, order_ids: Collection[UUID], how: Held) -> Counter[str]:
    """End what these orders hold; how many of each product that was."""
    counted: Counter[str] = Counter()
    for sku, quantity in session.execute(_END, {"order_ids": list(order_ids), "how": how}):
        counted[sku] += quantity
    return counted


def _move_stock(session: Session, counted: Counts, *, available: int = 0, reserved: int = 0, sold: int = 0) -> None:
    if counted:
        _lock(session, counted.keys())
        signs = {"by_available": available, "by_reserved": reserved, "by_sold": sold}
        session.execute(_MOVE_STOCK, {"each_sku": list(counted), "each_number": list(counted.values()), **signs})


# ---- payment ------------------------------------------------------------------------------------------------------

_LIMITS = select(Card.customer_id, Card.limit).where(Card.customer_id == _any_of("customers", String()))
_charged = _rows(order_id=Uuid(), customer_id=String(), amount=Numeric())
_CHARGE = insert(_table(Charge)).from_select(["order_id", "customer_id", "amount"], select(_charged))
_REFUND = insert(_table(Refund)).from_select(
    ["order_id", "amount"],
    select(Charge.order_id, Charge.amount).where(Charge.order_id == _any_of("order_ids", Uuid())),
)


@payment.batch_handler
def pay(commands: list[ProcessPayment], session: Session) -> list[PaymentSucceeded | PaymentFailed]:
    customers = list({command.customer_id for command in commands})
    limits = {row.customer_id: row.limit for row in session.execute(_LIMITS, {"customers": customers})}
    charged: list[tuple[UUID, str, Decimal]] = []
    answers: list[PaymentSucceeded | PaymentFailed] = []
    for command in commands:
        limit = limits.get(command.customer_id)
        if limit is None or command.amount > limit:
            reason = "no card on file" if limit is None else "card declined"
            answers.append(PaymentFailed(order_id=command.order_id, reason=reason))
            continue
        charged.append((command.order_id, command.customer_id, command.amount))
        answers.append(PaymentSucceeded(order_id=command.order_id))
    if charged:
        session.execute(_CHARGE, _columns(("order_id", "customer_id", "amount"), charged))
    return answers


@payment.batch_handler
def refund(commands: list[RefundPayment], session: Session) -> list[PaymentRefunded]:
    session.execute(_REFUND, {"order_ids": [command.order_id for command in commands]})
    return [PaymentRefunded(order_id=command.order_id) for command in commands]


# ---- order --------------------------------------------------------------------------------------------------------

_changed = _rows(order_id=Uuid())
_NOTE = insert(_table(Change)).from_select(
    ["order_id", "status", "at"],
    select(_changed.c.order_id, bindparam("as", type_=Change.status.type), bindparam("at_", type_=Change.at.type)),
)
_told = _rows(order_id=Uuid(), reason=String(), total=Numeric())
_ended = Order.status.in_(ENDED)
_MOVE_ORDERS = (
    update(_table(Order))
    .where(Order.id == _told.c.order_id)
    .values(
        status=case((_ended, Order.status), else_=bindparam("as", type_=Order.status.type)),
        reason=case((_ended, Order.reason), else_=_told.c.reason),
        total=func.coalesce(_told.c.total, Order.total),
    )
)


@order.batch_handler
def created(events: list[OrderCreated], session: Session) -> list[None]:
    return _move_orders(session, Status.CREATED, [(event.order_id, None, event.total) for event in events])


@order.batch_handler
def completed(events: list[OrderCompleted], session: Session) -> list[None]:
    return _move_orders(session, Status.COMPLETED, [(event.order_id, None, None) for event in events])


@order.batch_handler
def cancelled(events: list[OrderCancelled], session: Session) -> list[None]:
    return _move_orders(session, Status.CANCELLED, [(event.order_id, event.reason, None) for event in events])


def _move_orders(
    session: Session, status: Status, told: Sequence[tuple[UUID, str | None, Decimal | None]]
) -> list[None]:
    columns = _columns(("order_id", "reason", "total"), told)
    session.execute(_NOTE, {"each_order_id": columns["each_order_id"], "as": status, "at_": datetime.now(UTC)})
    session.execute(_MOVE_ORDERS, {"as": status, **columns})
    return [None] * len(told)


def _columns(names: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, list[object]]:
    return {f"each_{name}": list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
