"""The story of one order, topic by topic, as the logs of its two sagas tell it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kafkasaga import Operator
from kafkasaga.saga.events import (
    Cancelled,
    CommandSent,
    CompensationSent,
    Completed,
    Event,
    Ignored,
    Started,
    StepCompensated,
    StepExpired,
    StepFailed,
    StepSucceeded,
)

from .check import Check

SENT, CAME = "→", "←"
SAGAS = {"order": "validate-order", "orchestrator": "place-order"}

REMARKS: dict[type[Event], str] = {
    Started: "the saga starts",
    CommandSent: "{0.step}",
    StepSucceeded: "{0.step} succeeded",
    StepFailed: "{0.step} failed: {0.reason}",
    StepExpired: "{0.step}: {0.reason}",
    CompensationSent: "undo {0.step}",
    StepCompensated: "{0.step} undone",
    Ignored: "ignored: {0.reason}",
    Completed: "the saga is completed",
    Cancelled: "the saga is cancelled: {0.reason}",
}
"""What is worth telling of the log, and in which words."""


@dataclass(frozen=True, slots=True)
class Line:
    """One message, or something that happened without one."""

    at: datetime
    saga: str
    arrow: str
    topic: str
    remark: str


def story(check: Check, order_id: UUID) -> list[Line]:
    """Everything that happened to an order, in order."""
    lines = [line for service, saga in SAGAS.items() for line in _of_saga(check.operator(service), saga, str(order_id))]
    return sorted(lines, key=lambda line: line.at)


def _of_saga(operator: Operator, saga: str, key: str) -> Iterator[Line]:
    for summary in operator.sagas(name=saga, key=key):
        history = operator.saga(summary.saga_id)
        assert history is not None
        for entry in history.log:
            remark = REMARKS.get(type(entry.event), "").format(entry.event)
            for arrow, topic in _messages(entry.event):
                yield Line(entry.at, saga, arrow, topic, remark)


def _messages(event: Event) -> Iterator[tuple[str, str]]:
    """Sent or received, and the topic: in the order system, every message type is called like its topic."""
    match event:
        case CommandSent() | CompensationSent():
            yield SENT, event.message
        case Completed() | Cancelled():
            for message in event.messages:
                yield SENT, message
        case Started() | StepSucceeded() | StepFailed() | Ignored():
            yield CAME if event.message else "", event.message
        case StepCompensated():
            yield CAME, event.message if event.mark is None else f"{event.message} ({event.mark})"
        case StepExpired():
            yield "", ""
        case _:
            return
