"""The saga machine: ``decide`` says what happens next. No I/O, no clock, no randomness, no threads.

``decide(definition, instance, input, now)`` returns the events to append to the saga's log and the effects that the
shell carries out in the same transaction. The instance after it is ``fold`` of the events; ``decide`` and recovery can
therefore not disagree.

Each turn does two things. It *reacts* to the input (a reply settles a step, a deadline makes it unknown, …), then it
*advances*: it walks the plan and begins whatever may begin. Forward, a part of a sequence begins when the one before
it has succeeded; back, the same tree is walked from its end, and whatever may have run is undone, each part after the
one that follows it was confirmed (invariant I8). A parallel branch that is still under way when the saga turns back
is awaited first if it has a compensation: its reply may hold what the compensation needs, and its deadline bounds the
wait.

To read on: ``inputs`` and ``effects`` are the vocabulary, ``events`` and ``transitions`` the facts and their rules,
``match`` finds the step that a message answers, ``react`` and ``advance`` are the two halves of a turn.

The decider (decide, evolve, initial state) is Jérémie Chassaing's idea; sagas are Garcia-Molina and Salem's (1987).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from kafkasaga.messages import Operation
from kafkasaga.saga import react, view
from kafkasaga.saga.advance import advance
from kafkasaga.saga.definition import Definition
from kafkasaga.saga.effects import Decision, Effect, RunLocal, Send
from kafkasaga.saga.events import CameEarly, Ignored
from kafkasaga.saga.flow import LocalStep
from kafkasaga.saga.functions import call
from kafkasaga.saga.inputs import Arrived, Input, Ran, RefuseStuck, RetryStuck, SkipStuck, Start, Woken, start_of
from kafkasaga.saga.instance import Instance
from kafkasaga.saga.turn import Turn

__all__ = [
    "Arrived",
    "Decision",
    "Effect",
    "Input",
    "Ran",
    "RefuseStuck",
    "RetryStuck",
    "RunLocal",
    "Send",
    "SkipStuck",
    "Start",
    "Woken",
    "decide",
    "run_local",
    "start_of",
]


_CHANGE_NOTHING: Final = (Ignored, CameEarly)
"""Events after which a saga is where it was."""


def decide(definition: Definition, instance: Instance | None, input: Input, now: datetime) -> Decision:
    """What ``input`` does to ``instance`` at the time ``now``.

    Raises:
        ValueError: for an input that makes no sense: anything but a start without an instance, an operator's act on a
            step that is not stuck, or an instance of another saga or version.
        Exception: whatever a function of the definition raises; nothing has happened then.
    """
    turn = Turn(definition, instance, now)
    if instance is None:
        if not isinstance(input, Start):
            raise ValueError(f"{input!r} needs an instance")
        react.begin(turn, input)
    elif (instance.saga, instance.version) != (definition.name, definition.version):
        raise ValueError(
            f"instance {instance.id} belongs to saga {instance.saga!r} version {instance.version}, "
            f"not to {definition.name!r} version {definition.version}"
        )
    else:
        _react(turn, input)
    if turn.events and not isinstance(turn.events[-1], _CHANGE_NOTHING):
        advance(turn)
    return turn.decision()


def _react(turn: Turn, input: Input) -> None:
    match input:
        case Arrived():
            react.arrive(turn, input)
        case Woken():
            react.wake(turn)
        case Ran():
            react.ran(turn, input)
        case Start():
            react.begin_again(turn, input)
        case RetryStuck() | SkipStuck() | RefuseStuck():
            react.operate(turn, input)


def run_local(definition: Definition, instance: Instance, effect: RunLocal, session: Any) -> Ran:
    """Run the function of a local step. Not pure: the shell calls it, in its transaction."""
    step = definition.step_at(effect.step)
    assert isinstance(step, LocalStep)
    function = step.action if effect.operation is Operation.ACTION else step.compensation
    assert function is not None
    state = view.load(definition, instance.data)
    seen = view.around(definition, instance, effect.step, state)
    call(definition.name, f"step {effect.step!r}, local {effect.operation}", function, seen, session)
    return Ran(effect.step, effect.operation, state.model_dump_json())
