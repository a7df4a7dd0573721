"""What an input does to the step that it concerns. Where the saga goes from there is ``advance``'s business."""

from __future__ import annotations

from typing import Any

from kafkasaga.messages import Operation, contract_of, text_of
from kafkasaga.saga import view
from kafkasaga.saga.events import (
    Ignored,
    Started,
    StepCompensated,
    StepExpired,
    StepFailed,
    StepRefused,
    StepRetried,
    StepSkipped,
    StepSucceeded,
)
from kafkasaga.saga.flow import AnyLeaf, LocalStep, Step, WaitFor
from kafkasaga.saga.functions import call
from kafkasaga.saga.inputs import Arrived, Operated, Ran, RefuseStuck, RetryStuck, SkipStuck, Start
from kafkasaga.saga.instance import Instance, StepStatus
from kafkasaga.saga.match import AWAITS_REPLY, Answer, match
from kafkasaga.saga.turn import Turn


def begin(turn: Turn, start: Start) -> None:
    """A new saga starts."""
    definition, message = turn.definition, start.message
    if start.state is not None:
        state = start.state
    elif message is not None:
        state = call(
            definition.name, f"{definition.state.__name__} from {type(message).__name__}", definition.begin, message
        )
    else:
        raise ValueError(f"saga {definition.name!r} needs a message or a state to start")
    turn.begin(
        Started(
            saga=definition.name,
            version=definition.version,
            key=start.key,
            incarnation=start.incarnation,
            message="" if message is None else contract_of(message).type,
            data=state.model_dump_json(),
        )
    )


def begin_again(turn: Turn, start: Start) -> None:
    """A saga that exists is started once more: a recorded no-op."""
    message = "" if start.message is None else contract_of(start.message).type
    turn.emit(Ignored(message=message, reason="this saga has been started already"))


def arrive(turn: Turn, arrived: Arrived) -> None:
    """A message came."""
    found = match(turn.definition, turn.instance, arrived)
    if isinstance(found, Answer):
        settle(turn, found, arrived)
    else:
        turn.emit(found)


def settle(turn: Turn, answer: Answer, arrived: Arrived) -> None:
    """A message answers what a step waits for."""
    path, step = answer.step, turn.definition.step_at(answer.step)
    assert not isinstance(step, LocalStep)
    if answer.operation is Operation.COMPENSATION:
        assert isinstance(step, Step)
        entry = step.compensated_on.get(arrived.type)
        mark = None if arrived.context is None or arrived.context.mark is None else arrived.context.mark.value
        data = view.recorded(turn.definition, turn.instance, path, entry, arrived.message)
        turn.emit(
            StepCompensated(step=path, message=arrived.type, mark=mark, data=data, other_key=_other_key(turn, arrived))
        )
    elif (entry := step.succeeds_on.get(arrived.type)) is not None:
        data = view.recorded(turn.definition, turn.instance, path, entry, arrived.message)
        turn.emit(StepSucceeded(step=path, message=arrived.type, data=data, other_key=_other_key(turn, arrived)))
    else:
        _refuse(turn, path, step, arrived)


def wake(turn: Turn) -> None:
    """The clock moved: whatever is due happens. A saga that has ended leaves steps behind that nobody waits for."""
    if turn.instance.ended is not None:
        return
    for path, state in list(turn.instance.steps.items()):
        if state.due is None or state.due > turn.now:
            continue
        going_forward = turn.instance.turned is None
        match state.status:
            case StepStatus.WAITING if going_forward:
                turn.send(path)
            case StepStatus.WAITING:
                turn.emit(StepExpired(step=path, reason=f"step {path!r} is not tried again: the saga turned back"))
            case StepStatus.UNDO_WAITING:
                turn.send_compensation(path)
            case StepStatus.UNDOING:
                step = turn.definition.step_at(path)
                assert isinstance(step, Step)
                reason = f"compensation of step {path!r} not confirmed within {step.deadline}"
                turn.try_again(path, step, reason, generation=state.generation)
            case _:
                _expire(turn, path, turn.definition.step_at(path))


