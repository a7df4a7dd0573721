"""What the saga log holds: one event for each thing that happened to a saga.

Events hold *resulting data*. ``decide`` runs the user's functions and writes down what came out; ``evolve`` only
applies it, so that a lambda that was edited later cannot change the past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from types import NoneType
from typing import Any, ClassVar, get_args, get_type_hints
from uuid import UUID

from kafkasaga.errors import CorruptLog
from kafkasaga.messages import from_text, writer_of
from kafkasaga.values import value


@value(frozen=True, slots=True, kw_only=True)
class Started:
    """The saga began, because of ``message``, with ``data`` (JSON)."""

    saga: str
    version: int
    key: str
    incarnation: int
    message: str
    data: str
    kind: ClassVar[str] = "started"


@value(frozen=True, slots=True, kw_only=True)
class BranchTaken:
    """A condition was looked at, once and for all."""

    branch: str
    taken: bool
    kind: ClassVar[str] = "branch-taken"


@value(frozen=True, slots=True, kw_only=True)
class FannedOut:
    """A fan-out got its elements: ``count`` of them, computed from ``data`` (the state as it was then)."""

    fan: str
    count: int
    data: str
    kind: ClassVar[str] = "fanned-out"


@value(frozen=True, slots=True, kw_only=True)
class StepBegan:
    """A local step, or a wait for an event, began: nothing was sent. ``early`` is the event that had come already."""

    step: str
    deadline: datetime | None
    early: str | None
    kind: ClassVar[str] = "step-began"


@value(frozen=True, slots=True, kw_only=True)
class CommandSent:
    """The step's command went into the outbox."""

    step: str
    generation: int
    attempt: int
    command_id: UUID
    message: str
    deadline: datetime
    kind: ClassVar[str] = "command-sent"


@value(frozen=True, slots=True, kw_only=True)
class StepSucceeded:
    """A step is done. ``data`` is the saga's state after it, or None if it did not change.

    ``other_key`` is the key that the reply carries, where it ought to be the saga's and is not.
    """

    step: str
    message: str
    data: str | None
    other_key: str | None = None
    kind: ClassVar[str] = "step-succeeded"


