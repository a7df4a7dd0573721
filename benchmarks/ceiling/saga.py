"""The order saga by hand: four services, each a consumer whose batch is one statement, each with a relay of its own.

The same topics, messages and business tables as the order system. What it does without: a saga log, a barrier,
deadlines and their timers, parked messages, more than one line an order, anything but the two flows that are measured.
A command's reply is found by the order it belongs to, and a declined payment releases the reservation without asking
for a refund first.

    python -m benchmarks.ceiling.saga ROLE DSN BOOTSTRAP_SERVERS [consumer]
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Message
from psycopg.errors import UniqueViolation

from benchmarks.ceiling.batches import MOVE_OFFSETS, OFFSETS, Batches, headers_of
from benchmarks.ceiling.connections import SEPARATOR, array, connect, until_told
from benchmarks.ceiling.ledger import ids
from benchmarks.ceiling.relay import LONGEST_IDLE, TABLE, Relay

Row = tuple[Any, ...]

TABLES = f"""
CREATE TABLE inbox (source text, id uuid, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (source, id));
{TABLE};
{OFFSETS};
CREATE TABLE saga (
    order_id uuid PRIMARY KEY, step int NOT NULL, payment text NOT NULL, updated timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);
"""
_OPTIMISTIC = """
    claimed AS (INSERT INTO inbox (source, id) SELECT source, id FROM m),
    x AS NOT MATERIALIZED (SELECT * FROM m),
"""
_CAREFUL = """
    claimed AS (INSERT INTO inbox (source, id) SELECT source, id FROM m ON CONFLICT DO NOTHING RETURNING source, id),
    x AS MATERIALIZED (
        SELECT DISTINCT ON (m.source, m.id) m.* FROM claimed JOIN m USING (source, id) ORDER BY m.source, m.id
    ),
"""
_SEND = "INSERT INTO outbox (id, topic, key, type, payload)"


@dataclass(frozen=True, slots=True)
class Role:
    """One service: what it reads, what it takes from a message, and what it does to the database."""

    topics: tuple[str, ...]
    columns: dict[str, str]
    """Name and type of what ``row`` returns, behind the message's id and source."""
    row: Callable[[str, bytes], Row]
    effects: str
    """The rest of the statement: it reads ``x``, the messages that are new."""


def _orchestrate(topic: str, value: bytes) -> Row:
    """For a start: the command's body, and what the payment will need. For a reply: from where it leads to where."""
    message = orjson.loads(value)
    order = message["order_id"]
    if topic == "order.created":
        payment = f'"customer_id":"{message["customer_id"]}","amount":"{message["total"]}"'
        lines = orjson.dumps(message["lines"]).decode()
        body = f'{{"order_id":"{order}","lines":{lines}}}'
        return order, 0, 1, "inventory.reserve.request", body, payment, ids.take()
    before, after, next_topic = _STEPS[topic]
    reason = f',"reason":"{message["reason"]}"' if topic in ("payment.failed", "inventory.failed") else ""
    if next_topic == "order.cancelled":
        reason = reason or ',"reason":"card declined"'
    elif next_topic == "inventory.release":
        reason = ""
    return order, before, after, next_topic, f'{{"order_id":"{order}"{reason}}}', "", ids.take()


