"""What can happen to a saga from outside: the inputs of ``machine.decide``."""

from __future__ import annotations

from kafkasaga.messages import Message, Operation, SagaContext, SagaState, key_of
from kafkasaga.saga.definition import Definition
from kafkasaga.values import value


@value(frozen=True, slots=True)
class Start:
    """Begin an instance, from a message or from a state that the caller has built."""

    key: str
    message: Message | None = None
    state: SagaState | None = None
    incarnation: int = 0


@value(frozen=True, slots=True)
class Arrived:
    """A message for this instance came. ``message`` is None where a barrier answered without a body."""

    type: str
    message: Message | None
    context: SagaContext | None


@value(frozen=True, slots=True)
class Woken:
    """The clock has reached something that was due."""


@value(frozen=True, slots=True)
class Ran:
    """A local step was run, and left the state as ``data`` (JSON)."""

    step: str
    operation: Operation
    data: str


@value(frozen=True, slots=True)
class RetryStuck:
    """An operator has a stuck step tried again."""

    step: str
    by: str
    why: str


@value(frozen=True, slots=True)
class SkipStuck:
    """An operator declares a stuck step settled: done, if it was going forward; undone, if it was being undone."""

    step: str
    by: str
    why: str


@value(frozen=True, slots=True)
class RefuseStuck:
    """An operator declares that a stuck pivot did not happen and never will: the saga turns back."""

    step: str
    by: str
    why: str


Operated = RetryStuck | SkipStuck | RefuseStuck
Input = Start | Arrived | Woken | Ran | Operated


def start_of(definition: Definition, message: Message) -> Start:
    """The input that ``message`` is to a saga that starts on it: the message's key is the saga's correlation key."""
    starts_on = definition.starts_on
    if starts_on is None or not isinstance(message, starts_on):
        by = f"on {starts_on.__name__}" if starts_on else f"by service.start, from a {definition.state.__name__}"
        raise ValueError(f"saga {definition.name!r} does not start on {type(message).__name__}; it starts {by}")
    return Start(key=key_of(message), message=message)
