"""The participant, by hand: a batch is one data-modifying statement.

It does what the library does for the same commands: the inbox recognises a message that came before, the barrier a
command that was carried out before (and gives its first reply again), a business row is written, the reply lies in the
outbox, and the offsets move, all in one transaction. It is optimistic: the first statement assumes that nothing of the
batch is known; a unique violation undoes it, and the second one sorts out what is new.

    python -m benchmarks.ceiling.ledger DSN BOOTSTRAP_SERVERS
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import orjson
from confluent_kafka import Message
from psycopg.errors import UniqueViolation

from benchmarks.ceiling.batches import MOVE_OFFSETS, OFFSETS, Batches, headers_of
from benchmarks.ceiling.connections import SEPARATOR, array, connect, until_told

GROUP, COMMANDS, REPLIES = "ledger", "bench.book", "bench.booked"
TABLES = f"""
CREATE TABLE inbox (
    consumer text, source text, id uuid, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (consumer, source, id)
);
CREATE TABLE barrier (
    saga uuid, step text, generation int, operation text, outcome text NOT NULL, reply bytea,
    PRIMARY KEY (saga, step, generation, operation)
);
CREATE TABLE ledger ("order" bigint PRIMARY KEY, account text NOT NULL, amount bigint NOT NULL);
CREATE TABLE outbox (
    seq bigserial PRIMARY KEY, id uuid NOT NULL, topic text NOT NULL, key text NOT NULL, type text NOT NULL,
    payload text NOT NULL, headers text NOT NULL, created timestamptz NOT NULL DEFAULT now()
);
{OFFSETS}
"""
_COMMANDS = """
WITH m AS MATERIALIZED (
    SELECT * FROM unnest(
        %(ids)s::uuid[], string_to_array(%(sources)s, E'\\x1f'), %(sagas)s::uuid[],
        string_to_array(%(steps)s, E'\\x1f'), %(generations)s::int[], %(orders)s::bigint[],
        string_to_array(%(accounts)s, E'\\x1f'), %(amounts)s::bigint[], %(reply_ids)s::uuid[],
        string_to_array(%(headers)s, E'\\x1f'), string_to_array(%(replies)s, E'\\x1f')
    ) WITH ORDINALITY
    AS m(id, source, saga, step, generation, "order", account, amount, reply_id, headers, reply, position)
),
"""
_OUTBOX = "INSERT INTO outbox (id, topic, key, type, payload, headers)"
_OPTIMISTIC = f"""
{_COMMANDS}
    claimed AS (INSERT INTO inbox (consumer, source, id) SELECT 'ledger', source, id FROM m),
    guarded AS (
        INSERT INTO barrier SELECT saga, step, generation, 'action', 'done', convert_to(reply, 'UTF8') FROM m
    ),
    booked AS (INSERT INTO ledger SELECT "order", account, amount FROM m),
    answered AS ({_OUTBOX} SELECT reply_id, '{REPLIES}', account, '{REPLIES}', reply, headers FROM m),
{MOVE_OFFSETS}
SELECT count(*) FROM m
"""  # noqa: S608 (our own texts)
_CAREFUL = f"""
{_COMMANDS}
    claimed AS (
        INSERT INTO inbox (consumer, source, id) SELECT 'ledger', source, id FROM m
        ON CONFLICT DO NOTHING RETURNING source, id
    ),
    fresh AS MATERIALIZED (
        SELECT DISTINCT ON (m.source, m.id) m.* FROM claimed JOIN m USING (source, id)
        ORDER BY m.source, m.id, m.position
    ),
    guarded AS (
        INSERT INTO barrier SELECT saga, step, generation, 'action', 'done', convert_to(reply, 'UTF8') FROM fresh
        ON CONFLICT DO NOTHING RETURNING saga, step, generation
    ),
    new AS MATERIALIZED (SELECT fresh.* FROM guarded JOIN fresh USING (saga, step, generation) ORDER BY position),
    booked AS (INSERT INTO ledger SELECT "order", account, amount FROM new),
    replies AS (
        SELECT reply_id, account, reply, headers, position FROM new
        UNION ALL
        SELECT reply_id, account, convert_from(b.reply, 'UTF8'), headers, position
        FROM fresh JOIN barrier AS b USING (saga, step, generation) WHERE b.operation = 'action'
    ),
    answered AS (
        {_OUTBOX} SELECT reply_id, '{REPLIES}', account, '{REPLIES}', reply, headers FROM replies ORDER BY position
    ),
{MOVE_OFFSETS}
SELECT count(*) FROM new
"""  # noqa: S608


def parameters(batch: list[Message]) -> dict[str, Any]:
    """The columns of a batch. What a saga needs to recognise the reply goes back as it came."""
    rows = [_row(message) for message in batch]
    ids, sources, sagas, steps, generations, orders, accounts, amounts, reply_ids, headers, replies = zip(
        *rows, strict=True
    )
    return {
        "ids": array(ids),
        "sources": SEPARATOR.join(sources),
        "sagas": array(sagas),
        "steps": SEPARATOR.join(steps),
        "generations": array(generations),
        "orders": array(orders),
        "accounts": SEPARATOR.join(accounts),
        "amounts": array(amounts),
        "reply_ids": array(reply_ids),
        "headers": SEPARATOR.join(headers),
        "replies": SEPARATOR.join(replies),
    }


def _row(message: Message) -> Sequence[Any]:
    header = {name: value.decode() for name, value in headers_of(message).items()}
    command = orjson.loads(message.value() or b"")
    order, account = command["order"], command["account"]
    reply = f'{{"order":{order},"account":"{account}","number":{command["number"]}}}'
    id, saga, step, generation = (
        header["ce_id"],
        header["ce_sagaid"],
        header["ce_sagastep"],
        header["ce_sagageneration"],
    )
    echo = (
        f"ce_saganame={header['ce_saganame']}\nce_sagaid={saga}\nce_sagastep={step}\n"
        f"ce_sagageneration={generation}\nce_sagaoperation=action\nce_sagacommandid={id}"
    )
    amount = command["amount"]
    return id, header["ce_source"], saga, step, generation, order, account, amount, ids.take(), echo, reply


class Ids:
    """Unique ids without asking the system for randomness each time: one prefix a process, then a counter."""

    def __init__(self) -> None:
        self._prefix, self._number = uuid4().hex[:20], 0

    def take(self) -> str:
        self._number += 1
        return f"{self._prefix}{self._number:012x}"


ids = Ids()


def main(dsn: str, bootstrap_servers: str) -> None:
    stopping = until_told()
    database = connect(dsn)
    batches = Batches(bootstrap_servers, GROUP, [COMMANDS], database)
    for batch in batches.read(stopping):
        given = parameters(batch) | batches.positions(batch)
        try:
            database.execute(_OPTIMISTIC, given)
        except UniqueViolation:
            database.execute(_CAREFUL, given)


if __name__ == "__main__":
    main(*sys.argv[1:])
