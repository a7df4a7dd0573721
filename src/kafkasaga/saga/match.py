"""Which step a message answers. Late, repeated and foreign messages answer none: they are logged and change nothing.

A reply names its command's saga, step, generation and operation in its headers, and is taken for exactly that. Any
attempt of the pending generation counts: whichever arrives first settles the step.

A message without those headers comes from a participant that is not kafkasaga, or from the world outside. It is
found by the saga's key and taken for the one pending step that accepts its type. Where a fan-out has several elements,
that is never sure, also when only one of them waits still: it may be another one's reply once more, and an action would
be taken for undone that is not (invariant I8). The event of a ``WaitFor`` answers no command, so whatever headers it
carries are not about it; and since nobody sends it at the saga's bidding, it may come before the saga waits for it.
Then it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kafkasaga.messages import Mark, Operation, SagaContext
from kafkasaga.saga.definition import Definition
from kafkasaga.saga.events import CameEarly, Ignored
from kafkasaga.saga.flow import LocalStep, Step, WaitFor
from kafkasaga.saga.inputs import Arrived
from kafkasaga.saga.instance import Instance, StepState, StepStatus
from kafkasaga.saga.plan import Place, split_path
from kafkasaga.values import value

AWAITS_REPLY: Final = {
    Operation.ACTION: frozenset({StepStatus.PENDING, StepStatus.WAITING, StepStatus.STUCK}),
    Operation.COMPENSATION: frozenset({StepStatus.UNDOING, StepStatus.UNDO_WAITING, StepStatus.UNDO_STUCK}),
}
"""In which statuses a step takes the reply to an operation."""


@value(frozen=True, slots=True)
class Answer:
    """The message settles this operation of this step."""

    step: str
    operation: Operation


def match(definition: Definition, instance: Instance, arrived: Arrived) -> Answer | CameEarly | Ignored:
    """What a message is to a saga: an answer, an event that came early, or nothing."""
    if instance.ended is not None:
        return Ignored(message=arrived.type, reason=f"the saga has ended ({instance.ended})")
    context = arrived.context
    found: Answer | CameEarly | str
    if context is None:
        found = _by_type(definition, instance, arrived.type)
    elif context.saga_id != instance.id:
        found = f"it answers another saga ({context.saga_id})"
    else:
        found = _by_context(definition, instance, arrived, context)
    if not isinstance(found, str):
        return found
    if arrived.type in definition.awaited_events:
        found = _by_event(definition, instance, arrived, found)
    return Ignored(message=arrived.type, reason=found) if isinstance(found, str) else found


def _by_context(definition: Definition, instance: Instance, arrived: Arrived, context: SagaContext) -> Answer | str:
    """The operation that the headers name, or why it is not open to this message."""
    path, operation = context.step, context.operation
    state = instance.steps.get(path)
    if state is None:
        return f"step {path!r} has not begun"
    if context.mark is Mark.SUPERSEDED:
        return f"step {path!r} was overtaken by its compensation"
    if state.status not in AWAITS_REPLY[operation]:
        return f"step {path!r} is {state.status}: too late"
    if state.generation != context.generation:
        return f"it answers generation {context.generation} of step {path!r}, which is at {state.generation}"
    if operation is Operation.COMPENSATION and context.mark is not None:
        return Answer(path, operation)  # the barrier answered: there may be no body, and the type says nothing
    if not _accepts(definition, path, state, operation, arrived.type):
        return f"it is not a reply of step {path!r}"
    if arrived.message is None:
        return f"it has no body, and step {path!r} needs one"
    return Answer(path, operation)


def _by_type(definition: Definition, instance: Instance, type: str) -> Answer | str:
    """The only pending step that accepts this type of message."""
    found = list(candidates(definition, instance, type))
    if not found:
        return "no step waits for it"
    if len(found) > 1:
        return f"several steps wait for it ({', '.join(answer.step for answer in found)}); its headers do not say which"
    if _is_one_of_several(definition, instance, found[0].step):
        return f"step {found[0].step!r} is one of several elements; its headers do not say which of them it answers"
    return found[0]


def _is_one_of_several(definition: Definition, instance: Instance, path: str) -> bool:
    """Whether a fan-out around the step has other elements."""
    name, indices = split_path(path)
    fans = definition.fans[name]
    places = (Place(fans[:depth], indices[:depth]) for depth in range(len(fans)))
    return any(instance.fans[fan.name + at.suffix].count > 1 for fan, at in zip(fans, places, strict=True))


def _by_event(definition: Definition, instance: Instance, arrived: Arrived, why_not: str) -> Answer | CameEarly | str:
    """The wait that this event ends; if none has begun that it could end, it is kept for one that has not."""
    waits = [a for a in candidates(definition, instance, arrived.type) if _is_wait(definition, a.step)]
    if len(waits) == 1:
        return waits[0]
    if waits or arrived.message is None or instance.turned is not None:
        return why_not
    if not any(name not in instance.steps for name in definition.awaited_events[arrived.type]):
        return why_not
    if arrived.type in instance.early:
        return "it came early, and one like it is kept already"
    return CameEarly(message=arrived.type, body=arrived.message.model_dump_json())


def candidates(definition: Definition, instance: Instance, type: str) -> Iterator[Answer]:
    """Every operation of a step that a message of this type could answer now."""
    for path, state in instance.steps.items():
        for operation in Operation:
            if _accepts(definition, path, state, operation, type):
                yield Answer(path, operation)


def _accepts(definition: Definition, path: str, state: StepState, operation: Operation, type: str) -> bool:
    """Whether a command of this operation is out (or an event awaited) that a message of this type could answer."""
    if state.status not in AWAITS_REPLY[operation]:
        return False
    step = definition.step_at(path)
    if isinstance(step, LocalStep):
        return False
    if isinstance(step, Step) and state.command_id is None:
        return False  # refused before; the command of the new generation has not been sent yet
    if operation is Operation.ACTION:
        return type in step.succeeds_on or type in step.fails_on
    return isinstance(step, Step) and type in step.compensated_on


def _is_wait(definition: Definition, path: str) -> bool:
    return isinstance(definition.step_at(path), WaitFor)
