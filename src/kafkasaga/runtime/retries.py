"""Trying parked messages again, one at a time, by whichever replica comes first."""

from __future__ import annotations

import structlog

from kafkasaga.errors import EnvironmentUnavailable
from kafkasaga.ports import Parked, ParkedStatus, Store
from kafkasaga.runtime.execution import Execution, TaskFailed
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.parking import UNMATCHED, Parking, described, log_fields
from kafkasaga.runtime.routing import Router

log = structlog.get_logger("kafkasaga.consumer")


class Retries:
    """Gives parked messages their next attempt."""

    def __init__(self, store: Store, router: Router, execution: Execution, parking: Parking, sender: Sender) -> None:
        self._store, self._router, self._execution = store, router, execution
        self._policy, self._clock = parking.policy, sender.clock

    def retry_one(self) -> bool:
        """Try one parked message that is due; False if there is none.

        Raises:
            EnvironmentUnavailable: if the database is away.
        """
        parked: Parked | None = None
        try:
            with self._store.begin() as uow:
                parked = uow.claim_parked(self._clock.now())
                if parked is None:
                    return False
                task = self._router.route_for(parked.record, parked.consumer.removesuffix(UNMATCHED))
                if task.problem is not None:
                    raise TaskFailed(task, ValueError(task.problem))
                if unmatched := self._execution.run(uow, [task]):
                    raise TaskFailed(*unmatched[0])
                uow.unpark(parked.id)
        except EnvironmentUnavailable:
            raise
        except Exception as error:
            if parked is None:
                raise
            self._keep(parked, error.cause if isinstance(error, TaskFailed) else error)
        else:
            log.info("parked message handled", **log_fields(task), attempts=parked.attempts + 1)
        return True

    def _keep(self, parked: Parked, error: Exception) -> None:
        """A parked message failed again: later, or never, if no attempt is left."""
        attempts = parked.attempts + 1
        dead = attempts >= self._policy.attempts
        status = ParkedStatus.DEAD if dead else ParkedStatus.WAITING
        next_at = self._clock.now() + self._policy.delay(attempts)
        with self._store.begin() as uow:
            uow.repark(parked.id, error=described(error), status=status, attempts=attempts, next_at=next_at)
        log.error(
            "parked message failed again",
            consumer=parked.consumer,
            message_id=str(parked.message_id),
            attempts=attempts,
            status=status.value,
            error=repr(error),
        )