_STEPS = {
    "inventory.reserved": (1, 2, "payment.process"),
    "inventory.failed": (1, 101, "order.cancelled"),
    "payment.succeeded": (2, 100, "order.completed"),
    "payment.failed": (2, 3, "inventory.release"),
    "inventory.released": (3, 101, "order.cancelled"),
}
ORCHESTRATOR = Role(
    ("order.created", *_STEPS),
    {
        "order_id": "uuid",
        "before": "int",
        "after": "int",
        "topic": "text",
        "body": "text",
        "payment": "text",
        "reply_id": "uuid",
    },
    _orchestrate,
    f"""
    begun AS (
        INSERT INTO saga (order_id, step, payment) SELECT order_id, after, payment FROM x WHERE before = 0
        ON CONFLICT DO NOTHING RETURNING order_id
    ),
    moved_on AS (
        UPDATE saga AS s SET step = x.after, updated = now() FROM x
        WHERE x.before > 0 AND s.order_id = x.order_id AND s.step = x.before
        RETURNING x.reply_id, x.topic, s.order_id, x.body, s.payment
    ),
    sent AS (
        {_SEND}
        SELECT reply_id, topic, order_id::text, topic, body FROM begun JOIN x USING (order_id) WHERE x.before = 0
        UNION ALL
        SELECT reply_id, topic, order_id::text, topic,
            CASE topic WHEN 'payment.process' THEN '{{"order_id":"' || order_id || '",' || payment || '}}'
                ELSE body END
        FROM moved_on
    ),
    """,  # noqa: S608 (our own texts)
)


def _stock(topic: str, value: bytes) -> Row:
    message = orjson.loads(value)
    line = message["lines"][0] if topic == "inventory.reserve.request" else {"sku": "", "quantity": 0}
    reply, held = _HELD[topic]
    return message["order_id"], line["sku"], line["quantity"], held, reply, ids.take()


_HELD = {
    "inventory.reserve.request": ("inventory.reserved", "RESERVED"),
    "inventory.release": ("inventory.released", "RELEASED"),
    "order.completed": ("", "SOLD"),
}
INVENTORY = Role(
    tuple(_HELD),
    {"order_id": "uuid", "sku": "text", "quantity": "int", "held": "text", "reply": "text", "reply_id": "uuid"},
    _stock,
    f"""
    reserved AS (
        INSERT INTO reservation (order_id, sku, quantity, status)
        SELECT order_id, sku, quantity, 'RESERVED' FROM x WHERE held = 'RESERVED'
    ),
    ended AS (
        UPDATE reservation AS r SET status = x.held::held FROM x
        WHERE x.held <> 'RESERVED' AND r.order_id = x.order_id AND r.status = 'RESERVED'
        RETURNING r.sku, r.quantity, x.held
    ),
    counted AS (
        UPDATE stock AS s SET available = available + d.a, reserved = reserved + d.r, sold = sold + d.s FROM (
            SELECT sku,
                sum(CASE held WHEN 'RESERVED' THEN -quantity WHEN 'RELEASED' THEN quantity ELSE 0 END)::int AS a,
                sum(CASE held WHEN 'RESERVED' THEN quantity ELSE -quantity END)::int AS r,
                sum(CASE held WHEN 'SOLD' THEN quantity ELSE 0 END)::int AS s
            FROM (SELECT sku, quantity, held FROM x WHERE held = 'RESERVED' UNION ALL SELECT * FROM ended) AS moves
            GROUP BY sku ORDER BY sku
        ) AS d WHERE s.sku = d.sku
    ),
    sent AS (
        {_SEND} SELECT reply_id, reply, order_id::text, reply, '{{"order_id":"' || order_id || '"}}'
        FROM x WHERE reply <> ''
    ),
    """,  # noqa: S608 (our own texts)
)


def _payment(_: str, value: bytes) -> Row:
    message = orjson.loads(value)
    return message["order_id"], message["customer_id"], message["amount"], ids.take()


PAYMENT = Role(
    ("payment.process",),
    {"order_id": "uuid", "customer_id": "text", "amount": "numeric", "reply_id": "uuid"},
    _payment,
    f"""
    judged AS MATERIALIZED (
        SELECT x.*, coalesce(x.amount <= c."limit", false) AS good FROM x LEFT JOIN card AS c USING (customer_id)
    ),
    charged AS (
        INSERT INTO charge (order_id, customer_id, amount) SELECT order_id, customer_id, amount FROM judged WHERE good
    ),
    sent AS (
        {_SEND} SELECT reply_id, reply, order_id::text, reply, body FROM (
            SELECT reply_id, order_id, CASE WHEN good THEN 'payment.succeeded' ELSE 'payment.failed' END AS reply,
                '{{"order_id":"' || order_id || '"'
                    || CASE WHEN good THEN '}}' ELSE ',"reason":"card declined"}}' END AS body
            FROM judged
        ) AS answers
    ),
    """,  # noqa: S608 (our own texts)
)


