"""The consumer loop: poll, commit to the database, tell Kafka. Where things are away, it waits and loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import structlog

from kafkasaga.clock import Clock, SystemClock
from kafkasaga.errors import BrokerUnavailable, EnvironmentUnavailable, SerializationConflict
from kafkasaga.messages import Record
from kafkasaga.ports import Consumer, Store, TopicPartition
from kafkasaga.runtime.backpressure import Backpressure
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.contention import waited
from kafkasaga.runtime.pace import Pace
from kafkasaga.runtime.suspects import Suspects

log = structlog.get_logger("kafkasaga.consumer")

POLL = 0.2
"""Seconds that one poll waits for the first record."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds between attempts while the database is away: doubled each time."""


class ConsumerLoop:
    """Reads a service's topics."""

    def __init__(  # noqa: PLR0913 (what it is made of, and keywords with defaults)
        self,
        group: str,
        consumer: Consumer,
        store: Store,
        batches: BatchRunner,
        topics: Iterable[str],
        *,
        batch_size: int,
        max_parked: int = 10_000,
        clock: Clock | None = None,
        waited: Callable[[], float] = waited,
    ) -> None:
        self._group, self._consumer, self._store, self._batches = group, consumer, store, batches
        self._topics, self._batch_size = sorted(topics), batch_size
        self._clock = clock or SystemClock()
        self._pace = Pace(self._clock, waited)
        self._suspects = Suspects(group, store, batches, batch_size)
        self._backpressure = Backpressure(store, consumer, max_parked, self._clock)
        self._held: set[TopicPartition] = set()
        self._lost: set[TopicPartition] = set()
        self._read: dict[TopicPartition, int] = {}
        """How far the database knows that each partition was read."""
        self._ahead: list[Record] = []
        """What was read while the last batch was committed."""
        self._failure: Exception | None = None
        """What went wrong with reading ahead; the next step raises it."""
        self._stopping = threading.Event()

    def run(self) -> None:
        """Consume until ``stop``; a batch that has begun is finished first."""
        self._consumer.subscribe(self._topics, self._assigned, self._revoked)
        try:
            while not self._stopping.is_set():
                self.step(POLL)
            self._suspects.give_up(self._held)
        finally:
            self._consumer.close()

    def stop(self) -> None:
        """Let ``run`` end (from any thread)."""
        self._stopping.set()

    def step(self, timeout: float) -> int:
        """One batch; returns how many records it had."""
        records = self._next(timeout)
        if records:
            self._pace.polled()
            self._commit(records)
            self._pace.worked(len(records))
        else:
            self._pass_markers()
        if self._backpressure.look(self._held, parked=self._batches.parked):
            self._batches.parked = False
        return len(records)

    def _next(self, timeout: float) -> list[Record]:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        ahead, self._ahead = self._ahead, []
        return ahead or self._poll(self._batch_size, timeout, self._pace.gather)

    def _read_ahead(self) -> None:
        """Take and decode the next batch while the database commits this one."""
        if self._ahead or self._failure is not None:
            return
        try:
            self._ahead = self._consumer.poll(self._batch_size, 0)
        except BrokerUnavailable:
            return  # the next poll says so
        except Exception as error:  # noqa: BLE001 - the next step raises it: this batch must not fail for it
            self._failure = error
        self._batches.prepare(self._ahead)

    def _poll(self, limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        """What is there; nothing while the broker is away."""
        try:
            return self._consumer.poll(limit, timeout, gather)
        except BrokerUnavailable as error:
            log.warning("broker is away", error=str(error))
            self._clock.wait(self._stopping, FIRST_WAIT)
            return []

    def _commit(self, records: list[Record]) -> None:
        """Commit a batch, however long the database is away. Offsets stay where they are meanwhile (invariant I5)."""
        wait, away = FIRST_WAIT, False
        more = self._read_ahead if len(records) >= self._batch_size else None  # behind a full batch there is more
        self._lost.clear()
        while records and not self._stopping.is_set():
            try:
                self._begin_anew(records)
                positions = self._suspects.process(records, more)
            except (EnvironmentUnavailable, SerializationConflict) as error:
                if not away:
                    log.warning("consuming waits", error=str(error))
                    self._consumer.pause()
                away = True
                stray = self._idle(wait)
                records = _without(self._lost, records)
                (self._ahead or records).extend(stray)  # behind what was read before it
                self._lost.clear()
                wait = min(wait * 2, LONGEST_WAIT)
                continue
            self._consumer.store(positions)
            self._read |= positions
            break
        if away:
            log.info("consuming goes on")
            self._consumer.resume()

    def _begin_anew(self, records: Sequence[Record]) -> None:
        """A partition whose records come before what was read was made anew: its offsets count from there again."""
        first = {(record.topic, record.partition): record.offset for record in reversed(records)}
        begins = {TopicPartition(*place): offset for place, offset in first.items()}
        back = {place: offset for place, offset in begins.items() if offset < self._read.get(place, 0)}
        if back:
            with self._store.begin() as uow:
                uow.rewind(self._group, back)
            self._suspects.begin_anew(back)
            self._read |= back

    def _pass_markers(self) -> None:
        """Remember how far was read where what comes last is not a record (a transaction's marker).

        The timekeeper waits until everything in the reply topics was read; it must not wait for what never comes.
        """
        ahead = {p: offset for p, offset in self._consumer.positions().items() if offset > self._read.get(p, 0)}
        if not ahead:
            return
        try:
            with self._store.begin() as uow:
                uow.advance(self._group, ahead)
        except (EnvironmentUnavailable, SerializationConflict):
            return  # nothing depends on it now; the next idle moment does it
        self._read |= ahead

    def _idle(self, seconds: float) -> list[Record]:
        """Wait, but stay a member of the group. Everything is paused; a record that comes all the same is kept."""
        return [] if self._stopping.is_set() else self._poll(1, seconds)

    def _assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where to read on: the database knows what it has, whatever Kafka remembers."""
        wait = FIRST_WAIT
        while not self._stopping.is_set():
            try:
                known = self._suspects.take_over(partitions)
            except (EnvironmentUnavailable, SerializationConflict) as error:
                log.warning("the database does not say where to read on; waiting", error=str(error))
                self._clock.wait(self._stopping, wait)
                wait = min(wait * 2, LONGEST_WAIT)
            else:
                self._read |= known
                self._held |= set(partitions)
                self._batches.parked = True  # there may be too much already
                return known
        return {}

    def _revoked(self, partitions: Collection[TopicPartition]) -> None:
        self._lost |= set(partitions)
        self._ahead = _without(partitions, self._ahead)
        self._held -= set(partitions)
        self._suspects.give_up(partitions)


def _without(partitions: Collection[TopicPartition], records: Iterable[Record]) -> list[Record]:
    return [record for record in records if TopicPartition(record.topic, record.partition) not in partitions]
