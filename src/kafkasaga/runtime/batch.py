"""A batch of records is one transaction (design section 7), and what happens when one of its messages fails.

``BatchRunner.process`` commits every record that it is given, one way or another:

1. the whole batch in one transaction;
2. if a message fails: those before it as a batch, the failing one alone (tried a few times within a second, then
   parked with its error), the rest as a batch. One bad message in a hundred must not cost the speed of the others;
3. if the failure shows only when the session is flushed or the transaction commits, nobody knows whose it is: the
   batch is halved until it is alone.

A message of a lane in which something is parked is parked behind it, in the same transaction (invariant I4). Offsets
are written in that transaction too, and given to Kafka only afterwards (I5); so a crash at any point repeats a batch or
continues behind it, and the inbox makes repeating harmless (I3).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
import tenacity
from tenacity.wait import WaitBaseT

from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.messages import Envelope, Record
from kafkasaga.ports import Parked, ParkedStatus, Store, TopicPartition, UnitOfWork
from kafkasaga.runtime.orchestrator import Definitions, SagaTurn, Unmatched
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.participant import HandlerTurn
from kafkasaga.runtime.routing import HandlerRoute, Router, SagaRoute, Task
from kafkasaga.saga.policy import Retry
from kafkasaga.stores import is_conflict

log = structlog.get_logger("kafkasaga.consumer")

ATTEMPTS_IN_PROCESS = 3
"""How often a failing message is tried before it is parked: a partition waits for it meanwhile."""
SECONDS_IN_PROCESS = 0.8
SHARE_IN_PROCESS = 0.1
"""Of all time, at most so much is spent on trying again at once: where many messages fail, they are parked sooner."""
CONFLICTS_IN_A_ROW = 8
SECONDS_OF_CONFLICTS = 5.0
"""After so many serialization failures in a row, a batch is taken apart: its handlers may lock what others hold."""
UNMATCHED = ":unmatched"
"""Ends the name of the consumer under which a message that belongs to no saga is parked."""


@dataclass(frozen=True, slots=True)
class Item:
    """One record and its tasks (one for each consumer of it)."""

    record: Record
    tasks: tuple[Task, ...]


class TaskFailed(Exception):
    """A task raised. Nothing of its transaction is kept."""

    def __init__(self, task: Task, cause: Exception) -> None:
        super().__init__(str(cause))
        self.task, self.cause = task, cause


class CommitFailed(Exception):
    """The database refused what some task of the batch had left for the flush or the commit. Nothing is kept."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class BatchRunner:
    """Commits batches of records to a service's database."""

    def __init__(
        self, group: str, store: Store, router: Router, definitions: Definitions, sender: Sender, parking: Retry
    ) -> None:
        self._group, self._store, self._router = group, store, router
        self._definitions, self._sender, self._parking = definitions, sender, parking
        self._patience, self._patient_at = SECONDS_IN_PROCESS, sender.clock.monotonic()

    def process(self, records: Sequence[Record]) -> dict[TopicPartition, int]:
        """Commit all of them; returns the next offset of each partition, for Kafka.

        Raises:
            EnvironmentUnavailable: if the database is away. Some records may be committed; give all of them again.
            SerializationConflict: if other transactions leave no way, not even to park; the same holds.
        """
        self._all(tuple(Item(record, tuple(self._router.route(record))) for record in records))
        return _positions(records)

    def retry_parked(self) -> bool:
        """Try one parked message that is due; False if there is none.

        Raises:
            EnvironmentUnavailable: if the database is away.
        """
        parked: Parked | None = None
        try:
            with self._store.begin() as uow:
                parked = uow.claim_parked(self._sender.clock.now())
                if parked is None:
                    return False
                task = self._router.route_for(parked.record, parked.consumer.removesuffix(UNMATCHED))
                if task.problem is not None:
                    raise TaskFailed(task, ValueError(task.problem))
                if unmatched := self._execute(uow, [task]):
                    raise TaskFailed(*unmatched[0])
                uow.unpark(parked.id)
        except EnvironmentUnavailable:
            raise
        except Exception as error:
            if parked is None:
                raise
            self._keep(parked, error.cause if isinstance(error, TaskFailed) else error)
        else:
            log.info("parked message handled", **_fields(task), attempts=parked.attempts + 1)
        return True

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
                self._alone(pending[at])
                pending = pending[at + 1 :]
            except (CommitFailed, SerializationConflict):
                if len(pending) == 1:
                    self._alone(pending[0])
                    return
                middle = len(pending) // 2
                self._all(pending[:middle])
                pending = pending[middle:]

    def _alone(self, item: Item) -> None:
        """One record by itself: tried again for a moment; a task that still fails is parked, the others are not."""
        parked: dict[int, Exception] = {}
        while True:
            try:
                self._patiently(item, parked)
                return
            except TaskFailed as failed:
                parked[item.tasks.index(failed.task)] = failed.cause
            except (CommitFailed, SerializationConflict) as failed:
                running = [n for n, task in enumerate(item.tasks) if n not in parked and task.problem is None]
                if not running:
                    raise
                # Of several consumers of one record nothing tells whose work was refused: the last one goes.
                parked[running[-1]] = failed.cause if isinstance(failed, CommitFailed) else failed

    def _patiently(self, item: Item, parked: Mapping[int, Exception]) -> None:
        began = self._sender.clock.monotonic()
        earned = (began - self._patient_at) * SHARE_IN_PROCESS
        self._patience = min(self._patience + earned, SECONDS_IN_PROCESS)
        attempts = ATTEMPTS_IN_PROCESS if self._patience > 0 else 1
        try:
            for attempt in tenacity.Retrying(
                retry=tenacity.retry_if_exception_type((TaskFailed, CommitFailed)),
                stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_after_delay(SECONDS_IN_PROCESS),
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
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(SerializationConflict),
            stop=tenacity.stop_after_attempt(CONFLICTS_IN_A_ROW) | tenacity.stop_after_delay(SECONDS_OF_CONFLICTS),
            wait=_back_off(0.005, longest=0.2),
            sleep=self._sender.clock.sleep,
            reraise=True,
        ):
            with attempt:
                try:
                    self._transact(items, failed or {})
                except (TaskFailed, EnvironmentUnavailable, SerializationConflict):
                    raise
                except Exception as error:
                    raise CommitFailed(error) from error

    def _transact(self, items: Sequence[Item], failed: Mapping[int, Exception]) -> None:
        errors = {id(items[0].tasks[n]): error for n, error in failed.items()}
        tasks = [task for item in items for task in item.tasks]
        now = self._sender.clock.now()
        with self._store.begin() as uow:
            fresh = uow.claim_inbox({task.inbox_key for task in tasks})
            lanes = uow.parked_lanes({task.lane for task in tasks if task.lane is not None})
            ready: list[Task] = []
            parked: list[Parked] = []
            for task in tasks:
                if task.inbox_key not in fresh:
                    continue
                fresh.discard(task.inbox_key)  # a duplicate within the batch is a duplicate
                keep = self._parked(task, errors.get(id(task)), behind=task.lane in lanes, now=now)
                if keep is None:
                    ready.append(task)
                    continue
                parked.append(keep)
                if task.lane is not None:
                    lanes.add(task.lane)
            parked += [self._unmatched(task, error, now) for task, error in self._execute(uow, ready)]
            if parked:
                uow.park(parked)
            uow.advance(self._group, _positions([item.record for item in items]))

    def _execute(self, uow: UnitOfWork, tasks: Sequence[Task]) -> list[tuple[Task, Unmatched]]:
        """Run the tasks; returns those that belong to no saga, which have changed nothing."""
        unmatched: list[tuple[Task, Unmatched]] = []
        handlers = HandlerTurn(uow, self._sender, [t for t in tasks if isinstance(t.route, HandlerRoute)])
        sagas = SagaTurn(uow, self._sender, self._definitions, [t for t in tasks if isinstance(t.route, SagaRoute)])
        outgoing: list[Envelope] = []
        for task in tasks:
            turn = handlers if isinstance(task.route, HandlerRoute) else sagas
            try:
                outgoing += turn.handle(task)
            except Unmatched as error:
                unmatched.append((task, error))
            except (EnvironmentUnavailable, SerializationConflict):
                raise
            except Exception as error:
                if is_conflict(error):  # the handler's own statement met another transaction
                    raise SerializationConflict(str(error)) from error
                raise TaskFailed(task, error) from error
        uow.flush()
        handlers.settle()
        sagas.save()
        if outgoing:
            uow.add_outbox(outgoing)
        return unmatched

    # -- parking

    def _parked(self, task: Task, error: Exception | None, *, behind: bool, now: datetime) -> Parked | None:
        """The task as a parked message, if it is not to run now."""
        if task.problem is not None:
            return self._park(task, task.problem, ParkedStatus.DEAD, 0, now)
        if behind:
            return self._park(task, "waits behind an earlier message of its key", ParkedStatus.WAITING, 0, now)
        if error is not None:
            return self._park(task, _describe(error), ParkedStatus.WAITING, 1, now)
        return None

    def _unmatched(self, task: Task, error: Unmatched, now: datetime) -> Parked:
        """Kept in a lane of its own: it must not hold back what does belong to a saga.

        An answer names its saga, which was committed before the command could be sent: if it is unknown, it is not
        ours. A message that is found by its key may have overtaken the one that starts its saga (A6): it is retried.
        """
        status = ParkedStatus.WAITING if task.attributes.saga is None else ParkedStatus.DEAD
        attempts = 1 if status is ParkedStatus.WAITING else 0
        return replace(self._park(task, str(error), status, attempts, now), consumer=f"{task.consumer}{UNMATCHED}")

    def _park(self, task: Task, error: str, status: ParkedStatus, attempts: int, now: datetime) -> Parked:
        tell = log.error if attempts or status is ParkedStatus.DEAD else log.info
        tell("message parked", **_fields(task), error=error.splitlines()[-1], status=status.value)
        return Parked(
            consumer=task.consumer,
            record=task.record,
            message_id=task.attributes.id,
            source=task.attributes.source,
            error=error,
            status=status,
            attempts=attempts,
            next_at=now + self._parking.delay(attempts) if attempts else now,
            parked_at=now,
        )

    def _keep(self, parked: Parked, error: Exception) -> None:
        """A parked message failed again: later, or never, if no attempt is left."""
        attempts = parked.attempts + 1
        dead = attempts >= self._parking.attempts
        status = ParkedStatus.DEAD if dead else ParkedStatus.WAITING
        next_at = self._sender.clock.now() + self._parking.delay(attempts)
        with self._store.begin() as uow:
            uow.repark(parked.id, error=_describe(error), status=status, attempts=attempts, next_at=next_at)
        log.error(
            "parked message failed again",
            consumer=parked.consumer,
            message_id=str(parked.message_id),
            attempts=attempts,
            status=status.value,
            error=repr(error),
        )


def _back_off(first: float, *, longest: float) -> WaitBaseT:
    return tenacity.wait_exponential(multiplier=first, max=longest) + tenacity.wait_random(0, first)


def _positions(records: Sequence[Record]) -> dict[TopicPartition, int]:
    return {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}


def _describe(error: Exception) -> str:
    """The error as an operator wants to read it: with its traceback, the last line saying what it was."""
    return "".join(traceback.format_exception(error)).strip()


def _fields(task: Task) -> dict[str, object]:
    return {
        "consumer": task.consumer,
        "topic": task.record.topic,
        "partition": task.record.partition,
        "offset": task.record.offset,
        "message_id": str(task.attributes.id),
    }
