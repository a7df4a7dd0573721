"""Where a saga goes: the walk over its plan that begins, or undoes, whatever may be begun or undone now.

Both walks ask the same of every part: do what can be done, and say whether the part is finished. They are idempotent: a
walk over an instance to which nothing happened changes nothing.
"""

from __future__ import annotations

import re
from typing import Any

from kafkasaga.messages import Message, Operation
from kafkasaga.saga import view
from kafkasaga.saga.definition import Cancellation
from kafkasaga.saga.effects import RunLocal
from kafkasaga.saga.events import BranchTaken, Cancelled, Completed, FannedOut, StepBegan
from kafkasaga.saga.flow import AnyLeaf, LocalStep, Step, WaitFor
from kafkasaga.saga.functions import call
from kafkasaga.saga.inputs import Arrived
from kafkasaga.saga.instance import StepStatus
from kafkasaga.saga.match import Answer
from kafkasaga.saga.plan import TOP, Choice, Fan, Group, Leaf, Node, Place, Series
from kafkasaga.saga.react import settle
from kafkasaga.saga.turn import Turn

_MAY_HAVE_RUN = frozenset({StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.UNKNOWN, StepStatus.WAITING})


def advance(turn: Turn) -> None:
    """Begin or undo what may be begun or undone, and end the saga when nothing is left."""
    plan, ends = turn.definition.plan, turn.definition.ends
    if turn.instance.turned is None and _forward(turn, plan, TOP):
        state = view.at_place(turn.definition, turn.instance, TOP)
        turn.emit(Completed(messages=turn.send_ends("completed", ends.completed, state)))
    elif turn.instance.turned is not None and _back(turn, plan, TOP):
        why = _cancellation(turn)
        state = view.at_place(turn.definition, turn.instance, TOP)
        turn.emit(Cancelled(reason=why.reason, messages=turn.send_ends("cancelled", ends.cancelled, state, why)))


# ---- forward ------------------------------------------------------------------------------------------------------


def _forward(turn: Turn, node: Node, at: Place) -> bool:
    """Begin what may begin below ``node``; True if all of it has succeeded."""
    match node:
        case Leaf():
            path = node.name if at is TOP else node.name + at.suffix
            state = turn.instance.steps.get(path)
            if state is None:
                _begin(turn, path, node.step)
                state = turn.instance.steps.get(path)
            return state is not None and state.status is StepStatus.SUCCEEDED
        case Series():
            for part in node.parts:  # noqa: SIM110 - a generator would cost as much as the walk itself
                if not _forward(turn, part, at):
                    return False
            return True
        case Group():
            return _every([_forward(turn, part, at) for part in node.parts])
        case Choice():
            return _forward(turn, _branch(turn, node, at), at)
        case Fan():
            count = _count(turn, node, at)
            return _every([_forward(turn, node.body, at.within(node, n)) for n in range(count)])


def _branch(turn: Turn, choice: Choice, at: Place) -> Node:
    """The branch to take, decided when the saga first gets here."""
    name = choice.name + at.suffix
    if name not in turn.instance.branches:
        state = view.at_place(turn.definition, turn.instance, at)
        taken = bool(call(turn.definition.name, f"{_plain(name)}.when(…)", choice.condition, state))
        turn.emit(BranchTaken(branch=name, taken=taken))
    return choice.then if turn.instance.branches[name] else choice.otherwise


def _count(turn: Turn, fan: Fan, at: Place) -> int:
    """How many elements the fan-out has, counted when the saga first gets here."""
    name = fan.name + at.suffix
    if name not in turn.instance.fans:
        state = view.at_place(turn.definition, turn.instance, at)
        count = call(turn.definition.name, f"{_plain(name)}.for_each(…)", lambda: len(fan.items(state)))
        turn.emit(FannedOut(fan=name, count=count, data=turn.instance.data))
    return turn.instance.fans[name].count


def _plain(name: str) -> str:
    """The step by whose name a choice or a fan-out goes."""
    return f"step {re.split(r'[?[]', name)[0]!r}"


def _begin(turn: Turn, path: str, step: AnyLeaf) -> None:
    if turn.instance.turned is not None:
        return  # an event that came early has just turned the saga back
    match step:
        case Step():
            turn.send(path)
        case WaitFor():
            _begin_to_wait(turn, path, step)
        case LocalStep() if not turn.runs_locally:
            turn.emit(StepBegan(step=path, deadline=None, early=None))
            turn.effects.append(RunLocal(path, Operation.ACTION))
        case LocalStep():
            pass  # its turn comes when the one before it has run


def _begin_to_wait(turn: Turn, path: str, step: WaitFor[Any]) -> None:
    """Wait for an event, unless it has come already."""
    for type, entry in (step.succeeds_on | step.fails_on).items():
        if (body := turn.instance.early.get(type)) is not None:
            turn.emit(StepBegan(step=path, deadline=None, early=type))
            message = entry.type.model_validate_json(body, extra="ignore")
            settle(turn, Answer(path, Operation.ACTION), Arrived(type, message, None))
            return
    turn.emit(StepBegan(step=path, deadline=turn.now + step.deadline, early=None))


# ---- back ---------------------------------------------------------------------------------------------------------


def _back(turn: Turn, node: Node, at: Place) -> bool:
    """Undo what may be undone below ``node``; True if nothing below it is left to undo."""
    match node:
        case Leaf(name, step):
            return _undo(turn, name + at.suffix, step)
        case Series(parts):
            return all(_back(turn, part, at) for part in reversed(parts))
        case Group(parts):
            return _every([_back(turn, part, at) for part in reversed(parts)])
        case Choice(name):
            taken = turn.instance.branches.get(name + at.suffix)
            return taken is None or _back(turn, node.then if taken else node.otherwise, at)
        case Fan(name):
            fan = turn.instance.fans.get(name + at.suffix)
            count = 0 if fan is None else fan.count
            return _every([_back(turn, node.body, at.within(node, n)) for n in reversed(range(count))])


def _undo(turn: Turn, path: str, step: AnyLeaf) -> bool:
    state = turn.instance.steps.get(path)
    if state is None or isinstance(step, WaitFor) or step.compensation is None:
        return True
    waits_for_another = isinstance(step, LocalStep) and turn.runs_locally
    if state.status in _MAY_HAVE_RUN and not waits_for_another:
        turn.send_compensation(path)
    return turn.instance.steps[path].status is StepStatus.COMPENSATED


def _every(finished: list[bool]) -> bool:
    """All of them; it takes a list because every branch is to be walked, whatever the others say."""
    return all(finished)


def _cancellation(turn: Turn) -> Cancellation:
    turned = turn.instance.turned
    assert turned is not None
    step = turn.definition.step_at(turned.step)
    reply: Message | None = None
    if turned.body is not None and turned.message is not None and not isinstance(step, LocalStep):
        reply = step.fails_on[turned.message].type.model_validate_json(turned.body, extra="ignore")
    return Cancellation(turned.step, turned.reason, reply)
