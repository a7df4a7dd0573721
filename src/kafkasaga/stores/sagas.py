"""Sagas: the snapshot, the log and the timer, written together (invariants I6 and I7)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Final
from uuid import UUID

from sqlalchemy import BigInteger, Connection, DateTime, Integer
from sqlalchemy.exc import IntegrityError

from kafkasaga.errors import SerializationConflict
from kafkasaga.ports import SagaChange
from kafkasaga.saga.events import Cancelled, CompensationBegan, StepStuck, step_of, to_body
from kafkasaga.saga.instance import Instance, SagaStatus, from_snapshot, to_snapshot
from kafkasaga.stores.bulk import Row, Sql, insert, types
from kafkasaga.stores.failures import is_taken

Timers = dict[UUID, datetime | None]
"""What the timer of each saga is, as far as a transaction knows."""

_NEW: Final = (
    "saga_id",
    "name",
    "version",
    "key",
    "incarnation",
    "status",
    "seq",
    "snapshot",
    "reason",
    "timer_at",
    "started_at",
    "updated_at",
)
_CHANGED: Final = ("saga_id", "status", "seq", "snapshot", "reason", "timer_at", "updated_at")
_NOW: Final = "CASE WHEN r.ended = 1 THEN CURRENT_TIMESTAMP END"
"""When something was logged of a saga that has ended; NULL for all others."""
_LOGGED: Final = ("saga_id", "seq", "kind", "step_path", "message_id", "body", "at")


@dataclass(frozen=True, slots=True)
class Written:
    """The rows of changed sagas."""

    new: list[Row]
    changed: list[Row]
    logged: list[Row]
    moved: list[tuple[UUID, datetime | None]]
    """Timers."""
    locked: bool
    """Whether all that were changed had been read in this transaction."""

    @classmethod
    def of(cls, changes: Sequence[SagaChange], timers: Timers) -> Written:
        """Notes the timers, too."""
        written = cls([], [], [], [], all(c.instance.id in timers for c in changes if c.before_seq))
        for id, change in _in_order(changes):
            known = timers.get(id)
            due = _timer(change, known)
            if due != known or (change.before_seq and id not in timers):
                written.moved.append((id, due))
            timers[id] = due
            if change.before_seq:
                written.changed.append(_changed_row(id, change, due))
            else:
                written.new.append(_new_row(id, change, due))
            written.logged.extend(_log_rows(id, change))
        return written


class Sagas:
    """Statements on sagas."""

    def __init__(self, sql: Sql) -> None:
        saga = sql.tables.saga
        id = types(saga, "saga_id")
        self._load = sql.bulk(
            """SELECT t.saga_id, t.snapshot, t.timer_at FROM {saga} AS t
            WHERE t.saga_id {of_r} ORDER BY t.saga_id {for_update}""",
            id,
            # Not the column's own type, which turns each time into one of UTC: it is only compared.
            returns=types(saga, "saga_id", "snapshot", timer_at=DateTime(timezone=True)),
        )
        self._current = sql.bulk(
            """SELECT found.name, found.key, found.saga_id FROM (
                SELECT r.name, r.key, (SELECT t.saga_id FROM {saga} AS t WHERE t.name = r.name AND t.key = r.key
                ORDER BY t.incarnation DESC LIMIT 1) AS saga_id FROM r
            ) AS found WHERE found.saga_id IS NOT NULL""",
            types(saga, "name", "key"),
            returns=types(saga, "name", "key", "saga_id"),
        )
        names = ", ".join(_NEW)
        begin = f"""INSERT INTO {{saga}} ({names}, ended_at, heard_at, logged_since)
            SELECT {names}, {_NOW}, {_NOW}, {_NOW} FROM r WHERE true"""  # noqa: S608 (our own text)
        self._table = saga
        self._begin = sql.bulk(begin, types(saga, *_NEW, ended=Integer()))
        self._insert = sql.bulk(f"{begin} ON CONFLICT DO NOTHING", types(saga, *_NEW, ended=Integer()))
        self._update = sql.bulk(
            f"""UPDATE {{saga}} AS t SET status = r.status, seq = r.seq, snapshot = r.snapshot,
            reason = COALESCE(r.reason, t.reason), timer_at = r.timer_at,
            updated_at = COALESCE(r.updated_at, t.updated_at),
            ended_at = COALESCE(t.ended_at, {_NOW}), heard_at = COALESCE({_NOW}, t.heard_at),
            logged_since = COALESCE(t.logged_since, {_NOW})
            FROM r WHERE t.saga_id {{of_r}} AND t.saga_id = r.saga_id AND t.seq = r.before_seq""",  # noqa: S608 (our own text)
            types(saga, *_CHANGED, ended=Integer(), before_seq=BigInteger()),
        )
        self._log = sql.bulk(insert("saga_log", _LOGGED), types(sql.tables.saga_log, *_LOGGED))
        self._set_timers = sql.bulk(
            insert("saga_timer", ("saga_id", "due_at"))
            + " ON CONFLICT (saga_id) DO UPDATE SET due_at = excluded.due_at",
            types(sql.tables.saga_timer, "saga_id", "due_at"),
        )
        self._drop_timers = sql.bulk("DELETE FROM {saga_timer} WHERE saga_id {of_r}", id)

    def ask(self, connection: Connection, ids: Collection[UUID], timers: Timers) -> Callable[[], dict[UUID, Instance]]:
        """Lock and read sagas, answered later; note their timers."""
        answer = self._load.ask(connection, [(id,) for id in sorted(set(ids), key=_BY_NUMBER)])

        def loaded() -> dict[UUID, Instance]:
            instances: dict[UUID, Instance] = {}
            for id, snapshot, timer in answer():
                instances[id] = from_snapshot(snapshot, id)
                timers[id] = timer if timer is None or timer.tzinfo is not None else timer.replace(tzinfo=UTC)
            return instances

        return loaded

    def current(self, connection: Connection, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
        """The newest incarnation of each (name, key)."""
        found = self._current.rows(connection, sorted(set(keys)))
        return {(name, key): id for name, key, id in found}

    def write_states(self, connection: Connection, written: Written) -> None:
        """Write the states of sagas, and see that they were as they had been read. The transaction stays whole.

        Raises:
            SerializationConflict: if another transaction was faster (invariant I6).
        """
        _fence(len(written.new), self._insert.count(connection, written.new))
        _fence(len(written.changed), self._update.count(connection, written.changed))

    def send_states(self, connection: Connection, written: Written) -> None:
        """The same, and nobody waits for it.

        Who has read a saga has locked it. That another transaction has begun one, its key says: see ``refused``.
        """
        self._begin.send(connection, written.new)
        self._update.send(connection, written.changed)

    def send_log(self, connection: Connection, written: Written) -> None:
        """What happened, and the timers."""
        self._log.send(connection, written.logged)
        self._set_timers.send(connection, [row for row in written.moved if row[1] is not None])
        self._drop_timers.send(connection, [(id,) for id, due in written.moved if due is None])

    def refused(self, error: IntegrityError) -> bool:
        """Whether an error says that another transaction has begun a saga since it was looked for."""
        return is_taken(error, self._table)


_WITH_REASON: Final = (StepStuck, CompensationBegan, Cancelled)
_BY_NUMBER: Final = attrgetter("int")
"""Orders ids as they compare, and as PostgreSQL's do, without a call for each comparison."""


