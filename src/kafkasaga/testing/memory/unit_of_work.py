"""A transaction in memory: what it wrote becomes visible at its end, all at once or not at all (invariant I1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from kafkasaga.errors import DatabaseUnavailable, SerializationConflict
from kafkasaga.messages import Envelope
from kafkasaga.ports import (
    BarrierEntry,
    BarrierKey,
    InboxKey,
    Outcome,
    Parked,
    ParkedKey,
    ParkedStatus,
    SagaChange,
    TopicPartition,
    Turn,
)
from kafkasaga.saga.instance import Instance
from kafkasaga.stores import Session
from kafkasaga.testing.memory.locks import Locks, Waiting
from kafkasaga.testing.memory.retention import Ages
from kafkasaga.testing.memory.tables import Tables, heads, outbox_row

K = TypeVar("K")
V = TypeVar("V")


class MemoryUnitOfWork:
    """Implements ``ports.UnitOfWork``. Made by ``MemoryStore``; used by one thread."""

    def __init__(self, tables: Tables, locks: Locks, waiting: Waiting, ages: Ages) -> None:
        self._tables, self._locks, self._waiting, self._ages = tables, locks, waiting, ages
        self._writes: list[Callable[[], None]] = []
        self._inbox: set[InboxKey] = set()
        self._barrier: dict[BarrierKey, BarrierEntry] = {}
        self._sagas: dict[UUID, Instance] = {}
        self._timers: dict[UUID, datetime | None] = {}
        self._parked: dict[int, Parked | None] = {}
        self._turn = Turn.NONE
        self._session: Session | None = None
        self._aborted: str | None = None
        self._meanwhile: Callable[[], None] | None = None
        self.published = False

    @property
    def session(self) -> Any:
        """A session without a database: what uses it needs the SQL store."""
        self._session = self._session or Session()
        return self._session

    def flush(self) -> None:
        self._alive()

    # -- inbox and barrier

    def claim_inbox(self, keys: Collection[InboxKey]) -> set[InboxKey]:
        with self._waiting.guard:
            self._locks.take_turn(self, self._turn)
            return {key for key in sorted(set(keys)) if self._claim(key, self._tables.inbox, self._inbox)}

    def look_ahead(
        self,
        steps: Collection[BarrierKey],  # noqa: ARG002 (others need it)
        sagas: Collection[UUID] = (),  # noqa: ARG002
        turn: Turn = Turn.NONE,
        *,
        hands_over: bool = True,  # noqa: ARG002
    ) -> None:
        """Nothing is far away here; but the turn may have to be waited for."""
        self._turn = turn

    def meanwhile(self, work: Callable[[], None]) -> None:
        self._meanwhile = work

    def read_barrier(self, keys: Collection[BarrierKey]) -> dict[BarrierKey, BarrierEntry]:
        self._alive()
        with self._waiting.guard:
            known = {key: self._barrier.get(key) or self._tables.barrier.get(key) for key in keys}
            found = {key: entry for key, entry in known.items() if entry is not None}
            for key in found:  # so that nobody forgets it; readers do not wait for readers
                self._locks.try_take(self, ("barrier", key))
        return found

    def settle_barrier(self, entries: Mapping[BarrierKey, BarrierEntry]) -> None:
        with self._waiting.guard:
            for key in sorted(entries):
                self._lock(("barrier", key))
                if key in self._tables.barrier or key in self._barrier:
                    raise SerializationConflict("another transaction has answered the same command meanwhile")
                self._barrier[key] = entries[key]

    def _claim(self, key: InboxKey, committed: set[InboxKey], own: set[InboxKey]) -> bool:
        self._lock(("inbox", key))
        if key in committed or key in own:
            return False
        own.add(key)
        return True

    def carried_out(self, actions: Collection[BarrierKey]) -> set[BarrierKey]:
        self._alive()
        with self._waiting.guard:
            entries = {key: self._barrier.get(key) or self._tables.barrier.get(key) for key in actions}
        return {key for key, entry in entries.items() if entry is not None and entry.outcome is Outcome.DONE}

    # -- sagas

    def load_sagas(self, ids: Collection[UUID]) -> dict[UUID, Instance]:
        found: dict[UUID, Instance] = {}
        with self._waiting.guard:
            for id in sorted(set(ids)):
                if id in self._sagas or id in self._tables.sagas:
                    self._lock(("saga", id))
                    found[id] = self._sagas.get(id) or self._tables.sagas[id]
                    self._timers.setdefault(id, self._tables.timers.get(id))
        return found

    def current_sagas(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
        self._alive()
        with self._waiting.guard:
            newest = dict(self._tables.newest)
            for instance in self._sagas.values():
                key = (instance.saga, instance.key)
                newest[key] = max(newest.get(key, (-1, instance.id)), (instance.incarnation, instance.id))
            return {key: newest[key][1] for key in keys if key in newest}

    def save_sagas(self, changes: Sequence[SagaChange]) -> None:
        with self._waiting.guard:
            for change in sorted(changes, key=lambda change: change.instance.id):
                self._save(change)

    def _save(self, change: SagaChange) -> None:
        instance, id = change.instance, change.instance.id
        self._lock(("saga", id))
        stored = self._sagas.get(id) or self._tables.sagas.get(id)
        if (0 if stored is None else stored.seq) != change.before_seq:
            raise SerializationConflict(f"saga {id} was changed by another transaction since it was read")
        if change.before_seq == 0:
            self._timers.setdefault(id, None)
        self._sagas[id] = instance
        self._timers[id] = self._timer(change)
        self._writes.append(lambda: self._tables.logs.setdefault(id, []).extend(change.entries))
        self._writes.append(partial(self._ages.saved, change))

    def _timer(self, change: SagaChange) -> datetime | None:
        """Lazy, as on SQL: a later wish leaves the timer where it is until it fires."""
        wish, known = change.instance.wake_at, self._timers.get(change.instance.id)
        return wish if wish is None or known is None or change.woken else min(wish, known)

    # -- outbox, offsets

    def add_outbox(self, envelopes: Sequence[Envelope]) -> None:
        self._alive()
        with self._waiting.guard:
            for envelope in envelopes:
                row = outbox_row(self._tables.next_position(), envelope)
                self._writes.append(lambda row=row: self._tables.outbox.update({row.position: row}))  # type: ignore[misc]
                self.published = True

    def advance(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        with self._waiting.guard:
            for place, offset in sorted(positions.items()):
                self._lock(("offset", group, place))
                self._writes.append(partial(self._tables.advance, group, place, offset))

    def rewind(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        with self._waiting.guard:
            for place, offset in sorted(positions.items()):
                self._lock(("offset", group, place))
                self._writes.append(partial(self._tables.rewind, group, place, offset))

    # -- parked messages

    def parked_lanes(self, lanes: Iterable[ParkedKey]) -> set[ParkedKey]:
        self._alive()
        with self._waiting.guard:
            held = {(p.consumer, p.record.topic, p.record.key) for p in heads(self._visible().values())}
        return {lane for lane in lanes if lane in held}

    def park(self, messages: Sequence[Parked]) -> None:
        self._alive()
        with self._waiting.guard:
            for message in messages:
                id = self._tables.next_parked_id()
                self._lock(("parked", id))
                self._parked[id] = replace(message, id=id)

    def replace_parked(self, messages: Sequence[Parked]) -> set[InboxKey]:
        self._alive()
        replaced: set[InboxKey] = set()
        with self._waiting.guard:
            for new in messages:
                for old in self._commands({new.asks} if new.asks is not None else set()):
                    if _lane(old) == _lane(new):
                        changed = replace(old, record=new.record, message_id=new.message_id, source=new.source)
                        self._parked[old.id] = changed
                        replaced.add(InboxKey(new.consumer, new.source, new.message_id))
        return replaced

    def drop_parked(self, actions: Collection[BarrierKey]) -> list[tuple[ParkedKey, BarrierKey]]:
        self._alive()
        gone: list[tuple[ParkedKey, BarrierKey]] = []
        with self._waiting.guard:
            for message in self._commands(set(actions)):
                assert message.asks is not None
                record = message.record
                gone.append((ParkedKey(message.consumer, record.topic, record.key or b""), message.asks))
                self._promote(message.id)
                self._parked[message.id] = None
        return gone

    def _commands(self, asked: set[BarrierKey]) -> list[Parked]:
        """Parked commands that ask for these and that nobody tries now; they are held from here on."""
        found = [p for p in self._visible().values() if p.asks in asked and p.status is not ParkedStatus.DEAD_LETTER]
        return [p for p in found if self._locks.try_take(self, ("parked", p.id))]

    def note_batch(self, group: str, ends: Mapping[TopicPartition, int]) -> None:
        with self._waiting.guard:
            noted = {(group, place): (end, 0) for place, end in ends.items()}
            for key in sorted(noted):
                self._lock(("offset", *key))
            self._writes.append(lambda: self._tables.suspects.update(noted))

    def note_attempt(self, group: str, place: TopicPartition, offset: int) -> int:
        with self._waiting.guard:
            self._lock(("offset", group, place))
            known, attempts = self._tables.suspects.get((group, place), (offset, 0))
            noted = (offset, attempts + 1 if known == offset else 1)
            self._writes.append(lambda: self._tables.suspects.update({(group, place): noted}))
            return noted[1]

    def claim_parked(self, now: datetime) -> Parked | None:
        self._alive()
        with self._waiting.guard:
            found = [p for p in heads(self._visible().values()) if p.status is ParkedStatus.WAITING]
            due = sorted((p.next_at, p.id) for p in found if p.next_at is not None and p.next_at <= now)
            for _, id in due:
                if self._locks.try_take(self, ("parked", id)):
                    return self._visible()[id]
        return None

    def lock_parked(self, id: int, attempts: int) -> bool:
        self._alive()
        with self._waiting.guard:
            self._lock(("parked", id))
            known = self._visible().get(id)
            return known is not None and known.attempts == attempts and known.status is ParkedStatus.WAITING

    def parked_ids(self, topic: str, keys: Collection[InboxKey]) -> dict[InboxKey, int]:
        with self._waiting.guard:
            return {
                key: id
                for id, one in self._visible().items()
                if one.record.topic == topic and (key := InboxKey(one.consumer, one.source, one.message_id)) in keys
            }

    def unpark(self, id: int) -> None:
        with self._waiting.guard:
            self._lock(("parked", id))
            if id in self._visible():
                self._promote(id)
            self._parked[id] = None

    def repark(
        self, id: int, *, error: str, status: ParkedStatus, attempts: int, next_at: datetime, deaths: int = 0
    ) -> None:
        with self._waiting.guard:
            self._lock(("parked", id))
            if (known := self._visible().get(id)) is not None:
                self._parked[id] = replace(
                    known, error=error, status=status, attempts=attempts, next_at=next_at, deaths=deaths
                )
                if status is ParkedStatus.DEAD_LETTER:
                    self._promote(id)

    def free_lanes(self) -> int:
        self._alive()
        with self._waiting.guard:
            return sum(self._make_due(head) for head in heads(self._visible().values()))

    def _promote(self, gone: int) -> None:
        """The next of its lane becomes due, if this transaction can see it."""
        rows = self._visible()
        lane = [message for message in rows.values() if _lane(message) == _lane(rows[gone]) and message.id != gone]
        for head in heads(lane):
            self._make_due(head)

    def _make_due(self, message: Parked) -> bool:
        """Due since it was parked, unless it has a time of its own."""
        if message.status is not ParkedStatus.WAITING or message.next_at is not None:
            return False
        self._lock(("parked", message.id))
        if (still := self._visible().get(message.id)) is None:
            return False
        self._parked[message.id] = replace(still, next_at=still.parked_at)
        return True

    def _visible(self) -> dict[int, Parked]:
        merged = {**self._tables.parked, **self._parked}
        return {id: message for id, message in merged.items() if message is not None}

    # -- its end

    def commit(self) -> None:
        """Make everything visible."""
        if self._meanwhile is not None:
            self._meanwhile()
        with self._waiting.guard:
            self._alive()
            tables = self._tables
            self._ages.claimed(self._inbox, self._barrier)
            tables.inbox |= self._inbox
            tables.barrier |= self._barrier
            for instance in self._sagas.values():
                key = (instance.saga, instance.key)
                tables.newest[key] = max(tables.newest.get(key, (-1, instance.id)), (instance.incarnation, instance.id))
            tables.sagas |= self._sagas
            _merge(tables.timers, {id: self._timers[id] for id in self._sagas})
            _merge(tables.parked, self._parked)
            self._ages.parked(self._parked)
            for write in self._writes:
                write()
            self._aborted = "it has ended"
            self._locks.release(self)

    def abort(self, why: str) -> None:
        """The database rolls it back: by itself, if its process stands still too long."""
        with self._waiting.guard:
            self._aborted = self._aborted or why
            self._locks.release(self)

    def _lock(self, key: tuple[object, ...]) -> None:
        self._alive()
        self._locks.take(self, key)
        if self._aborted is not None:
            self._locks.release(self)  # it was rolled back while it waited
        self._alive()

    def _alive(self) -> None:
        if self._aborted is not None:
            raise DatabaseUnavailable(f"the transaction is over: {self._aborted}")


def _lane(message: Parked) -> object:
    """Messages without a key are in no lane together with others."""
    record = message.record
    return message.id if record.key is None else (message.consumer, record.topic, record.key)


def _merge(rows: dict[K, V], changed: Mapping[K, V | None]) -> None:
    for key, row in changed.items():
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row
