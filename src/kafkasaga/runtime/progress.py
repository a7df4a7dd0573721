"""What the log says of sagas: that they begin, turn back and end, and what a person should know of.

It is said after the commit, so that nothing is said of what was rolled back, or twice of a batch that is run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import structlog

from kafkasaga.saga.events import (
    Cancelled,
    CommandSent,
    CompensationBegan,
    CompensationSent,
    Completed,
    Event,
    RetryScheduled,
    Started,
    StepBegan,
    StepCompensated,
    StepExpired,
    StepFailed,
    StepStuck,
    StepSucceeded,
)
from kafkasaga.saga.instance import Instance

log = structlog.get_logger("kafkasaga.orchestrator")

SINGLY: Final = 10
"""So many sagas of one transaction get lines of their own; of more, one line says how many began and ended."""

Happened = Sequence[tuple[Instance, Sequence[Event]]]
"""Sagas, and what has happened to each of them."""


_UNTOLD: Final = frozenset({CommandSent, CompensationSent, StepBegan})
"""Nothing is ever said of these, and each saga has several; nor of most that say that a step succeeded."""


def tell(happened: Happened) -> None:
    """Log what happened."""
    usual: list[tuple[str, dict[str, Any], Instance]] = []
    for instance, events in happened:
        for event in events:
            if type(event) in _UNTOLD or (type(event) is StepSucceeded and event.other_key is None):
                continue
            _warn(event, instance)
            if (told := _usual(event)) is not None:
                usual.append((*told, instance))
    if len(happened) > SINGLY and usual:
        log.info("sagas went on", **Counter(what.partition(" ")[2].replace(" ", "_") for what, _, _ in usual))
        return
    for what, more, instance in usual:
        log.info(what, **_who(instance), **more)


def _who(instance: Instance) -> dict[str, Any]:
    return {"saga": instance.saga, "saga_id": str(instance.id), "key": instance.key}


def _usual(event: Event) -> tuple[str, dict[str, Any]] | None:
    match event:
        case Started():
            return "saga started", {}
        case CompensationBegan():
            return "saga turned back", {"step": event.step, "reason": event.reason}
        case Completed():
            return "saga completed", {}
        case Cancelled():
            return "saga cancelled", {"reason": event.reason}
        case _:
            return None


def _warn(event: Event, instance: Instance) -> None:
    match event:
        case StepExpired():
            log.warning("a step's reply did not come in time", **_who(instance), step=event.step, reason=event.reason)
        case RetryScheduled():
            log.warning("a step is tried again", **_who(instance), step=event.step, reason=event.reason)
        case StepStuck():
            log.warning("a saga is stuck: a person is needed", **_who(instance), step=event.step, reason=event.reason)
        case StepSucceeded() | StepFailed() | StepCompensated() if event.other_key is not None:
            log.warning(
                "a reply names its step and another key; it was taken, its participant should be looked at",
                **_who(instance),
                step=event.step,
                other_key=event.other_key,
            )
        case _:
            pass
