"""A service's database as one of its processes sees it: it can be away, be slow, and lie about a commit.

Around the SQL store a transaction is one moment (there is one connection); around the store in memory, every statement
takes its time, so that transactions overlap and wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from kafkasaga.errors import DatabaseUnavailable, Deadlock
from kafkasaga.messages import Envelope
from kafkasaga.ports import (
    UNMATCHED,
    BarrierEntry,
    BarrierKey,
    InboxKey,
    Parked,
    ParkedKey,
    ParkedStatus,
    Progress,
    Prunable,
    RelayQueue,
    SagaChange,
    Store,
    TopicPartition,
    Turn,
    UnitOfWork,
)
from kafkasaga.saga.instance import Instance
from kafkasaga.testing.memory import MemoryUnitOfWork
from kafkasaga.testing.simulator.chance import Fault
from kafkasaga.testing.simulator.history import Transaction
from kafkasaga.testing.simulator.relay_queue import WorldRelayQueue

if TYPE_CHECKING:
    from kafkasaga.testing.simulator.process import Process


class WorldStore:
    """``ports.Store`` in virtual time."""

    def __init__(self, process: Process, inner: Store, *, overlapping: bool) -> None:
        self._process, self._inner, self._overlapping = process, inner, overlapping

    @contextmanager
    def begin(self) -> Generator[WorldUnitOfWork]:
        process = self._process
        strand, unit = process.world.current, None
        assert strand is not None
        # The timekeeper begins all the time, mostly for nothing: faults there would use up the schedule.
        process.point("before begin", deadly=strand.role == "consumer")
        process.database_answers()
        done = process.history.begin(process.service, process.name)
        strand.doing = done
        try:
            with self._inner.begin() as inner:
                unit = inner if isinstance(inner, MemoryUnitOfWork) else None
                if unit is not None:
                    process.units.add(unit)
                yield WorldUnitOfWork(process, inner, done, overlapping=self._overlapping)
                if done.wrote:
                    process.point("before commit", waits=self._overlapping)
                process.database_answers()
                if done.wrote and process.strikes(Fault.CONFLICT, "commit"):
                    raise Deadlock("the simulated database rolls this transaction back")
        finally:
            strand.doing = None
            if unit is not None:
                process.units.discard(unit)
        process.history.commit(done)
        if not done.wrote:
            return
        process.world.change(progress=True)
        process.point("after commit")
        if process.strikes(Fault.UNKNOWN_COMMIT, "commit"):
            process.note("hears of an error although it committed")
            raise DatabaseUnavailable("the simulated database does not say whether it committed")

    def enlist(self, session: Any) -> UnitOfWork:
        return self._inner.enlist(session)

    def check_schema(self) -> None:
        self._inner.check_schema()

    def positions(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        self._process.database_answers()
        return self._inner.positions(group, partitions)

    def take_over(
        self, group: str, owner: UUID, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, Progress]:
        self._process.database_answers()
        return self._inner.take_over(group, owner, partitions)

    def give_up(self, group: str, owner: UUID, partitions: Collection[TopicPartition]) -> None:
        self._process.database_answers()
        self._inner.give_up(group, owner, partitions)

    def parked_counts(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        self._process.database_answers()
        return self._inner.parked_counts(partitions)

    def due_sagas(self, now: datetime, limit: int) -> list[UUID]:
        self._process.database_answers()
        return self._inner.due_sagas(now, limit)

    def live_versions(self) -> dict[tuple[str, int], int]:
        return self._inner.live_versions()

    def next_due(self) -> datetime | None:
        return self._inner.next_due()

    def unsent(self, ids: Collection[UUID]) -> set[UUID]:
        self._process.point("between looks")
        self._process.database_answers()
        return self._inner.unsent(ids)

    def prune(self, what: Prunable, keep: timedelta, limit: int) -> int:
        self._process.point("before prune", deadly=False)
        self._process.database_answers()
        forgotten = self._inner.prune(what, keep, limit)
        if forgotten:
            self._process.history.forgotten[what] += forgotten
            self._process.note(f"forgets {what}")
        return forgotten

    def relay_queue(self) -> RelayQueue:
        return WorldRelayQueue(self._process, self._inner.relay_queue())

    def close(self) -> None:
        """The database outlives its processes."""


class WorldUnitOfWork:
    """``ports.UnitOfWork`` in virtual time; it notes what the transaction does."""

    def __init__(self, process: Process, inner: UnitOfWork, done: Transaction, *, overlapping: bool) -> None:
        self._process, self._inner, self._done, self._overlapping = process, inner, done, overlapping

    @property
    def session(self) -> Any:
        return self._inner.session

    def flush(self) -> None:
        self._inner.flush()

    def claim_inbox(self, keys: Collection[InboxKey]) -> set[InboxKey]:
        self._done.wrote = True
        self._pass("inbox")
        fresh = self._inner.claim_inbox(keys)
        self._done.claimed |= fresh
        return fresh

    def look_ahead(
        self,
        steps: Collection[BarrierKey],
        sagas: Collection[UUID] = (),
        turn: Turn = Turn.NONE,
        *,
        hands_over: bool = True,
    ) -> None:
        self._inner.look_ahead(steps, sagas, turn, hands_over=hands_over)

    def meanwhile(self, work: Callable[[], None]) -> None:
        self._inner.meanwhile(work)

    def read_barrier(self, keys: Collection[BarrierKey]) -> dict[BarrierKey, BarrierEntry]:
        self._pass("barrier")
        return self._inner.read_barrier(keys)

    def settle_barrier(self, entries: Mapping[BarrierKey, BarrierEntry]) -> None:
        self._pass("settle")
        self._inner.settle_barrier(entries)

    def carried_out(self, actions: Collection[BarrierKey]) -> set[BarrierKey]:
        self._pass("carried out")
        return self._inner.carried_out(actions)

    def load_sagas(self, ids: Collection[UUID]) -> dict[UUID, Instance]:
        self._pass("load")
        return self._inner.load_sagas(ids)

    def current_sagas(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
        return self._inner.current_sagas(keys)

    def save_sagas(self, changes: Sequence[SagaChange]) -> None:
        self._done.wrote = True
        self._pass("save")
        self._inner.save_sagas(changes)
        self._done.changes += changes

    def add_outbox(self, envelopes: Sequence[Envelope]) -> None:
        self._done.wrote = True
        self._pass("outbox")
        self._inner.add_outbox(envelopes)
        self._done.sent += envelopes

    def advance(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        self._done.wrote = True
        self._inner.advance(group, positions)
        self._done.offsets |= positions

    def rewind(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        self._done.wrote = True
        self._inner.rewind(group, positions)

    def parked_lanes(self, lanes: Iterable[ParkedKey]) -> set[ParkedKey]:
        self._pass("lanes")
        return self._inner.parked_lanes(lanes)

    def park(self, messages: Sequence[Parked]) -> None:
        self._done.wrote = True
        self._inner.park(messages)
        for message in messages:
            consumer = message.consumer.removesuffix(UNMATCHED)
            self._done.parked.add(InboxKey(consumer, message.source, message.message_id))
            if consumer != message.consumer:
                self._done.unmatched.add(message.message_id)
            if message.asks is not None and message.status is ParkedStatus.WAITING and not message.attempts:
                self._done.waiting.add(message.asks)
            self._process.note(f"parks {message.record.topic}: {message.error.splitlines()[0]}")

    def replace_parked(self, messages: Sequence[Parked]) -> set[InboxKey]:
        self._done.wrote = True
        replaced = self._inner.replace_parked(messages)
        self._done.parked |= replaced
        return replaced

    def drop_parked(self, actions: Collection[BarrierKey]) -> list[tuple[ParkedKey, BarrierKey]]:
        self._done.wrote = True
        return self._inner.drop_parked(actions)

    def claim_parked(self, now: datetime) -> Parked | None:
        return self._inner.claim_parked(now)

    def parked_ids(self, topic: str, keys: Collection[InboxKey]) -> dict[InboxKey, int]:
        return self._inner.parked_ids(topic, keys)

    def unpark(self, id: int) -> None:
        self._done.wrote = True
        self._inner.unpark(id)

    def note_batch(self, group: str, ends: Mapping[TopicPartition, int]) -> None:
        self._done.wrote = True
        self._inner.note_batch(group, ends)

    def note_attempt(self, group: str, place: TopicPartition, offset: int) -> int:
        self._done.wrote = True
        return self._inner.note_attempt(group, place, offset)

    def lock_parked(self, id: int, attempts: int) -> bool:
        return self._inner.lock_parked(id, attempts)

    def free_lanes(self) -> int:
        return self._inner.free_lanes()

    def repark(
        self, id: int, *, error: str, status: ParkedStatus, attempts: int, next_at: datetime, deaths: int = 0
    ) -> None:
        self._done.wrote = True
        self._inner.repark(id, error=error, status=status, attempts=attempts, next_at=next_at, deaths=deaths)

    def __getattr__(self, name: str) -> Any:
        """What the port has gained since."""
        return getattr(self._inner, name)

    def _pass(self, statement: str) -> None:
        if self._overlapping:
            self._process.point(f"statement {statement}", deadly=False)
            self._process.database_answers()
