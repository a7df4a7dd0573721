"""A service's database in memory: ``ports.Store``."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from kafkasaga.errors import DefinitionError
from kafkasaga.ports import LogEntry, Parked, ParkedStatus, Progress, Prunable, TopicPartition
from kafkasaga.saga.instance import Instance
from kafkasaga.testing.memory.locks import Locks, Threads, Waiting
from kafkasaga.testing.memory.relay_queue import MemoryRelayQueue, Outbound
from kafkasaga.testing.memory.retention import Ages, prune
from kafkasaga.testing.memory.tables import Tables
from kafkasaga.testing.memory.unit_of_work import MemoryUnitOfWork


class MemoryStore:
    """Implements ``ports.Store``. Threads may share it."""

    def __init__(self, waiting: Waiting | None = None) -> None:
        self._waiting: Waiting = waiting or Threads()
        self._locks = Locks(self._waiting)
        self.tables: Final = Tables()
        self.ages: Final = Ages()
        self.outbound: Final = Outbound(self.tables)
        self.under_way: Final = set[MemoryUnitOfWork]()
        """Transactions that have not ended."""

    @property
    def waiting(self) -> int:
        """How many transactions wait for another one."""
        return self._locks.waiting

    @contextmanager
    def begin(self) -> Generator[MemoryUnitOfWork]:
        """A transaction: committed at the end of the block, rolled back by an exception. Then the relay is woken."""
        unit = MemoryUnitOfWork(self.tables, self._locks, self._waiting, self.ages)
        self.under_way.add(unit)
        try:
            yield unit
            unit.commit()
        finally:
            unit.abort("it has ended")
            self.under_way.discard(unit)
        if unit.published:
            self.outbound.wake()

    def enlist(self, session: Any) -> MemoryUnitOfWork:  # noqa: ARG002 (the port names it)
        """There is no session whose transaction this could be."""
        raise DefinitionError("a store in memory has no sessions of the user's; use the SQL store")

    def check_schema(self) -> None:
        """There is no schema that could be wrong."""

    def positions(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        with self._waiting.guard:
            found = self.tables.offsets
            return {place: found[group, place] for place in partitions if (group, place) in found}

    def take_over(
        self, group: str, owner: UUID, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, Progress]:
        with self._waiting.guard:
            owners, offsets, suspects = self.tables.owners, self.tables.offsets, self.tables.suspects
            found: dict[TopicPartition, Progress] = {}
            for key in [(group, place) for place in partitions]:
                if key in owners or key in offsets or key in suspects:
                    suspect = suspects.get(key, (None, 0))
                    found[key[1]] = Progress.of(offsets.get(key), *suspect, given_up=owners.get(key, owner) == owner)
                owners[key] = owner
            return found

    def give_up(self, group: str, owner: UUID, partitions: Collection[TopicPartition]) -> None:
        with self._waiting.guard:
            for key in [(group, place) for place in partitions]:
                if self.tables.owners.get(key) == owner:
                    del self.tables.owners[key]

    def parked_counts(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        with self._waiting.guard:
            waiting = [m.record for m in self.tables.parked.values() if m.status is not ParkedStatus.DEAD_LETTER]
        return {p: sum((r.topic, r.partition) == p for r in waiting) for p in partitions}

    def due_sagas(self, now: datetime, limit: int) -> list[UUID]:
        with self._waiting.guard:
            due = sorted((at, id) for id, at in self.tables.timers.items() if at <= now)
        return [id for _, id in due[:limit]]

    def live_versions(self) -> dict[tuple[str, int], int]:
        counts: dict[tuple[str, int], int] = {}
        with self._waiting.guard:
            for instance in self.tables.sagas.values():
                if not instance.status.ended:
                    key = (instance.saga, instance.version)
                    counts[key] = counts.get(key, 0) + 1
        return counts

    def next_due(self) -> datetime | None:
        with self._waiting.guard:
            return min(self.tables.timers.values(), default=None)

    def unsent(self, ids: Collection[UUID]) -> set[UUID]:
        with self._waiting.guard:
            waiting = {row.message_id for row in self.tables.outbox.values()}
        return waiting.intersection(ids)

    def prune(self, what: Prunable, keep: timedelta, limit: int) -> int:
        with self._waiting.guard:
            return prune(self.tables, self.ages, self._locks, what, keep, limit)

    def relay_queue(self) -> MemoryRelayQueue:
        return MemoryRelayQueue(self.tables, self.outbound, self._waiting)

    def queries(self) -> MemoryQueries:
        """What operators look at."""
        return MemoryQueries(self.tables)

    def close(self) -> None:
        """Nothing to give back."""


class MemoryQueries:
    """The read side, as far as it is needed."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def saga_ids(self) -> list[UUID]:
        """Every saga's id, in order."""
        return sorted(self._tables.sagas)

    def instance(self, saga_id: UUID) -> Instance | None:
        """One saga as it is stored."""
        return self._tables.sagas.get(saga_id)

    def log(self, saga_id: UUID) -> list[LogEntry]:
        """Everything that happened to one saga, in order."""
        return list(self._tables.logs.get(saga_id, ()))

    def parked(self) -> list[Parked]:
        """Parked messages, in the order in which they were parked."""
        return [self._tables.parked[id] for id in sorted(self._tables.parked)]