def _order(topic: str, value: bytes) -> Row:
    message = orjson.loads(value)
    status = _STATUS[topic]
    return message["order_id"], status, message.get("total", "0"), message.get("reason", "")


_STATUS = {"order.created": "CREATED", "order.completed": "COMPLETED", "order.cancelled": "CANCELLED"}
ORDER = Role(
    tuple(_STATUS),
    {"order_id": "uuid", "status": "text", "total": "numeric", "reason": "text"},
    _order,
    """
    noted AS (INSERT INTO order_history (order_id, status, at) SELECT order_id, status::status, now() FROM x),
    changed AS (
        UPDATE customer_order AS o SET
            status = greatest(o.status, d.status), total = coalesce(d.total, o.total),
            reason = coalesce(d.reason, o.reason)
        FROM (
            SELECT order_id, max(status::status) AS status, max(nullif(total, 0)) AS total,
                max(nullif(reason, '')) AS reason
            FROM x GROUP BY order_id
        ) AS d WHERE o.id = d.order_id
    ),
    """,
)
ROLES = {"orchestrator": ORCHESTRATOR, "inventory": INVENTORY, "payment": PAYMENT, "order": ORDER}


def statement(role: Role, claim: str) -> bytes:
    """One statement for a whole batch."""
    columns = {"id": "uuid", "source": "text", **role.columns}
    arrays = ", ".join(
        f"string_to_array(%({name})s, E'\\x1f')" if type == "text" else f"%({name})s::{type}[]"
        for name, type in columns.items()
    )
    messages = f"m AS MATERIALIZED (SELECT * FROM unnest({arrays}) AS m({', '.join(columns)}))"  # noqa: S608
    return f"WITH {messages}, {claim} {role.effects} {MOVE_OFFSETS} SELECT count(*) FROM m".encode()  # noqa: S608


def parameters(role: Role, batch: Sequence[Message]) -> dict[str, str]:
    """The columns of a batch, each one parameter."""
    rows: list[Row] = []
    for message in batch:
        header, topic, value = headers_of(message), message.topic() or "", message.value() or b""
        rows.append((header["ce_id"].decode(), header["ce_source"].decode(), *role.row(topic, value)))
    types = ("uuid", "text", *role.columns.values())
    names = ("id", "source", *role.columns)
    return {
        name: SEPARATOR.join(values) if type == "text" else array(values)
        for name, type, values in zip(names, types, zip(*rows, strict=True), strict=True)
    }


def consume(name: str, dsn: str, bootstrap_servers: str, stopping: threading.Event, committed: threading.Event) -> None:
    """Batches, until ``stopping``; the relay hears of each."""
    role = ROLES[name]
    quick, careful = statement(role, _OPTIMISTIC), statement(role, _CAREFUL)
    database = connect(dsn)
    batches = Batches(bootstrap_servers, name, list(role.topics), database)
    for batch in batches.read(stopping):
        given = parameters(role, batch) | batches.positions(batch)
        try:
            database.execute(quick, given)
        except UniqueViolation:
            database.execute(careful, given)
        committed.set()


def main(name: str, dsn: str, bootstrap_servers: str, *flags: str) -> None:
    stopping, committed = until_told(), threading.Event()

    def idle() -> None:
        committed.wait(LONGEST_IDLE)
        committed.clear()

    relay = Relay(dsn, bootstrap_servers, name)
    thread = threading.Thread(target=relay.run, args=(stopping, idle), daemon=True)
    if "consumer" not in flags:
        thread.start()
    consume(name, dsn, bootstrap_servers, stopping, committed)


if __name__ == "__main__":
    main(*sys.argv[1:])