def _in_order(changes: Sequence[SagaChange]) -> list[tuple[UUID, SagaChange]]:
    """Changes by the ids of their sagas: no two batches can dead-lock."""
    return sorted([(change.instance.id, change) for change in changes], key=lambda one: one[0].int)


def _fence(expected: int, touched: int) -> None:
    if touched != expected:
        raise SerializationConflict(
            f"{expected - touched} of {expected} sagas were changed by another transaction since they were read"
        )


def _timer(change: SagaChange, known: datetime | None) -> datetime | None:
    """What the saga's timer is to be: lazy, so that moving a deadline back costs nothing until the timer fires."""
    wish = change.instance.wake_at
    if wish is None or known is None or change.woken:
        return wish
    return min(wish, known)


def _new_row(id: UUID, change: SagaChange, timer: datetime | None) -> Row:
    instance, status = change.instance, change.instance.status
    return (
        id,
        instance.saga,
        instance.version,
        instance.key,
        instance.incarnation,
        str(status),
        instance.seq,
        to_snapshot(instance),
        _reason(change),
        timer,
        change.entries[0].at,
        change.entries[-1].at,
        _ended(change, status),
    )


def _changed_row(id: UUID, change: SagaChange, timer: datetime | None) -> Row:
    instance, status = change.instance, change.instance.status
    return (
        id,
        str(status),
        instance.seq,
        to_snapshot(instance),
        _reason(change),
        timer,
        change.entries[-1].at if change.entries else None,
        _ended(change, status),
        change.before_seq,
    )


def _log_rows(id: UUID, change: SagaChange) -> list[Row]:
    return [
        (id, entry.seq, (event := entry.event).kind, step_of(event), entry.cause, to_body(event), entry.at)
        for entry in change.entries
    ]


def _ended(change: SagaChange, status: SagaStatus) -> int:
    """Whether these entries end a saga, or came after its end.

    When that was, the database says: by it a saga is forgotten, and no process's clock is to decide that.
    """
    return int(bool(change.entries) and status.ended)


def _reason(change: SagaChange) -> str | None:
    """Why the saga is where it is, if these entries say so; otherwise the stored reason stays."""
    reasons = [entry.event.reason for entry in change.entries if isinstance(entry.event, _WITH_REASON)]
    return reasons[-1] if reasons else None
