"""A batch of records is one transaction, and what happens when one of its messages fails.

``BatchRunner.process`` commits every record that it is given, one way or another:

1. the whole batch in one transaction;
2. if a message fails: those before it as a batch, the failing one alone (tried a few times within a second, then
   parked with its error), the rest as a batch. One bad message in a hundred must not cost the speed of the others;
3. if the failure shows only when the session is flushed or the transaction commits, nobody knows whose it is: the
   batch is halved until it is alone;
4. if it met another transaction in a deadlock, it is repeated alone, and what comes after it goes alone too for a while
   (``turns``); if it met one in another way, or alone too, it is halved.

What has to wait behind parked messages of its lane, ``triage`` says (invariant I4). Offsets are written in the same
transaction, and given to Kafka only afterwards (I5); so a crash at any point repeats a batch or continues behind it,
and the inbox makes repeating harmless (I3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import tenacity
from tenacity.wait import WaitBaseT

from kafkasaga.clock import Clock
from kafkasaga.errors import Deadlock, EnvironmentUnavailable, SerializationConflict, TurnTimeout
from kafkasaga.messages import Record
from kafkasaga.ports import Store, TopicPartition, Turn
from kafkasaga.runtime.execution import Execution, TaskFailed
from kafkasaga.runtime.orchestrator import Definitions
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.parking import Parking
from kafkasaga.runtime.retries import Retries
from kafkasaga.runtime.routing import Router, Task, named_sagas
from kafkasaga.runtime.streak import Streak
from kafkasaga.runtime.triage import Triage
from kafkasaga.runtime.turns import Turns
from kafkasaga.runtime.watchdog import Watchdog
from kafkasaga.saga.policy import Retry

ATTEMPTS_IN_PROCESS = 3
"""How often a failing message is tried before it is parked: a partition waits for it meanwhile."""
SECONDS_IN_PROCESS = 0.8
SHARE_IN_PROCESS = 0.1
"""Of all time, at most so much is spent on trying again at once: where many messages fail, they are parked sooner."""
CONFLICTS_IN_A_ROW = 8
SECONDS_OF_CONFLICTS = 5.0
"""How often, and how long, a message alone is tried again that meets other transactions."""


@dataclass(frozen=True, slots=True)
class Item:
    """One record and its tasks (one for each consumer of it)."""

    record: Record
    tasks: tuple[Task, ...]


class CommitFailed(Exception):
    """The database refused what some task of the batch had left for the flush or the commit. Nothing is kept."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class BatchRunner:
    """Commits batches of records to a service's database."""

    def __init__(
        self,
        group: str,
        store: Store,
        router: Router,
        definitions: Definitions,
        sender: Sender,
        parking: Retry,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._group, self._store, self._router, self._sender = group, store, router, sender
        self._execution, self._parking = Execution(sender, definitions, watchdog), Parking(parking)
        self._retries = Retries(store, router, self._execution, self._parking, sender)
        self._streak, self._turns = Streak(), Turns(sender.clock)
        self.parked = False
        """Whether something was parked since this was last set to False."""
        self._well = True
        """Whether nothing was parked in the last transaction, nor met what is."""
        self._prepared: dict[int, Item] = {}
        """Records that were decoded ahead, by their ids in memory."""
        self._meanwhile: Callable[[], None] | None = None
        self._patience, self._patient_at = SECONDS_IN_PROCESS, sender.clock.monotonic()

    def prepare(self, records: Iterable[Record]) -> None:
        """Decode records that are to be processed next."""
        self._prepared = {id(record): self._decoded(record) for record in records}

    def process(
        self, records: Sequence[Record], meanwhile: Callable[[], None] | None = None
    ) -> dict[TopicPartition, int]:
        """Commit all of them; returns the next offset of each partition, for Kafka.

        ``meanwhile`` is done while the database commits, if it leaves time for that. It raises nothing.

        Raises:
            EnvironmentUnavailable: if the database is away, or every message fails. Some records may be committed;
                give all of them again.
            SerializationConflict: if other transactions leave no way, not even to park; the same holds.
        """
        items, self._meanwhile = [self._item(record) for record in records], meanwhile
        probed = 0
        while self._streak.systemic and probed < len(items):
            self._all(items[probed : probed + 1])
            probed += 1
        self._all(items[probed:])
        return _positions(records)

    def set_aside(self, record: Record, reason: Exception) -> dict[TopicPartition, int]:
        """Park a record without trying it."""
        item, self._meanwhile = self._item(record), None
        self._commit([item], dict.fromkeys(range(len(item.tasks)), reason))
        return _positions([record])

    def retry_parked(self) -> bool:
        """Try one parked message that is due; False if there is none.

        Raises:
            EnvironmentUnavailable: if the database is away.
        """
        return self._retries.retry_one()

    def _item(self, record: Record) -> Item:
        return self._prepared.pop(id(record), None) or self._decoded(record)

    def _decoded(self, record: Record) -> Item:
        return Item(record, tuple(self._router.route(record)))

    # -- taking a batch apart

    def _all(self, items: Sequence[Item]) -> None:
        pending = list(items)
        while pending:
            try:
                self._commit(pending)
                return
            except TaskFailed as failed:
                at = next(n for n, item in enumerate(pending) if failed.task in item.tasks)
                self._all(pending[:at])
                self._by_itself(pending[at])
                pending = pending[at + 1 :]
            except (CommitFailed, SerializationConflict):
                if len(pending) == 1:
                    self._by_itself(pending[0])
                    return
                middle = len(pending) // 2
                self._all(pending[:middle])
                pending = pending[middle:]

    def _by_itself(self, item: Item) -> None:
        """One record by itself: tried again for a moment; a task that still fails is parked, the others are not."""
        parked: dict[int, Exception] = {}
        while True:
            try:
                self._patiently(item, parked)
                break
            except TaskFailed as failed:
                parked[item.tasks.index(failed.task)] = failed.cause
            except (CommitFailed, SerializationConflict) as failed:
                running = [n for n, task in enumerate(item.tasks) if n not in parked and task.problem is None]
                if not running:
                    raise
                # Of several consumers of one record nothing tells whose work was refused: the last one goes.
                parked[running[-1]] = failed.cause if isinstance(failed, CommitFailed) else failed
        if parked:
            self._streak.failed(next(iter(parked.values())))

    def _patiently(self, item: Item, parked: Mapping[int, Exception]) -> None:
        began = self._sender.clock.monotonic()
        earned = (began - self._patient_at) * SHARE_IN_PROCESS
        self._patience = min(self._patience + earned, SECONDS_IN_PROCESS)
        attempts = ATTEMPTS_IN_PROCESS if self._patience > 0 and not self._streak.systemic else 1
        try:
            for attempt in tenacity.Retrying(
                retry=tenacity.retry_if_exception_type((TaskFailed, CommitFailed)),
                stop=tenacity.stop_after_attempt(attempts) | _StopAfter(SECONDS_IN_PROCESS, self._sender.clock),
                wait=_back_off(0.02, longest=0.3),
                sleep=self._sender.clock.sleep,
                reraise=True,
            ):
                with attempt:
                    self._commit([item], parked)
        finally:
            self._patient_at = self._sender.clock.monotonic()
            self._patience -= self._patient_at - began

    # -- one transaction

    def _commit(self, items: Sequence[Item], failed: Mapping[int, Exception] | None = None) -> None:
        """All items in one transaction; ``failed`` names tasks of the first item to park instead of run."""
        began = self._sender.clock.monotonic()
        try:
            self._once(items, failed or {})
        except SerializationConflict as conflict:
            if len(items) > 1:
                raise
            met = conflict
        else:
            return
        self._again(items, failed or {}, met, began)

    def _again(
        self, items: Sequence[Item], failed: Mapping[int, Exception], met: SerializationConflict, began: float
    ) -> None:
        """The attempts behind the first one of a message alone, which met another transaction. Most meet none."""
        clock = self._sender.clock
        left = began + SECONDS_OF_CONFLICTS - clock.monotonic()
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(SerializationConflict),
            stop=tenacity.stop_after_attempt(CONFLICTS_IN_A_ROW) | _StopAfter(left, clock),
            wait=_back_off(0.005, longest=0.2),
            sleep=clock.sleep,
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise met
                self._once(items, failed)

    def _once(self, items: Sequence[Item], failed: Mapping[int, Exception]) -> None:
        try:
            self._in_turn(items, failed)
        except (SerializationConflict, TaskFailed, EnvironmentUnavailable):
            raise
        except Exception as error:
            raise CommitFailed(error) from error

    def _in_turn(self, items: Sequence[Item], failed: Mapping[int, Exception]) -> None:
        """Beside others, and after a deadlock alone; without a turn where none came, or to park only."""
        clock, turn = self._sender.clock, Turn.NONE if failed else self._turns.next
        while True:
            began = clock.monotonic()
            try:
                self._transact(items, failed, turn)
                return
            except TurnTimeout:
                if turn is Turn.NONE:
                    raise
                self._turns.timed_out()
            except Deadlock:
                if turn is not Turn.BESIDE:
                    raise
                self._turns.deadlocked(clock.monotonic() - began)
            turn = self._turns.next

    def _transact(self, items: Sequence[Item], failed: Mapping[int, Exception], turn: Turn) -> None:
        errors = {id(items[0].tasks[n]): error for n, error in failed.items()}
        tasks = [task for item in items for task in item.tasks]
        now = self._sender.clock.now()
        # To look ahead for sagas spares a round trip, and waits for whoever holds them, also where a message is but to
        # be parked or has been handled. So it is done where all goes well.
        with self._store.begin() as uow:
            sagas = named_sagas(tasks) if self._well and not failed else ()
            hands_over = self._execution.hands_over(tasks)
            uow.look_ahead({key for task in tasks for key in task.claims}, sagas, turn, hands_over=hands_over)
            found = Triage(uow, self._parking, now, errors).sort(tasks)
            unmatched = self._execution.run(uow, found.ready, found.overtaking)
            if unmatched:
                uow.park([self._parking.unmatched(task, error, now) for task, error in unmatched])
            uow.advance(self._group, _positions(item.record for item in items))
            if self._meanwhile is not None:
                uow.meanwhile(self._meanwhile)
        self._execution.committed()
        self.parked |= bool(found.parked or unmatched)
        self._well = not (found.parked or found.overtaking or unmatched)
        if len(found.ready) > len(unmatched) and not failed:
            self._streak.succeeded()


class _StopAfter(tenacity.stop.stop_base):
    """Tenacity's own ``stop_after_delay`` knows the real clock only."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._clock, self._end = clock, clock.monotonic() + seconds

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:  # noqa: ARG002 (tenacity gives it)
        return self._clock.monotonic() >= self._end


def _back_off(first: float, *, longest: float) -> WaitBaseT:
    return tenacity.wait_exponential(multiplier=first, max=longest) + tenacity.wait_random(0, first)


def _positions(records: Iterable[Record]) -> dict[TopicPartition, int]:
    last = {(record.topic, record.partition): record.offset for record in records}
    return {TopicPartition(*place): offset + 1 for place, offset in last.items()}
