"""What is parked, and why: tasks that cannot run now, as rows that are tried again later (invariants I10, I13)."""

from __future__ import annotations

import traceback
from dataclasses import replace
from datetime import datetime
from typing import Final

import structlog

from kafkasaga.ports import UNMATCHED, Parked, ParkedStatus
from kafkasaga.runtime.orchestrator import Unmatched
from kafkasaga.runtime.routing import HandlerRoute, SagaRoute, Task
from kafkasaga.saga.functions import whose
from kafkasaga.saga.policy import Retry

log = structlog.get_logger("kafkasaga.consumer")

DEATHS: Final = 3
"""So many attempts in a row that ended the process, and a message is not tried any more."""


class ProcessEnded(Exception):
    """What is noted of a message at which the process has died."""

    def __init__(self, times: int) -> None:
        super().__init__(f"the process ended while this message was handled, {times} times in a row")
        self.times = times


class Parking:
    """Decides what is parked instead of run."""

    def __init__(self, policy: Retry) -> None:
        self.policy: Final = policy

    def instead(self, task: Task, error: Exception | None, *, behind: bool, now: datetime) -> Parked | None:
        """The task as a parked message, if it is not to run now.

        Args:
            task: what has come.
            error: what it has raised, if it was tried.
            behind: whether something of its lane is parked already.
            now: the time.
        """
        if task.problem is not None:
            return self._park(task, task.problem, when_dead(task), 0, now)
        if behind:
            return self._park(task, "waits behind an earlier message of its key", ParkedStatus.WAITING, 0, now)
        if isinstance(error, ProcessEnded):
            return replace(self._park(task, str(error), when_dead(task), error.times, now), deaths=error.times)
        if error is not None:
            status = ParkedStatus.WAITING if self.policy.attempts > 1 else when_dead(task)
            return self._park(task, described(error, task), status, 1, now)
        return None

    def unmatched(self, task: Task, error: Unmatched, now: datetime) -> Parked:
        """Kept in a lane of its own: it must not hold back what does belong to a saga.

        An answer names its saga, which was committed before the command could be sent: if it is unknown, it is not
        ours. A message that is found by its key may have overtaken the one that starts its saga (A6): it is retried.
        """
        assert isinstance(task.route, SagaRoute)
        by_key = task.route.context(task.attributes) is None
        status = ParkedStatus.WAITING if by_key else ParkedStatus.DEAD
        attempts = 1 if status is ParkedStatus.WAITING else 0
        return replace(self._park(task, str(error), status, attempts, now), consumer=f"{task.consumer}{UNMATCHED}")

    def _park(self, task: Task, error: str, status: ParkedStatus, attempts: int, now: datetime) -> Parked:
        tell = log.error if attempts or status is ParkedStatus.DEAD else log.info
        tell("message parked", **log_fields(task), error=in_short(error), status=status.value)
        return Parked(
            consumer=task.consumer,
            record=task.record,
            message_id=task.attributes.id,
            source=task.attributes.source,
            error=error,
            status=status,
            attempts=attempts,
            next_at=now + self.policy.delay(attempts) if attempts else None,
            parked_at=now,
            asks=task.asks,
        )


def when_dead(task: Task) -> ParkedStatus:
    """What a message becomes that is not tried any more."""
    goes_on = isinstance(task.route, HandlerRoute) and task.route.handler.when_dead == "go-on"
    return ParkedStatus.DEAD_LETTER if goes_on else ParkedStatus.DEAD


def described(error: Exception, task: Task) -> str:
    """The error as an operator wants to read it: what it was and where on the first line, then its traceback."""
    return f"{in_words(error)} ({_where(error, task)})\n\n{''.join(traceback.format_exception(error)).strip()}"


def in_words(error: BaseException) -> str:
    """An error on one line: its type, and the first line of what it says."""
    first = str(error).strip().partition("\n")[0].rstrip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def in_short(described: str) -> str:
    """The line of a described error that says what it was."""
    return described.partition("\n")[0]


def _where(error: Exception, task: Task) -> str:
    match task.route:
        case HandlerRoute(handler=handler):
            return f"handler {handler.name}"
        case SagaRoute(saga=saga):
            return whose(error) or f"saga {saga!r}"
        case None:
            return task.consumer


def log_fields(task: Task) -> dict[str, object]:
    """What a log record says of a task."""
    return {
        "consumer": task.consumer,
        "topic": task.record.topic,
        "partition": task.record.partition,
        "offset": task.record.offset,
        "message_id": str(task.attributes.id),
    }
