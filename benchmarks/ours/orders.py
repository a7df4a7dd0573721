"""The order system's participants with batch handlers: the same tables, messages and outcomes, in bulk SQL.

Each function does for many messages what its namesake in ``kafkasaga.examples.order_system`` does for one, in one
statement, or two where Python decides. Statements take arrays, so their texts are the same for any number of messages:
compiled once, prepared once. Stock is always locked in the order of its sku: two batches cannot deadlock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

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
from kafkasaga.examples.order_system.inventory import Held
from kafkasaga.examples.order_system.order import Status

inventory, payment, order = Service("inventory"), Service("payment"), Service("order")
Counts = Mapping[str, int]

# ---- inventory ----------------------------------------------------------------------------------------------------

_LOCK = text("SELECT sku, available FROM stock WHERE sku = ANY(:skus) ORDER BY sku FOR UPDATE")
_RESERVE = text("""
    WITH r AS (
        SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:skus AS text[]), CAST(:quantities AS int[]))
        AS r(order_id, sku, quantity)
    ),
    held AS (
        INSERT INTO reservation (order_id, sku, quantity, status) SELECT order_id, sku, quantity, 'RESERVED' FROM r
    )
    UPDATE stock AS s SET available = s.available - taken.number, reserved = s.reserved + taken.number
    FROM (SELECT sku, sum(quantity) AS number FROM r GROUP BY sku) AS taken WHERE s.sku = taken.sku
""")
_END = text("""
    WITH ended AS (
        UPDATE reservation SET status = CAST(:how AS held)
        WHERE order_id = ANY(:order_ids) AND status = 'RESERVED' RETURNING sku, quantity
    ),
    freed AS MATERIALIZED (
        SELECT s.sku, e.number FROM (SELECT sku, sum(quantity) AS number FROM ended GROUP BY sku) AS e
        JOIN stock AS s USING (sku) ORDER BY s.sku FOR UPDATE OF s
    )
    UPDATE stock AS s SET
        reserved = s.reserved - freed.number,
        available = s.available + CASE :how WHEN 'RELEASED' THEN freed.number ELSE 0 END,
        sold = s.sold + CASE :how WHEN 'SOLD' THEN freed.number ELSE 0 END
    FROM freed WHERE s.sku = freed.sku
""")


@inventory.batch_handler
def reserve(commands: list[ReserveInventory], session: Session) -> list[InventoryReserved | InventoryFailed]:
    skus = {line.sku for command in commands for line in command.lines}
    left = {row.sku: row.available for row in session.execute(_LOCK, {"skus": list(skus)})}
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
        session.execute(_RESERVE, _columns(("order_ids", "skus", "quantities"), held))
    return answers


@inventory.batch_handler
def release(commands: list[ReleaseInventory], session: Session) -> list[InventoryReleased]:
    session.execute(_END, {"order_ids": [command.order_id for command in commands], "how": Held.RELEASED.name})
    return [InventoryReleased(order_id=command.order_id) for command in commands]


@inventory.batch_handler
def sell(events: list[OrderCompleted], session: Session) -> list[None]:
    session.execute(_END, {"order_ids": [event.order_id for event in events], "how": Held.SOLD.name})
    return [None] * len(events)


def _short(lines: Lines, left: Counts, taken: Counts) -> list[str]:
    return sorted(line.sku for line in lines if left.get(line.sku, 0) - taken.get(line.sku, 0) < line.quantity)


# ---- payment ------------------------------------------------------------------------------------------------------

_LIMITS = text('SELECT customer_id, "limit" FROM card WHERE customer_id = ANY(:customers)')
_CHARGE = text("""
    INSERT INTO charge (order_id, customer_id, amount)
    SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:customers AS text[]), CAST(:amounts AS numeric[]))
""")
_REFUND = text("""
    INSERT INTO refund (order_id, amount) SELECT order_id, amount FROM charge WHERE order_id = ANY(:order_ids)
""")


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
        session.execute(_CHARGE, _columns(("order_ids", "customers", "amounts"), charged))
    return answers


@payment.batch_handler
def refund(commands: list[RefundPayment], session: Session) -> list[PaymentRefunded]:
    session.execute(_REFUND, {"order_ids": [command.order_id for command in commands]})
    return [PaymentRefunded(order_id=command.order_id) for command in commands]


# ---- order --------------------------------------------------------------------------------------------------------

_MOVE = text("""
    WITH told AS (
        SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:reasons AS text[]), CAST(:totals AS numeric[]))
        AS told(order_id, reason, total)
    ),
    noted AS (
        INSERT INTO order_history (order_id, status, at) SELECT order_id, CAST(:status AS status), :at FROM told
    )
    UPDATE customer_order AS o SET
        status = CASE WHEN o.status = ANY(ended) THEN o.status ELSE CAST(:status AS status) END,
        reason = CASE WHEN o.status = ANY(ended) THEN o.reason ELSE told.reason END,
        total = coalesce(told.total, o.total)
    FROM told, (SELECT CAST('{REJECTED,COMPLETED,CANCELLED}' AS status[]) AS ended) AS which
    WHERE o.id = told.order_id
""")


@order.batch_handler
def created(events: list[OrderCreated], session: Session) -> list[None]:
    return _move(session, Status.CREATED, [(event.order_id, None, event.total) for event in events])


@order.batch_handler
def completed(events: list[OrderCompleted], session: Session) -> list[None]:
    return _move(session, Status.COMPLETED, [(event.order_id, None, None) for event in events])


@order.batch_handler
def cancelled(events: list[OrderCancelled], session: Session) -> list[None]:
    return _move(session, Status.CANCELLED, [(event.order_id, event.reason, None) for event in events])


def _move(session: Session, status: Status, told: Sequence[tuple[UUID, str | None, Decimal | None]]) -> list[None]:
    columns = _columns(("order_ids", "reasons", "totals"), told)
    session.execute(_MOVE, {"status": status.name, "at": datetime.now(UTC), **columns})
    return [None] * len(told)


def _columns(names: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, list[object]]:
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
