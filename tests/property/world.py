"""One saga and the world around it: participants that obey the barrier, a network that repeats and delays, a clock.

``World.move`` makes one of the moves that are possible now. The participants' side is modelled on its own, so that the
laws can compare what the saga believes with what really ran.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from kafkasaga.messages import Mark, Message, Operation, SagaContext, contract_of
from kafkasaga.saga.definition import Definition
from kafkasaga.saga.events import Event, Ignored
from kafkasaga.saga.flow import Step, WaitFor
from kafkasaga.saga.inputs import Arrived, Input, RefuseStuck, RetryStuck, SkipStuck, Woken, start_of
from kafkasaga.saga.instance import Instance, StepStatus
from kafkasaga.saga.machine import Decision, RunLocal, Send, decide, run_local
from tests.property.strategies import FAILURE, NOW, OTHER_SAGA, SUCCESS, UNDO_DONE, Begun

Move = Callable[[int], None]
Turn = tuple[Instance | None, Input, datetime, Decision]
"""What was decided, from what."""


@dataclass
class World:
    """A saga under way. Everything that is sent waits in ``commands`` until a move carries it out."""

    definition: Definition
    instance: Instance | None = None
    now: datetime = NOW
    log: list[Event] = field(default_factory=list[Event])
    turns: list[Turn] = field(default_factory=list[Any])
    commands: list[Send] = field(default_factory=list[Send])
    sent: list[UUID] = field(default_factory=list[UUID])
    replies: list[Arrived] = field(default_factory=list[Arrived])
    """Every reply that was ever delivered: any may come again."""
    outcomes: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    """What the participant did about an action: done or refused."""
    undone: set[str] = field(default_factory=set[str])

    @classmethod
    def begin(cls, definition: Definition, message: Begun) -> World:
        world = cls(definition)
        world.take(start_of(definition, message))
        return world

    @property
    def saga(self) -> Instance:
        assert self.instance is not None
        return self.instance

    def take(self, first: Input) -> None:
        """One input, and the local steps that follow from it."""
        inputs = [first]
        while inputs:
            input = inputs.pop(0)
            decision = decide(self.definition, self.instance, input, self.now)
            self.turns.append((self.instance, input, self.now, decision))
            self.instance = decision.instance
            self.log += decision.events
            for effect in decision.effects:
                if isinstance(effect, RunLocal):
                    inputs.append(run_local(self.definition, decision.instance, effect, None))
                    continue
                self.sent.append(effect.id)
                if effect.context is not None:
                    self.commands.append(effect)

    # -- moves

    def move(self, choice: int) -> None:
        """Make one of the moves that are possible; which one, and how, ``choice`` says."""
        moves = self._moves()
        which, how = choice % len(moves), choice // len(moves)
        moves[which](how)

    def settle(self) -> None:
        """The network heals, every command is answered, operators retry: the saga must come to its end."""
        for _ in range(400):
            if self.saga.ended is not None:
                return
            self._settle_once()
        raise AssertionError(f"the saga does not end: {self.saga}")

    def _settle_once(self) -> None:
        stuck = [path for path, state in self.saga.steps.items() if state.status.stuck]
        if self.commands:
            self._carry_out(0, refuse=False)
        elif waits := self._waits():
            self._deliver(SUCCESS[waits[0]](), None)
        elif stuck:
            self.take(RetryStuck(stuck[0], "ann", "again"))
        else:
            self._wake(0)

    def _moves(self) -> list[Move]:
        moves: list[Move] = [self._wake, self._wake, self._nonsense, self._event, self._pass_time]
        if self.commands:
            moves += [self._answer] * 6 + [self._lose]
        if self.replies:
            moves += [self._repeat] * 2
        if any(state.status.stuck for state in self.saga.steps.values()):
            moves += [self._operate]
        return moves

    def _answer(self, how: int) -> None:
        self._carry_out((how // 4) % len(self.commands), refuse=how % 4 == 0, headers=how % 5 != 0)

    def _lose(self, how: int) -> None:
        """The participant carries a command out, and its reply is lost; or it never sees it."""
        command = self.commands.pop(how // 2 % len(self.commands))
        if how % 2:
            self._act(command, refuse=how % 3 == 0)

    def _repeat(self, how: int) -> None:
        self.take(self.replies[how % len(self.replies)])

    def _wake(self, how: int) -> None:
        self.now = max(self.now, self.saga.wake_at or self.now)
        self.take(Woken())

    def _pass_time(self, how: int) -> None:
        self.now += timedelta(milliseconds=how % 5000)

    def _event(self, how: int) -> None:
        """Something happens outside, whether or not the saga waits for it."""
        family = SUCCESS if how % 3 else FAILURE
        waits = [n for n, step in enumerate(self.definition.steps.values()) if isinstance(step, WaitFor)]
        if waits:
            self._deliver(family[waits[how // 3 % len(waits)]](), None)

    def _operate(self, how: int) -> None:
        stuck = [(path, state) for path, state in self.saga.steps.items() if state.status.stuck]
        path, state = stuck[how // 3 % len(stuck)]
        pivot = self.definition.step_at(path).kind == "pivot"
        retry, skip = RetryStuck(path, "ann", "again"), SkipStuck(path, "bob", "seen to")
        acts: tuple[Input, ...] = (retry, skip, RefuseStuck(path, "cid", "never ran") if pivot else retry)
        self.take(acts[how % 3])
        if how % 3 == 1 and state.status is StepStatus.STUCK:
            self.outcomes[path, state.generation] = "done"

    def _nonsense(self, how: int) -> None:
        """A reply that is none: of another saga, generation or step, or of a step that was overtaken."""
        paths = [*self.saga.steps, "s0", "s9", "nowhere[3]"]
        path = paths[how % len(paths)]
        state = self.saga.steps.get(path)
        generation = 0 if state is None else state.generation
        right = SagaContext("random", self.saga.id, path, generation, list(Operation)[how // 7 % 2])
        wrong = [
            replace(right, saga_id=OTHER_SAGA),
            replace(right, generation=generation + 1),
            replace(right, mark=Mark.SUPERSEDED),
            replace(right, step="nowhere"),
        ][how // 3 % 4]
        n = _number(path) if path[0] == "s" else 0
        family = (SUCCESS, FAILURE, UNDO_DONE)[how // 2 % 3]
        if n < len(family) and contract_of(family[n]).type not in self.definition.awaited_events:
            self.take(Arrived(contract_of(family[n]).type, family[n](), wrong))

    # -- participants

    def _carry_out(self, which: int, *, refuse: bool, headers: bool = True) -> None:
        command = self.commands.pop(which)
        assert command.context is not None
        answered = self._act(command, refuse=refuse)
        if answered is None:
            return
        message, mark = answered
        context = replace(command.context, command_id=command.id, mark=mark, failures=())
        self._deliver(message, context if headers or mark is not None else None)

    def _act(self, command: Send, *, refuse: bool) -> tuple[Message, Mark | None] | None:
        """What a participant behind a barrier does about a command, and its reply."""
        context = command.context
        assert context is not None
        path, n = context.step, _number(context.step)
        if context.operation is Operation.COMPENSATION:
            done = "done" in [self.outcomes.get((path, g)) for g in range(context.generation + 1)]
            mark = Mark.REPEATED if path in self.undone else None if done else Mark.EMPTY
            self.undone.add(path)
            return UNDO_DONE[n](), mark
        if path in self.undone:
            return None  # hanging: its compensation came first
        step = self.definition.step_at(path)
        can_refuse = isinstance(step, Step) and bool(step.fails_on)
        outcome = self.outcomes.setdefault((path, context.generation), "refused" if refuse and can_refuse else "done")
        return (SUCCESS if outcome == "done" else FAILURE)[n](), None

    def _deliver(self, message: Message, context: SagaContext | None) -> None:
        arrived = Arrived(contract_of(message).type, message, context)
        self.replies.append(arrived)
        self.take(arrived)

    def _waits(self) -> list[int]:
        pending = [path for path, state in self.saga.steps.items() if state.status is StepStatus.PENDING]
        return [_number(path) for path in pending if isinstance(self.definition.step_at(path), WaitFor)]

    def ignored(self) -> int:
        return sum(isinstance(event, Ignored) for event in self.log)


def _number(path: str) -> int:
    return int(path[1:].partition("[")[0])