def ran(turn: Turn, ran: Ran) -> None:
    """A local step ran; an exception of its function would have undone the whole transaction."""
    state = turn.instance.steps.get(ran.step)
    if state is None or state.status not in AWAITS_REPLY[ran.operation]:
        stands = _stands(turn.instance, ran.step)
        raise ValueError(f"no {ran.operation} of local step {ran.step!r} was to be run: it {stands}")
    data = ran.data if ran.data != turn.instance.data else None
    if ran.operation is Operation.ACTION:
        turn.emit(StepSucceeded(step=ran.step, message="", data=data))
    else:
        turn.emit(StepCompensated(step=ran.step, message="", mark=None, data=data))


def operate(turn: Turn, act: Operated) -> None:
    """A person decides about a stuck step; who and why is logged."""
    path, state = act.step, turn.instance.steps.get(act.step)
    if state is None or not state.status.stuck:
        raise ValueError(f"step {path!r} {_stands(turn.instance, path)}; only a stuck step can be operated on")
    match act:
        case SkipStuck():
            turn.emit(StepSkipped(step=path, by=act.by, why=act.why))
        case RetryStuck():
            turn.emit(StepRetried(step=path, by=act.by, why=act.why))
            (turn.send if state.status is StepStatus.STUCK else turn.send_compensation)(path)
        case RefuseStuck():
            if turn.definition.step_at(path).kind != "pivot":
                raise ValueError(f"step {path!r} is not a pivot; there is no way back from it, only retry or skip")
            turn.emit(StepRefused(step=path, by=act.by, why=act.why))
            turn.turn_back(path, act.why)


def _refuse(turn: Turn, path: str, step: Step[Any] | WaitFor[Any], arrived: Arrived) -> None:
    """The participant refused. A step that cannot fail for good is asked again, as a new generation."""
    reason = str(getattr(arrived.message, "reason", None) or f"{arrived.type} from step {path!r}")
    if isinstance(step, Step) and step.kind == "retriable":
        turn.try_again(path, step, reason, generation=turn.instance.steps[path].generation + 1)
        return
    turn.emit(StepFailed(step=path, message=arrived.type, reason=reason, other_key=_other_key(turn, arrived)))
    body = None if arrived.message is None else arrived.message.model_dump_json()
    turn.turn_back(path, reason, arrived.type, body)


def _other_key(turn: Turn, arrived: Arrived) -> str | None:
    """The reply's key, if it is by the field that holds the saga's, and differs: the participant mixed up entities.

    A reply may be about an entity of the participant's own, under a key of its own: that is another field.
    """
    if arrived.message is None:
        return None
    field = contract_of(arrived.message).key
    key = text_of(getattr(arrived.message, field))
    if key == turn.instance.key:
        return None
    starts_on = turn.definition.starts_on
    if starts_on is not None:
        return key if contract_of(starts_on).key == field else None
    held = getattr(view.load(turn.definition, turn.instance.data), field, None)
    return key if str(held) == turn.instance.key else None


def _expire(turn: Turn, path: str, step: AnyLeaf) -> None:
    """No reply within the deadline: whether the command was carried out is unknown."""
    assert not isinstance(step, LocalStep)
    going_forward = turn.instance.turned is None
    reason = f"no reply from step {path!r} within {step.deadline}"
    if isinstance(step, WaitFor):
        if going_forward and step.at_deadline == "continue":
            turn.emit(StepSucceeded(step=path, message="", data=None))
            return
    elif going_forward and (turn.attempts_left(path, step) or _no_way_back(turn, step)):
        turn.try_again(path, step, reason, generation=turn.instance.steps[path].generation)
        return
    turn.emit(StepExpired(step=path, reason=reason))
    turn.turn_back(path, reason)


def _no_way_back(turn: Turn, step: Step[Any]) -> bool:
    """At a pivot or retriable step; behind a pivot that succeeded; once a retriable step began: nothing undoes it."""
    if step.kind in ("pivot", "retriable"):
        return True
    kinds = ((turn.definition.step_at(path).kind, state.status) for path, state in turn.instance.steps.items())
    return any(kind == "retriable" or (kind == "pivot" and status is StepStatus.SUCCEEDED) for kind, status in kinds)


def _stands(instance: Instance, path: str) -> str:
    state = instance.steps.get(path)
    return "has not begun" if state is None else f"is {state.status}"