@value(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """The participant refused. ``other_key`` as in ``StepSucceeded``."""

    step: str
    message: str
    reason: str
    other_key: str | None = None
    kind: ClassVar[str] = "step-failed"


@value(frozen=True, slots=True, kw_only=True)
class StepExpired:
    """No reply within the deadline, and no attempt left: whether the step ran is unknown."""

    step: str
    reason: str
    kind: ClassVar[str] = "step-expired"


@value(frozen=True, slots=True, kw_only=True)
class RetryScheduled:
    """The command will be sent again at ``at``. A new generation follows only a refusal."""

    step: str
    generation: int
    at: datetime
    reason: str
    kind: ClassVar[str] = "retry-scheduled"


@value(frozen=True, slots=True, kw_only=True)
class CompensationBegan:
    """The saga turned back, because of ``step``. ``body`` is the failure reply as JSON, if there was one."""

    step: str
    reason: str
    message: str | None
    body: str | None
    kind: ClassVar[str] = "compensation-began"


@value(frozen=True, slots=True, kw_only=True)
class CompensationSent:
    """The step's compensation went into the outbox (or, of a local step, was run)."""

    step: str
    generation: int
    attempt: int
    command_id: UUID
    message: str
    deadline: datetime | None
    kind: ClassVar[str] = "compensation-sent"


@value(frozen=True, slots=True, kw_only=True)
class StepCompensated:
    """The compensation was confirmed. ``mark`` tells how, if the participant's barrier answered (empty, repeated).

    ``other_key`` as in ``StepSucceeded``.
    """

    step: str
    message: str
    mark: str | None
    data: str | None
    other_key: str | None = None
    kind: ClassVar[str] = "step-compensated"


@value(frozen=True, slots=True, kw_only=True)
class StepStuck:
    """No attempt is left and the step can be neither undone nor left out: a person is needed."""

    step: str
    generation: int
    reason: str
    kind: ClassVar[str] = "step-stuck"


@value(frozen=True, slots=True, kw_only=True)
class StepRetried:
    """An operator had a stuck step tried again."""

    step: str
    by: str
    why: str
    kind: ClassVar[str] = "step-retried"


@value(frozen=True, slots=True, kw_only=True)
class StepSkipped:
    """An operator declared a stuck step settled."""

    step: str
    by: str
    why: str
    kind: ClassVar[str] = "step-skipped"


@value(frozen=True, slots=True, kw_only=True)
class StepRefused:
    """An operator declared that a stuck pivot did not happen."""

    step: str
    by: str
    why: str
    kind: ClassVar[str] = "step-refused"


@value(frozen=True, slots=True, kw_only=True)
class CameEarly:
    """An event came before the saga waits for it; its ``body`` (JSON) is kept until then."""

    message: str
    body: str
    kind: ClassVar[str] = "came-early"


@value(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A message for this saga changed nothing: late, repeated, or of another attempt."""

    message: str
    reason: str
    kind: ClassVar[str] = "ignored"


@value(frozen=True, slots=True, kw_only=True)
class Completed:
    """The flow came to its end."""

    messages: tuple[str, ...]
    kind: ClassVar[str] = "completed"


@value(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Everything that may have run is undone."""

    reason: str
    messages: tuple[str, ...]
    kind: ClassVar[str] = "cancelled"


Event = (
    Started
    | BranchTaken
    | FannedOut
    | StepBegan
    | CommandSent
    | StepSucceeded
    | StepFailed
    | StepExpired
    | RetryScheduled
    | CompensationBegan
    | CompensationSent
    | StepCompensated
    | StepStuck
    | StepRetried
    | StepSkipped
    | StepRefused
    | CameEarly
    | Ignored
    | Completed
    | Cancelled
)

EVENTS: dict[str, type[Event]] = {event.kind: event for event in get_args(Event)}
"""Every event type by its kind, the name under which it lies in the log."""


def step_of(event: Event) -> str | None:
    """The step path that an event is about, if it is about one."""
    return getattr(event, "step", None)


def to_body(event: Event) -> str:
    """The event as JSON, without its kind and step (the log has columns for them)."""
    return _WRITERS[type(event)](event)


def from_body(kind: str, step: str | None, body: str) -> Event:
    """The event of one row of the log.

    Raises:
        CorruptLog: for a kind or a body that this version does not know.
    """
    type = EVENTS.get(kind)
    if type is None:
        raise CorruptLog(f"the saga log holds an event of kind {kind!r}, which this version of kafkasaga does not know")
    try:
        raw: dict[str, Any] = from_text(body)
        if unknown := raw.keys() - _FIELDS[type].keys():
            raise CorruptLog(f"an event of kind {kind!r} has fields that nobody knows: {sorted(unknown)}")
        values = {name: read(raw.get(name)) for name, read in _FIELDS[type].items()}
        if step is not None:
            values["step"] = step
        return type(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptLog(f"an event of kind {kind!r} cannot be read: {error}") from None


def _only(expected: Callable[[Any], Any], *types: Any) -> Callable[[Any], Any]:
    """A reader of JSON values of ``types``; anything else is corrupt."""

    def read(value: Any) -> Any:
        if not isinstance(value, types):
            raise TypeError(f"{value!r} is not expected there")
        return value if value is None else expected(value)

    return read


_READERS: Mapping[Any, Callable[[Any], Any]] = {
    str: _only(str, str),
    str | None: _only(str, str, NoneType),
    int: _only(int, int),
    bool: _only(bool, bool),
    UUID: _only(UUID, str),
    datetime: _only(datetime.fromisoformat, str),
    datetime | None: _only(datetime.fromisoformat, str, NoneType),
    tuple[str, ...]: _only(tuple, list),
}


def _fields(event: type[Event]) -> dict[str, Callable[[Any], Any]]:
    hints = get_type_hints(event)
    return {field.name: _READERS[hints[field.name]] for field in fields(event) if field.name != "step"}


_FIELDS = {event: _fields(event) for event in EVENTS.values()}
"""How each field of each event but its step is read from JSON."""
_WRITERS = {event: writer_of(event, tuple(fields)) for event, fields in _FIELDS.items()}
"""How these fields are written."""
