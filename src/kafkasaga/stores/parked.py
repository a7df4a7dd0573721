"""Parked messages: kept with their bytes, tried again later, in the order of their lane (invariants I4 and I13)."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Select, and_, bindparam, delete, exists, select, update

from kafkasaga.messages import Record
from kafkasaga.ports import Parked, ParkedKey, ParkedStatus
from kafkasaga.stores.bulk import Sql, insert, types

_COLUMNS: Final = (
    "consumer",
    "topic",
    "key",
    "kafka_partition",
    "kafka_offset",
    "value",
    "headers",
    "message_id",
    "source",
    "error",
    "status",
    "attempts",
    "next_at",
    "parked_at",
)


class ParkedMessages:
    """Statements on parked messages."""

    def __init__(self, sql: Sql) -> None:
        table = sql.tables.parked_message
        lane = types(table, *ParkedKey._fields)
        self._table = table
        self._lanes = sql.bulk(
            """SELECT r.consumer, r.topic, r.key FROM r WHERE EXISTS (SELECT 1 FROM {parked_message} AS t
            WHERE t.consumer = r.consumer AND t.topic = r.topic AND t.key = r.key)""",
            lane,
            returns=lane,
        )
        self._park = sql.bulk(insert("parked_message", _COLUMNS), types(table, *_COLUMNS))
        self._head = self._due_head()

    def lanes(self, connection: Connection, lanes: Collection[ParkedKey]) -> set[ParkedKey]:
        """Those of ``lanes`` in which something is parked."""
        found = self._lanes.rows(connection, sorted(set(lanes)))
        return {ParkedKey(consumer, topic, key) for consumer, topic, key in found}

    def park(self, connection: Connection, messages: Sequence[Parked]) -> None:
        """Keep messages, in this order."""
        self._park.count(connection, [_row(message) for message in messages])

    def claim(self, connection: Connection, now: datetime) -> Parked | None:
        """Lock and read a message that is due, the head of its lane, and not held by anybody else."""
        row = connection.execute(self._head, {"now": now}).mappings().first()
        return None if row is None else parked_of(row)

    def unpark(self, connection: Connection, id: int) -> None:
        """Delete a parked message."""
        connection.execute(delete(self._table).where(self._table.c.id == id))

    def repark(
        self, connection: Connection, id: int, *, error: str, status: ParkedStatus, attempts: int, next_at: datetime
    ) -> None:
        """Keep a parked message for another time."""
        noted = {"error": _storable(error), "status": status.value, "attempts": attempts, "next_at": next_at}
        connection.execute(update(self._table).where(self._table.c.id == id).values(noted))

    def _due_head(self) -> Select[Any]:
        """The head of a lane is computed without regard to locks, and only it is try-locked.

        While a replica holds a head, the second message of the lane is therefore no candidate of another one: the head
        still exists in every other snapshot. A head that vanishes between snapshot and lock is skipped by the database.
        """
        parked = self._table
        earlier = parked.alias("earlier")
        in_front = and_(
            earlier.c.consumer == parked.c.consumer,
            earlier.c.topic == parked.c.topic,
            earlier.c.key == parked.c.key,  # never true without a key: such a message has no lane
            earlier.c.id < parked.c.id,
        )
        return (
            select(parked)
            .where(
                parked.c.status == ParkedStatus.WAITING.value,
                parked.c.next_at <= bindparam("now", type_=parked.c.next_at.type),
                ~exists().where(in_front),
            )
            .order_by(parked.c.next_at, parked.c.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=parked)
        )


def parked_of(row: RowMapping) -> Parked:
    """A row of the table as a value."""
    headers: dict[str, str] = json.loads(row["headers"])
    return Parked(
        consumer=row["consumer"],
        record=Record(
            topic=row["topic"],
            partition=row["kafka_partition"],
            offset=row["kafka_offset"],
            key=row["key"],
            value=row["value"],
            headers={name: value.encode("latin-1") for name, value in headers.items()},
        ),
        message_id=row["message_id"],
        source=row["source"],
        error=row["error"],
        status=ParkedStatus(row["status"]),
        attempts=row["attempts"],
        next_at=row["next_at"],
        parked_at=row["parked_at"],
        id=row["id"],
    )


def _row(message: Parked) -> tuple[Any, ...]:
    record = message.record
    # Latin-1 maps every byte to one character and back: a header is kept whatever its bytes are.
    headers = {name: value.decode("latin-1") for name, value in record.headers.items()}
    return (
        message.consumer,
        record.topic,
        record.key,
        record.partition,
        record.offset,
        record.value,
        json.dumps(headers),
        message.message_id,
        message.source,
        _storable(message.error),
        message.status.value,
        message.attempts,
        message.next_at,
        message.parked_at,
    )


def _storable(text: str) -> str:
    """Without NUL characters: PostgreSQL refuses them, and parking a message must not fail over its error's text."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
