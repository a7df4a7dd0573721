"""Sagas: the snapshot, the log and the timer, written together (invariants I6 and I7)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, Connection, Integer

from kafkasaga.errors import SerializationConflict
from kafkasaga.ports import SagaChange
from kafkasaga.saga.events import Cancelled, CompensationBegan, StepStuck, step_of, to_body
from kafkasaga.saga.instance import Instance, from_snapshot, to_snapshot
from kafkasaga.stores.bulk import Sql, insert, types

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
_LOGGED: Final = ("saga_id", "seq", "kind", "step_path", "message_id", "body", "at")


class Sagas:
    """Statements on sagas."""

    def __init__(self, sql: Sql) -> None:
        saga = sql.tables.saga
        id = types(saga, "saga_id")
        self._load = sql.bulk(
            """SELECT t.saga_id, t.snapshot, t.timer_at FROM {saga} AS t
            WHERE t.saga_id IN (SELECT r.saga_id FROM r) ORDER BY t.saga_id {for_update}""",
            id,
            returns=types(saga, "saga_id", "snapshot", "timer_at"),
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
        self._insert = sql.bulk(
            f"""INSERT INTO {{saga}} ({names}, ended_at)
            SELECT {names}, CASE WHEN r.ended = 1 THEN CURRENT_TIMESTAMP END FROM r WHERE true
            ON CONFLICT DO NOTHING""",  # noqa: S608 (our own text)
            types(saga, *_NEW, ended=Integer()),
        )
        self._update = sql.bulk(
            """UPDATE {saga} AS t SET status = r.status, seq = r.seq, snapshot = r.snapshot,
            reason = COALESCE(r.reason, t.reason), timer_at = r.timer_at,
            updated_at = COALESCE(r.updated_at, t.updated_at),
            ended_at = CASE WHEN r.ended = 1 THEN CURRENT_TIMESTAMP ELSE t.ended_at END
            FROM r WHERE t.saga_id = r.saga_id AND t.seq = r.before_seq""",
            types(saga, *_CHANGED, ended=Integer(), before_seq=BigInteger()),
        )
        self._log = sql.bulk(insert("saga_log", _LOGGED), types(sql.tables.saga_log, *_LOGGED))
        self._set_timers = sql.bulk(
            insert("saga_timer", ("saga_id", "due_at"))
            + " ON CONFLICT (saga_id) DO UPDATE SET due_at = excluded.due_at",
            types(sql.tables.saga_timer, "saga_id", "due_at"),
        )
        self._drop_timers = sql.bulk("DELETE FROM {saga_timer} WHERE saga_id IN (SELECT r.saga_id FROM r)", id)

    def load(self, connection: Connection, ids: Collection[UUID], timers: Timers) -> dict[UUID, Instance]:
        """Lock and read sagas; note their timers."""
        instances: dict[UUID, Instance] = {}
        for id, snapshot, timer in self._load.rows(connection, [(id,) for id in sorted(set(ids))]):
            instances[id] = from_snapshot(snapshot)
            timers[id] = timer
        return instances

    def current(self, connection: Connection, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
        """The newest incarnation of each (name, key)."""
        found = self._current.rows(connection, sorted(set(keys)))
        return {(name, key): id for name, key, id in found}

    def save(self, connection: Connection, changes: Sequence[SagaChange], timers: Timers) -> None:
        """Write changes; two statements for sagas that go on, three for new ones, and up to two for timers."""
        ordered = sorted(changes, key=lambda change: change.instance.id)
        for change in ordered:
            if change.before_seq == 0:
                timers.setdefault(change.instance.id, None)
        wished = {change.instance.id: _timer(change, timers) for change in ordered}
        new = [_new_row(change, wished) for change in ordered if change.before_seq == 0]
        changed = [_changed_row(change, wished) for change in ordered if change.before_seq > 0]
        _fence(len(new), self._insert.count(connection, new))
        _fence(len(changed), self._update.count(connection, changed))
        self._log.count(connection, [row for change in ordered for row in _log_rows(change)])
        self._write_timers(connection, wished, timers)

    def _write_timers(self, connection: Connection, wished: Mapping[UUID, datetime | None], timers: Timers) -> None:
        moved = {id: due for id, due in wished.items() if id not in timers or timers[id] != due}
        self._set_timers.count(connection, [(id, due) for id, due in moved.items() if due is not None])
        self._drop_timers.count(connection, [(id,) for id, due in moved.items() if due is None])
        timers.update(moved)


def _fence(expected: int, touched: int) -> None:
    if touched != expected:
        raise SerializationConflict(
            f"{expected - touched} of {expected} sagas were changed by another transaction since they were read"
        )


def _timer(change: SagaChange, timers: Timers) -> datetime | None:
    """What the saga's timer is to be: lazy, so that moving a deadline back costs nothing until the timer fires."""
    wish = change.instance.wake_at
    known = timers.get(change.instance.id)
    if wish is None or known is None or change.woken:
        return wish
    return min(wish, known)


def _new_row(change: SagaChange, timers: Mapping[UUID, datetime | None]) -> tuple[Any, ...]:
    instance = change.instance
    return (
        instance.id,
        instance.saga,
        instance.version,
        instance.key,
        instance.incarnation,
        instance.status.value,
        instance.seq,
        to_snapshot(instance),
        _reason(change),
        timers[instance.id],
        change.entries[0].at,
        change.entries[-1].at,
        _ended(change),
    )


def _changed_row(change: SagaChange, timers: Mapping[UUID, datetime | None]) -> tuple[Any, ...]:
    instance = change.instance
    return (
        instance.id,
        instance.status.value,
        instance.seq,
        to_snapshot(instance),
        _reason(change),
        timers[instance.id],
        change.entries[-1].at if change.entries else None,
        _ended(change),
        change.before_seq,
    )


def _log_rows(change: SagaChange) -> list[tuple[Any, ...]]:
    id = change.instance.id
    return [
        (id, entry.seq, entry.event.kind, step_of(entry.event), entry.cause, to_body(entry.event), entry.at)
        for entry in change.entries
    ]


def _ended(change: SagaChange) -> int:
    """When that was, the database says: by it a saga is forgotten, and no process's clock is to decide that."""
    return int(bool(change.entries) and change.instance.status.ended)


def _reason(change: SagaChange) -> str | None:
    """Why the saga is where it is, if these entries say so; otherwise the stored reason stays."""
    events = (entry.event for entry in reversed(change.entries))
    return next((e.reason for e in events if isinstance(e, StepStuck | CompensationBegan | Cancelled)), None)
