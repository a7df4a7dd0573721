"""What the log says of sagas: that they begin, turn back and end, and what a person should know of.

It is said after the commit, so that nothing is said of what was rolled back, or twice of a batch that is run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import structlog

from kafkasaga.saga.events import (
    Cancelled,
    CompensationBegan,
    Completed,
    Event,
    RetryScheduled,
    Started,
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


def tell(happened: Happened) -> None:
    """Log what happened."""
    usual: list[tuple[str, dict[str, Any]]] = []
    for instance, events in happened:
        who = {"saga": instance.saga, "saga_id": str(instance.id), "key": instance.key}
        for event in events:
            _warn(event, who)
            usual += ((what, who | more) for what, more in _usual(event))
    if len(happened) > SINGLY and usual:
        log.info("sagas went on", **Counter(what.partition(" ")[2].replace(" ", "_") for what, _ in usual))
        return
    for what, fields in usual:
        log.info(what, **fields)


def _usual(event: Event) -> Iterable[tuple[str, dict[str, Any]]]:
    match event:
        case Started():
            yield "saga started", {}
        case CompensationBegan():
            yield "saga turned back", {"step": event.step, "reason": event.reason}
        case Completed():
            yield "saga completed", {}
        case Cancelled():
            yield "saga cancelled", {"reason": event.reason}
        case _:
            pass


def _warn(event: Event, who: dict[str, Any]) -> None:
    match event:
        case StepExpired():
            log.warning("a step's reply did not come in time", **who, step=event.step, reason=event.reason)
        case RetryScheduled():
            log.warning("a step is tried again", **who, step=event.step, reason=event.reason)
        case StepStuck():
            log.warning("a saga is stuck: a person is needed", **who, step=event.step, reason=event.reason)
        case StepSucceeded() | StepFailed() | StepCompensated() if event.other_key is not None:
            log.warning(
                "a reply names its step and another key; it was taken, its participant should be looked at",
                **who,
                step=event.step,
                other_key=event.other_key,
            )
        case _:
            pass
