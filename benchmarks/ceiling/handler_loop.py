"""A loop by hand around the user's Python handler: for a team that wants neither a library nor its handlers in SQL.

The same handler as the library calls, one session a batch, the same tables as the other ceiling; claiming, answering
and moving offsets are bulk statements.

    python -m benchmarks.ceiling.handler_loop DSN BOOTSTRAP_SERVERS
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Message
from sqlalchemy import Connection, create_engine
from sqlalchemy.orm import Session

from benchmarks.ceiling.batches import MOVE_OFFSETS, Batches, headers_of
from benchmarks.ceiling.connections import SEPARATOR, array, connect, until_told
from benchmarks.ceiling.ledger import COMMANDS, GROUP, REPLIES, ids
from benchmarks.ours.ledger import Book, Booked, book

LIMIT = 200
"""As many as the library takes by default."""
_CLAIM = """
INSERT INTO inbox (consumer, source, id)
SELECT 'ledger', s, i FROM unnest(string_to_array(%(sources)s, E'\\x1f'), %(ids)s::uuid[]) AS m(s, i)
ON CONFLICT DO NOTHING RETURNING id::text
"""
_GUARD = """
INSERT INTO barrier
SELECT saga, step, generation, 'action', 'done', convert_to(reply, 'UTF8') FROM unnest(
    %(sagas)s::uuid[], string_to_array(%(steps)s, E'\\x1f'), %(generations)s::int[],
    string_to_array(%(replies)s, E'\\x1f')
) AS m(saga, step, generation, reply)
"""
_ANSWER = f"""
WITH {MOVE_OFFSETS}
INSERT INTO outbox (id, topic, key, type, payload, headers)
SELECT id, '{REPLIES}', key, '{REPLIES}', reply, headers FROM unnest(
    %(reply_ids)s::uuid[], string_to_array(%(keys)s, E'\\x1f'), string_to_array(%(replies)s, E'\\x1f'),
    string_to_array(%(headers)s, E'\\x1f')
) AS m(id, key, reply, headers)
"""  # noqa: S608 (our own texts)

Headers = dict[str, str]


def handle(connection: Connection, batch: list[Message], positions: dict[str, str]) -> None:
    """One transaction."""
    read = [({name: value.decode() for name, value in headers_of(m).items()}, m.value()) for m in batch]
    claimed = {
        "sources": SEPARATOR.join(h["ce_source"] for h, _ in read),
        "ids": array([h["ce_id"] for h, _ in read]),
    }
    fresh = {id for (id,) in connection.exec_driver_sql(_CLAIM, claimed)}
    answered: list[tuple[Headers, Booked]] = []
    with Session(connection) as session:
        for headers, value in read:
            if headers["ce_id"] in fresh:
                fresh.discard(headers["ce_id"])
                answered.append((headers, book(Book.model_validate_json(value or b""), session)))
        session.flush()
        given = _columns(answered) | positions
        if answered:
            connection.exec_driver_sql(_GUARD, given)
        connection.exec_driver_sql(_ANSWER, given)


def _columns(answered: Sequence[tuple[Headers, Booked]]) -> dict[str, Any]:
    return {
        "sagas": array([h["ce_sagaid"] for h, _ in answered]),
        "steps": SEPARATOR.join(h["ce_sagastep"] for h, _ in answered),
        "generations": array([h["ce_sagageneration"] for h, _ in answered]),
        "replies": SEPARATOR.join(reply.model_dump_json() for _, reply in answered),
        "reply_ids": array([ids.take() for _ in answered]),
        "keys": SEPARATOR.join(reply.account for _, reply in answered),
        "headers": SEPARATOR.join(_echo(h) for h, _ in answered),
    }


def _echo(headers: Headers) -> str:
    saga = [f"{name}={value}" for name, value in headers.items() if name.startswith("ce_saga")]
    return "\n".join([*saga, f"ce_sagacommandid={headers['ce_id']}"])


def main(dsn: str, bootstrap_servers: str) -> None:
    stopping = until_told()
    engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    batches = Batches(bootstrap_servers, GROUP, [COMMANDS], connect(dsn))
    with engine.connect() as connection:
        for batch in batches.read(stopping, limit=LIMIT):
            with connection.begin():
                handle(connection, batch, batches.positions(batch))


if __name__ == "__main__":
    main(*sys.argv[1:])
