"""Parked messages: kept with their bytes, tried again later, in the order of their lane (invariants I4 and I13)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    FromClause,
    RowMapping,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from kafkasaga.messages import Operation, Record
from kafkasaga.ports import (
    LONGEST_LANE,
    UNMATCHED,
    BarrierKey,
    InboxKey,
    Parked,
    ParkedKey,
    ParkedStatus,
    TopicPartition,
)
from kafkasaga.stores.bulk import Sql, types

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
    "deaths",
    "next_at",
    "parked_at",
    "saga_id",
    "step_path",
    "generation",
    "op",
)
_REST_OF_KEY: Final = "\0key"
"""Among the headers: what of a long key has no room in the lane's index. No header of Kafka's begins with NUL."""
LONGEST_ERROR: Final = 32_768
"""Characters of an error that are kept with its message."""
# Written out and not bound: a database does not use a partial index for a condition that is a parameter.
_WAITING: Final[ColumnElement[str]] = literal_column(f"'{ParkedStatus.WAITING.value}'")
_DEAD: Final[ColumnElement[str]] = literal_column(f"'{ParkedStatus.DEAD.value}'")
_DEAD_LETTER: Final[ColumnElement[str]] = literal_column(f"'{ParkedStatus.DEAD_LETTER.value}'")


class ParkedMessages:
    """Statements on parked messages."""

    def __init__(self, sql: Sql) -> None:
        table = sql.tables.parked_message
        lane = types(table, *ParkedKey._fields)
        self._table = table
        self._lanes = sql.bulk(
            """SELECT r.consumer, r.topic, r.key FROM r WHERE EXISTS (SELECT 1 FROM {parked_message} AS t
            WHERE t.consumer = r.consumer AND t.topic = r.topic AND t.key = r.key AND t.status != 'dead-letter')""",
            lane,
            returns=lane,
        )
        names = ", ".join(_COLUMNS)
        self._park = sql.bulk(
            f"""INSERT INTO {{parked_message}} ({names}, dead_at) SELECT {names},
            CASE WHEN r.status = 'dead-letter' THEN CURRENT_TIMESTAMP END FROM r WHERE true""",  # noqa: S608 (our own)
            types(table, *_COLUMNS),
        )
        is_any = "SELECT 1 FROM {parked_message} WHERE status != 'dead-letter' LIMIT 1"
        self._any = sql.plain(is_any, otherwise=is_any)
        self._head = self._due_head()
        self._next = self._next_of_lane()

    def lanes(self, connection: Connection, lanes: Collection[ParkedKey]) -> set[ParkedKey]:
        """Those of ``lanes`` in which something is parked."""
        found = self._lanes.rows(connection, sorted(set(lanes)))
        return {ParkedKey(consumer, topic, key) for consumer, topic, key in found}

    def ask_any(self, connection: Connection) -> Callable[[], bool]:
        """Whether anything is parked at all, answered later."""
        answer = self._any.ask(connection)
        return lambda: bool(answer())

    def park(self, connection: Connection, messages: Sequence[Parked]) -> None:
        """Keep messages, in this order."""
        self._park.count(connection, [tuple(parked_row(message).values()) for message in messages])

    def claim(self, connection: Connection, now: datetime) -> Parked | None:
        """Lock and read a message that is due, the head of its lane, and not held by anybody else."""
        row = connection.execute(self._head, {"now": now}).mappings().first()
        return None if row is None else parked_of(row)

    def lock(self, connection: Connection, id: int, attempts: int) -> bool:
        """Lock a parked message that was not tried since, and waits.

        It waits for a lock: another replica that looks for a head may hold the row for a moment without taking it
        (PostgreSQL locks a row before it sees that it is not due any more). Who does take it changes its attempts.
        """
        mine = select(self._table.c.id).where(self._table.c.id == id, self._table.c.attempts == attempts)
        held = mine.where(self._table.c.status == _WAITING).with_for_update()
        return connection.scalar(held) is not None

    def ids(self, connection: Connection, topic: str, keys: Collection[InboxKey]) -> dict[InboxKey, int]:
        """Those of these messages that are parked."""
        parked = self._table.c
        wanted = sorted(set(keys))
        query = select(parked.consumer, parked.source, parked.message_id, parked.id).where(
            parked.consumer.in_([key.consumer for key in wanted]),
            parked.topic == topic,
            parked.message_id.in_([key.message_id for key in wanted]),
        )
        rows = connection.execute(query)
        found = {InboxKey(consumer, source, message_id): id for consumer, source, message_id, id in rows}
        return {key: found[key] for key in wanted if key in found}

    def unpark(self, connection: Connection, id: int) -> None:
        """Delete a parked message; the next of its lane becomes due."""
        self.promote(connection, id)
        connection.execute(delete(self._table).where(self._table.c.id == id))

    def repark(self, connection: Connection, id: int, noted: Mapping[str, Any]) -> None:
        """Keep a parked message for another time; a dead letter lets its lane go on."""
        values = {**noted, "error": _storable(noted["error"]), "status": noted["status"].value}
        if noted["status"] is ParkedStatus.DEAD_LETTER:
            values["dead_at"] = func.current_timestamp()
        connection.execute(update(self._table).where(self._table.c.id == id).values(values))
        if noted["status"] is ParkedStatus.DEAD_LETTER:
            self.promote(connection, id)

    def promote(self, connection: Connection, id: int) -> None:
        """Make the first of the lane due, as if ``id`` were not there: since when it was parked, so at once."""
        due = self._table.c.parked_at
        connection.execute(self._next.values(next_at=due), {"gone": id})

    def free_lanes(self, connection: Connection) -> int:
        """Make messages due that nothing is before any more."""
        parked = self._table
        orphaned = (parked.c.status == _WAITING, parked.c.next_at.is_(None), ~exists().where(self._in_front(parked)))
        return connection.execute(update(parked).where(*orphaned).values(next_at=parked.c.parked_at)).rowcount

    def counts(self, connection: Connection, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """How many messages of each partition wait, dead ones too."""
        parked = self._table.c
        place = (parked.topic, parked.kafka_partition)
        topics = sorted({place.topic for place in partitions})
        query = select(*place, func.count()).where(parked.status != _DEAD_LETTER, parked.topic.in_(topics))
        found = {TopicPartition(topic, n): count for topic, n, count in connection.execute(query.group_by(*place))}
        return {place: found.get(place, 0) for place in partitions}

    def _next_of_lane(self) -> Any:
        parked = self._table
        gone: BindParameter[int] = bindparam("gone", type_=parked.c.id.type)
        other = parked.alias("other")
        lane = [
            other.c[name] == select(parked.c[name]).where(parked.c.id == gone).scalar_subquery().correlate(None)
            for name in ParkedKey._fields
        ]
        first = (
            select(other.c.id)
            .where(*lane, other.c.id != gone, other.c.status != _DEAD_LETTER)
            .order_by(other.c.id)
            .limit(1)
            .scalar_subquery()
        )
        return update(parked).where(parked.c.id == first, parked.c.status == _WAITING, parked.c.next_at.is_(None))

    def _in_front(self, parked: FromClause) -> ColumnElement[bool]:
        earlier = self._table.alias("earlier")
        return and_(
            earlier.c.consumer == parked.c.consumer,
            earlier.c.topic == parked.c.topic,
            earlier.c.key == parked.c.key,  # never true without a key: such a message has no lane
            earlier.c.id < parked.c.id,
            earlier.c.status != _DEAD_LETTER,
            or_(earlier.c.status != _DEAD, ~earlier.c.consumer.endswith(UNMATCHED)),  # as ``Parked.holds``
        )

    def _due_head(self) -> Select[Any]:
        """The head of a lane is computed without regard to locks, and only it is try-locked.

        While a replica holds a head, the second message of the lane is therefore no candidate of another one: the head
        still exists in every other snapshot. A head that vanishes between snapshot and lock is skipped by the database.
        """
        parked = self._table
        return (
            select(parked)
            .where(
                parked.c.status == _WAITING,
                parked.c.next_at <= bindparam("now", type_=parked.c.next_at.type),
                ~exists().where(self._in_front(parked)),
            )
            .order_by(parked.c.next_at, parked.c.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=parked)
        )


def parked_of(row: RowMapping) -> Parked:
    """A row of the table as a value."""
    headers: dict[str, str] = json.loads(row["headers"])
    rest = headers.pop(_REST_OF_KEY, None)
    return Parked(
        consumer=row["consumer"],
        record=Record(
            topic=row["topic"],
            partition=row["kafka_partition"],
            offset=row["kafka_offset"],
            key=row["key"] if rest is None else row["key"] + rest.encode("latin-1"),
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
        deaths=row["deaths"],
        asks=_asks(row),
        id=row["id"],
    )


def _asks(row: RowMapping) -> BarrierKey | None:
    if row["saga_id"] is None:
        return None
    return BarrierKey(row["saga_id"], row["step_path"], row["generation"], Operation(row["op"]))


def parked_row(message: Parked) -> dict[str, Any]:
    """A parked message as columns and their values."""
    record = message.record
    # Latin-1 maps every byte to one character and back: a header is kept whatever its bytes are.
    headers = {name: value.decode("latin-1") for name, value in record.headers.items()}
    if record.key is not None and len(record.key) > LONGEST_LANE:
        headers[_REST_OF_KEY] = record.key[LONGEST_LANE:].decode("latin-1")
    values = (
        message.consumer,
        record.topic,
        None if record.key is None else record.key[:LONGEST_LANE],
        record.partition,
        record.offset,
        record.value,
        json.dumps(headers),
        message.message_id,
        message.source,
        _storable(message.error),
        message.status.value,
        message.attempts,
        message.deaths,
        message.next_at,
        message.parked_at,
        *(message.asks or (None,) * 4),
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _storable(text: str) -> str:
    """As any database takes it: parking a message must not fail over its error's text.

    PostgreSQL refuses NUL characters, and no encoding has the halves of surrogate pairs that Python makes of bytes that
    are not text. The end of a long text says what was wrong.
    """
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= LONGEST_ERROR else f"…{text[-LONGEST_ERROR:]}"
