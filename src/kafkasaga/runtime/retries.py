"""Trying parked messages again, one at a time, by whichever replica comes first.

An attempt is recorded in a transaction of its own before it is made: one that ends the process was made all the same
(A21). Between the two transactions another replica cannot take the message, since it is not due, nor one behind it,
since that is not the first of its lane (I4); if the wait was longer than that, the count has changed, and who sees that
lets go.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.ports import UNMATCHED, InboxKey, Parked, ParkedStatus, Store, UnitOfWork
from kafkasaga.runtime.execution import Execution, TaskFailed, is_offered
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.parking import (
    DEATHS,
    Parking,
    ProcessEnded,
    described,
    in_short,
    in_words,
    log_fields,
    when_dead,
)
from kafkasaga.runtime.routing import Router, SagaRoute, Task

log = structlog.get_logger("kafkasaga.consumer")

FREE_LANES_EVERY: Final = 30.0
"""Seconds between looks for messages that wait behind nothing."""


class Retries:
    """Gives parked messages their next attempt."""

    def __init__(self, store: Store, router: Router, execution: Execution, parking: Parking, sender: Sender) -> None:
        self._store, self._router, self._execution = store, router, execution
        self._policy, self._clock = parking.policy, sender.clock
        self._freed_at = float("-inf")

    def retry_one(self) -> bool:
        """Try one parked message that is due; False if there is none.

        Raises:
            EnvironmentUnavailable: if the database is away.
        """
        self._free_lanes()
        now = self._clock.now()
        with self._store.begin() as uow:
            found = uow.claim_parked(now)
            if found is None:
                return False
            task = self._router.route_for(found.record, found.consumer.removesuffix(UNMATCHED))
            hopeless = self._hopeless(found)
            if hopeless is not None:
                self._end(uow, found, task, hopeless)
                return True
            parked = replace(found, attempts=found.attempts + 1, deaths=found.deaths + 1)
            self._write(uow, parked, found.error, ParkedStatus.WAITING)
        self._attempt(parked, task)
        return True

    def _attempt(self, parked: Parked, task: Task) -> None:
        """Make the attempt that has been recorded."""
        try:
            with self._store.begin() as uow:
                if not uow.lock_parked(parked.id, parked.attempts):
                    return  # another replica tries it by now, or a person has changed it
                if task.problem is not None:
                    raise TaskFailed(task, ValueError(task.problem))
                if unmatched := self._execution.run(uow, [task]):
                    raise TaskFailed(*unmatched[0])
                uow.unpark(parked.id)
                for id in self._needless_copies(uow, task):
                    uow.unpark(id)
                    log.info("parked message removed: another saga has taken it", **log_fields(task))
        except EnvironmentUnavailable:
            self._take_back(parked)
            raise
        except SerializationConflict:
            self._take_back(parked)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is kept with its message
            self._failed(parked, task, error.cause if isinstance(error, TaskFailed) else error)
        else:
            self._execution.committed()
            log.info("parked message handled", **log_fields(task), attempts=parked.attempts)

    def _take_back(self, parked: Parked) -> None:
        """The database was away, or in conflict: that says nothing about the message, so the attempt does not count."""
        with suppress(EnvironmentUnavailable, SerializationConflict), self._store.begin() as uow:
            if uow.lock_parked(parked.id, parked.attempts):
                before = replace(parked, attempts=parked.attempts - 1, deaths=0)
                self._write(uow, before, parked.error, ParkedStatus.WAITING)

    def _failed(self, parked: Parked, task: Task, error: Exception) -> None:
        """A parked message failed again: later, or never, if no attempt is left."""
        with self._store.begin() as uow:
            if not uow.lock_parked(parked.id, parked.attempts):
                return
            if parked.attempts >= self._policy.attempts:
                if parked.consumer.endswith(UNMATCHED) and self._is_anothers(uow, task):
                    uow.unpark(parked.id)
                    log.info("parked message removed: it is another saga's, which has it", **log_fields(task))
                else:
                    self._end(uow, parked, task, described(error, task))
                return
            self._write(uow, replace(parked, deaths=0), described(error, task), ParkedStatus.WAITING)
        log.error("parked message failed again", **log_fields(task), attempts=parked.attempts, error=in_words(error))

    def _needless_copies(self, uow: UnitOfWork, task: Task) -> list[int]:
        """The copies of what a saga has taken that no other one could match, and need not."""
        return self._parked(uow, task, UNMATCHED, [other for other in self._others(task) if is_offered(other)])

    def _is_anothers(self, uow: UnitOfWork, task: Task) -> bool:
        """Another saga has it, and cannot take it yet: as unmatched it would end as dead, a false alarm."""
        return is_offered(task) and bool(self._parked(uow, task, "", self._others(task)))

    def _others(self, task: Task) -> list[Task]:
        """A message for the other sagas to which it was offered."""
        offered = [other for other in self._router.route(task.record) if isinstance(other.route, SagaRoute)]
        return [other for other in offered if other.consumer != task.consumer]

    def _parked(self, uow: UnitOfWork, task: Task, kind: str, others: Sequence[Task]) -> list[int]:
        """The copies for these that are parked."""
        attributes = task.attributes
        keys = [InboxKey(f"{other.consumer}{kind}", attributes.source, attributes.id) for other in others]
        return list(uow.parked_ids(task.record.topic, keys).values()) if keys else []

    def _hopeless(self, parked: Parked) -> str | None:
        """Why a message that waits is not tried again: its last attempts did not end, or there were enough."""
        if parked.deaths < DEATHS and parked.attempts < self._policy.attempts:
            return None
        return f"{ProcessEnded(parked.deaths)}\nbefore that: {parked.error}"

    def _end(self, uow: UnitOfWork, parked: Parked, task: Task, error: str) -> None:
        status = when_dead(task)
        self._write(uow, parked, error, status)
        log.error(
            "parked message is dead",
            **log_fields(task),
            attempts=parked.attempts,
            status=status.value,
            error=in_short(error),
        )

    def _write(self, uow: UnitOfWork, parked: Parked, error: str, status: ParkedStatus) -> None:
        uow.repark(
            parked.id,
            error=error,
            status=status,
            attempts=parked.attempts,
            next_at=self._clock.now() + self._policy.delay(max(parked.attempts, 1)),
            deaths=parked.deaths,
        )

    def _free_lanes(self) -> None:
        now = self._clock.monotonic()
        if now - self._freed_at < FREE_LANES_EVERY:
            return
        self._freed_at = now
        with self._store.begin() as uow:
            uow.free_lanes()
