"""The saga machine: ``decide`` says what happens next. No I/O, no clock, no randomness, no threads.

``decide(definition, instance, input, now)`` returns the events to append to the saga's log and the effects that the shell
carries out in the same transaction. The instance after it is ``fold`` of the events; ``decide`` and recovery can
therefore not disagree.

Each turn does two things. It *takes* the input (a reply settles a step, a deadline makes it unknown, …), then it
*advances*: it walks the plan and begins whatever may begin. Forward, a part of a sequence begins when the one before it
has succeeded; back, the same tree is walked from its end, and whatever may have run is undone, each part after the one
that follows it was confirmed (design invariant I8). A parallel branch that is still under way when the saga turns back is
awaited first if it has a compensation: its reply may hold what the compensation needs, and its deadline bounds the wait.

The idea of a decider (decide, evolve, initial state) is Jérémie Chassaing's; sagas are Garcia-Molina and Salem's (1987).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from kafkasaga.messages import Mark, Message, Operation, SagaContext, SagaState, contract_of, key_of
from kafkasaga.saga.definition import Cancellation, Definition, Messages
from kafkasaga.saga.events import (
    BranchTaken,
    Cancelled,
    CommandSent,
    CompensationBegan,
    CompensationSent,
    Completed,
    Event,
    FannedOut,
    Ignored,
    RetryScheduled,
    Started,
    StepBegan,
    StepCompensated,
    StepExpired,
    StepFailed,
    StepRetried,
    StepSkipped,
    StepStuck,
    StepSucceeded,
)
from kafkasaga.saga.flow import AnyLeaf, Each, LocalStep, Reply, Step, WaitFor
from kafkasaga.saga.instance import Instance, StepState, StepStatus
from kafkasaga.saga.plan import TOP, Choice, Fan, Group, Leaf, Node, Place, Sequence_
from kafkasaga.saga.transitions import evolve

_AWAITS_REPLY: Final = {
    Operation.ACTION: frozenset({StepStatus.PENDING, StepStatus.WAITING, StepStatus.STUCK}),
    Operation.COMPENSATION: frozenset({StepStatus.UNDOING, StepStatus.UNDO_WAITING, StepStatus.UNDO_STUCK}),
}
_MAY_HAVE_RUN: Final = frozenset({StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.UNKNOWN, StepStatus.WAITING})


# ---- inputs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin an instance, from a message or from a state that the caller has built."""

    key: str
    message: Message | None = None
    state: SagaState | None = None
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message for this instance came. ``message`` is None where a barrier answered without a body."""

    type: str
    message: Message | None
    context: SagaContext | None


@dataclass(frozen=True, slots=True)
class Woken:
    """The clock has reached something that was due."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A local step was run, and left the state as ``data`` (JSON)."""

    step: str
    operation: Operation
    data: str


@dataclass(frozen=True, slots=True)
class RetryStuck:
    """An operator has a stuck step tried again."""

    step: str
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class SkipStuck:
    """An operator declares a stuck step settled."""

    step: str
    by: str
    why: str


Input = Start | Arrived | Woken | Ran | RetryStuck | SkipStuck


# ---- effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Put this message into the outbox, under this id."""

    id: UUID
    message: Message
    context: SagaContext | None


@dataclass(frozen=True, slots=True)
class RunLocal:
    """Run the function of a local step in this transaction, then ``decide`` again with ``Ran``."""

    step: str
    operation: Operation


Effect = Send | RunLocal


@dataclass(frozen=True, slots=True)
class Decision:
    """What happened, what is to be done about it, and the instance after it."""

    instance: Instance
    events: tuple[Event, ...]
    effects: tuple[Effect, ...]


# ---- the machine --------------------------------------------------------------------------------------------------


def decide(definition: Definition, instance: Instance | None, input: Input, now: datetime) -> Decision:
    """What ``input`` does to ``instance`` at the time ``now``.

    Raises:
        ValueError: for an input that makes no sense: anything but a start without an instance, or an operator's act on a
            step that is not stuck.
        Exception: whatever a function of the definition raises; nothing has happened then.
    """
    turn = _Turn(definition, instance, now)
    turn.take(input)
    return Decision(turn.instance, tuple(turn.events), tuple(turn.effects))


def run_local(definition: Definition, instance: Instance, effect: RunLocal, session: Any) -> Ran:
    """Run the function of a local step. Not pure: the shell calls it, in its transaction."""
    leaf = definition.steps[_split(effect.step)[0]]
    assert isinstance(leaf, LocalStep)
    function = leaf.action if effect.operation is Operation.ACTION else leaf.compensation
    assert function is not None
    turn = _Turn(definition, instance, datetime.min)
    state = turn.load(instance.data)
    function(turn.view(effect.step, state), session)
    return Ran(effect.step, effect.operation, state.model_dump_json())


class _Turn:
    """One call of ``decide``: the instance as it evolves, and what was decided so far."""

    def __init__(self, definition: Definition, instance: Instance | None, now: datetime) -> None:
        self.definition, self.now = definition, now
        self._instance = instance
        self.events: list[Event] = []
        self.effects: list[Effect] = []

    @property
    def instance(self) -> Instance:
        assert self._instance is not None
        return self._instance

    def emit(self, event: Event) -> None:
        self._instance = evolve(self._instance, event)
        self.events.append(event)

    # -- taking the input

    def take(self, input: Input) -> None:
        if isinstance(input, Start):
            self._start(input)
            return
        if self._instance is None:
            raise ValueError(f"{input!r} needs an instance")
        match input:
            case Arrived():
                self._arrive(input)
            case Woken():
                self._wake()
            case Ran():
                self._ran(input)
            case RetryStuck() | SkipStuck():
                self._operate(input)
        if self.events and self.instance.ended is None:
            self._advance()

    def _start(self, start: Start) -> None:
        if self._instance is not None:
            message = "a call" if start.message is None else contract_of(start.message).type
            self.emit(Ignored(message=message, reason="this saga has been started already"))
            return
        state = start.state
        if state is None:
            assert start.message is not None
            state = self.definition.begin(start.message)
        self.emit(
            Started(
                saga=self.definition.name,
                version=self.definition.version,
                key=start.key,
                incarnation=start.incarnation,
                message="" if start.message is None else contract_of(start.message).type,
                data=state.model_dump_json(),
            )
        )
        self._advance()

    def _arrive(self, arrived: Arrived) -> None:
        matched = self._match(arrived)
        if isinstance(matched, str):
            self.emit(Ignored(message=arrived.type, reason=matched))
            return
        path, operation = matched
        step = self.definition.steps[_split(path)[0]]
        assert not isinstance(step, LocalStep)
        if operation is Operation.COMPENSATION:
            assert isinstance(step, Step)
            entry = step.compensated_on.get(arrived.type)
            mark = None if arrived.context is None or arrived.context.mark is None else arrived.context.mark.value
            data = self._record(path, entry, arrived.message)
            self.emit(StepCompensated(step=path, message=arrived.type, mark=mark, data=data))
        elif (entry := step.succeeds_on.get(arrived.type)) is not None:
            data = self._record(path, entry, arrived.message)
            self.emit(StepSucceeded(step=path, message=arrived.type, data=data))
        else:
            self._fail(path, step, arrived)

    def _match(self, arrived: Arrived) -> tuple[str, Operation] | str:
        """The step and operation that a message answers, or why it answers none."""
        if self.instance.ended is not None:
            return f"the saga has ended ({self.instance.ended})"
        context = arrived.context
        if context is None:
            found = [(path, op) for path in self.instance.steps for op in Operation if self._accepts(path, op, arrived.type)]
            if len(found) == 1:
                return found[0]
            return "no step waits for it" if not found else f"several steps wait for it: {', '.join(p for p, _ in found)}"
        step = self.instance.steps.get(context.step)
        if step is None:
            return f"step {context.step!r} has not begun"
        if context.mark is Mark.SUPERSEDED:
            return f"step {context.step!r} was overtaken by its compensation"
        if step.status not in _AWAITS_REPLY[context.operation]:
            return f"step {context.step!r} is {step.status}: too late"
        if step.generation != context.generation:
            return f"it answers generation {context.generation} of step {context.step!r}, which is at {step.generation}"
        answered_by_barrier = context.operation is Operation.COMPENSATION and context.mark is not None
        if not answered_by_barrier and not self._accepts(context.step, context.operation, arrived.type):
            return f"it is not a reply of step {context.step!r}"
        return context.step, context.operation

    def _accepts(self, path: str, operation: Operation, type: str) -> bool:
        step, state = self.definition.steps[_split(path)[0]], self.instance.steps[path]
        if isinstance(step, LocalStep) or state.status not in _AWAITS_REPLY[operation]:
            return False
        if operation is Operation.ACTION:
            return type in step.succeeds_on or type in step.fails_on
        return isinstance(step, Step) and type in step.compensated_on

    def _fail(self, path: str, step: Step[Any] | WaitFor[Any], arrived: Arrived) -> None:
        reason = str(getattr(arrived.message, "reason", None) or f"{arrived.type} from step {path!r}")
        state = self.instance.steps[path]
        if isinstance(step, Step) and step.kind == "retriable":
            if state.status is StepStatus.PENDING:
                self._try_again(path, step, reason, generation=state.generation + 1)
            else:
                self.emit(Ignored(message=arrived.type, reason=f"step {path!r} is {state.status} after a refusal already"))
            return
        self.emit(StepFailed(step=path, message=arrived.type, reason=reason))
        body = None if arrived.message is None else arrived.message.model_dump_json()
        self._turn_back(path, reason, arrived.type, body)

    def _wake(self) -> None:
        for path, state in list(self.instance.steps.items()):
            if state.due is None or state.due > self.now:
                continue
            step = self.definition.steps[_split(path)[0]]
            match state.status:
                case StepStatus.WAITING if self.instance.turned is None:
                    self._send(path)
                case StepStatus.WAITING:
                    self.emit(StepExpired(step=path, reason=f"step {path!r} is not tried again: the saga turned back"))
                case StepStatus.UNDO_WAITING:
                    self._send_compensation(path)
                case StepStatus.PENDING | StepStatus.UNDOING:
                    self._expire(path, step)
                case _:
                    raise AssertionError(f"nothing can be due for a step that is {state.status}")

    def _expire(self, path: str, step: AnyLeaf) -> None:
        """The deadline passed: whether the command was carried out is unknown."""
        assert not isinstance(step, LocalStep)
        reason = f"no reply from step {path!r} within {step.deadline}"
        if isinstance(step, WaitFor):
            if step.at_deadline == "continue":
                self.emit(StepSucceeded(step=path, message="", data=None))
                return
            self.emit(StepExpired(step=path, reason=reason))
            self._turn_back(path, reason)
            return
        state = self.instance.steps[path]
        going_forward = self.instance.turned is None
        undoing = state.status is StepStatus.UNDOING
        if undoing or (going_forward and (self._attempts_left(state, step) or self._forward_only(step))):
            self._try_again(path, step, reason, generation=state.generation)
            return
        self.emit(StepExpired(step=path, reason=reason))
        self._turn_back(path, reason)

    def _attempts_left(self, state: StepState, step: Step[Any]) -> bool:
        policy = step.compensation_retry if state.status is StepStatus.UNDOING else step.retry
        return state.attempt - state.spent < policy.attempts

    def _try_again(self, path: str, step: Step[Any], reason: str, *, generation: int) -> None:
        """Schedule the next attempt; where none is left, the step is stuck."""
        state = self.instance.steps[path]
        if not self._attempts_left(state, step):
            self.emit(StepStuck(step=path, reason=reason))
            return
        policy = step.compensation_retry if state.status is StepStatus.UNDOING else step.retry
        at = self.now + policy.delay(state.attempt - state.spent)
        self.emit(RetryScheduled(step=path, generation=generation, at=at, reason=reason))

    def _forward_only(self, step: Step[Any]) -> bool:
        """True where there is no way back: at a pivot, at a retriable step, and behind a pivot that has succeeded."""
        if step.kind in ("pivot", "retriable"):
            return True
        return any(
            state.status is StepStatus.SUCCEEDED and self.definition.steps[_split(path)[0]].kind == "pivot"
            for path, state in self.instance.steps.items()
        )

    def _turn_back(self, path: str, reason: str, message: str | None = None, body: str | None = None) -> None:
        if self.instance.turned is None:
            self.emit(CompensationBegan(step=path, reason=reason, message=message, body=body))

    def _ran(self, ran: Ran) -> None:
        data = ran.data if ran.data != self.instance.data else None
        if ran.operation is Operation.ACTION:
            self.emit(StepSucceeded(step=ran.step, message="", data=data))
        else:
            self.emit(StepCompensated(step=ran.step, message="", mark=None, data=data))

    def _operate(self, act: RetryStuck | SkipStuck) -> None:
        state = self.instance.steps.get(act.step)
        if state is None or state.status not in (StepStatus.STUCK, StepStatus.UNDO_STUCK):
            stands = "has not begun" if state is None else f"is {state.status}"
            raise ValueError(f"step {act.step!r} {stands}; only a stuck step can be retried or skipped")
        if isinstance(act, SkipStuck):
            self.emit(StepSkipped(step=act.step, by=act.by, why=act.why))
            return
        self.emit(StepRetried(step=act.step, by=act.by, why=act.why))
        send = self._send if state.status is StepStatus.STUCK else self._send_compensation
        send(act.step)

    # -- advancing

    def _advance(self) -> None:
        if self.instance.turned is None:
            if self._forward(self.definition.plan, TOP):
                sent = self._send_ends("completed", self.definition.ends.completed and self.definition.ends.completed(self.state))
                self.emit(Completed(messages=sent))
        elif self._back(self.definition.plan, TOP):
            why = self._cancellation()
            cancelled = self.definition.ends.cancelled
            sent = self._send_ends("cancelled", cancelled and cancelled(self.state, why))
            self.emit(Cancelled(reason=why.reason, messages=sent))

    def _forward(self, node: Node, at: Place) -> bool:
        """Begin what may begin below ``node``; True if all of it has succeeded."""
        match node:
            case Leaf(name):
                path = name + at.suffix
                state = self.instance.steps.get(path)
                if state is None:
                    self._begin(path)
                    return False
                return state.status is StepStatus.SUCCEEDED
            case Sequence_(parts):
                return all(self._forward(part, at) for part in parts)
            case Group(parts):
                return _every([self._forward(part, at) for part in parts])
            case Choice(name, condition):
                key = name + at.suffix
                if key not in self.instance.branches:
                    taken = bool(condition(self._wrap(at, self.state)))
                    self.emit(BranchTaken(branch=key, taken=taken))
                return self._forward(node.then if self.instance.branches[key] else node.otherwise, at)
            case Fan(name, items, body):
                key = name + at.suffix
                if key not in self.instance.fans:
                    count = len(items(self._wrap(at, self.state)))
                    self.emit(FannedOut(fan=key, count=count, data=self.instance.data))
                return _every([self._forward(body, at.within(node, n)) for n in range(self.instance.fans[key].count)])

    def _back(self, node: Node, at: Place) -> bool:
        """Undo what may be undone below ``node``; True if nothing below it is left to undo."""
        match node:
            case Leaf(name, step):
                return self._undo(name + at.suffix, step)
            case Sequence_(parts):
                return all(self._back(part, at) for part in reversed(parts))
            case Group(parts):
                return _every([self._back(part, at) for part in reversed(parts)])
            case Choice(name):
                taken = self.instance.branches.get(name + at.suffix)
                return True if taken is None else self._back(node.then if taken else node.otherwise, at)
            case Fan(name, body=body):
                fan = self.instance.fans.get(name + at.suffix)
                count = 0 if fan is None else fan.count
                return _every([self._back(body, at.within(node, n)) for n in reversed(range(count))])

    def _undo(self, path: str, step: AnyLeaf) -> bool:
        state = self.instance.steps.get(path)
        if state is None or isinstance(step, WaitFor) or step.compensation is None:
            return True
        if state.status in _MAY_HAVE_RUN:
            self._send_compensation(path)
        return self.instance.steps[path].status is StepStatus.COMPENSATED

    def _begin(self, path: str) -> None:
        match self.definition.steps[_split(path)[0]]:
            case Step():
                self._send(path)
            case WaitFor(deadline=deadline):
                self.emit(StepBegan(step=path, deadline=self.now + deadline))
            case LocalStep():
                self.emit(StepBegan(step=path, deadline=None))
                self.effects.append(RunLocal(path, Operation.ACTION))

    def _send(self, path: str) -> None:
        step = self.definition.steps[_split(path)[0]]
        assert isinstance(step, Step)
        before = self.instance.steps.get(path, StepState(StepStatus.PENDING))
        command = step.command(self.view(path, self.state))
        identity = self._dispatch(path, command, Operation.ACTION, before.generation, before.attempt + 1)
        self.emit(
            CommandSent(
                step=path,
                generation=before.generation,
                attempt=before.attempt + 1,
                command_id=identity,
                message=contract_of(command).type,
                deadline=self.now + step.deadline,
            )
        )

    def _send_compensation(self, path: str) -> None:
        step = self.definition.steps[_split(path)[0]]
        before = self.instance.steps[path]
        attempt = before.attempt + 1 if before.status is StepStatus.UNDO_WAITING else 1
        if isinstance(step, LocalStep):
            identity = self._command_id(path, Operation.COMPENSATION, before.generation, attempt)
            message, deadline = "", None
            self.effects.append(RunLocal(path, Operation.COMPENSATION))
        else:
            assert isinstance(step, Step)
            assert step.compensation is not None
            command = step.compensation(self.view(path, self.state))
            failures = tuple(step.fails_on)
            identity = self._dispatch(path, command, Operation.COMPENSATION, before.generation, attempt, failures)
            message, deadline = contract_of(command).type, self.now + step.deadline
        self.emit(
            CompensationSent(
                step=path,
                generation=before.generation,
                attempt=attempt,
                command_id=identity,
                message=message,
                deadline=deadline,
            )
        )

    def _dispatch(
        self, path: str, command: Message, operation: Operation, generation: int, attempt: int, failures: tuple[str, ...] = ()
    ) -> UUID:
        identity = self._command_id(path, operation, generation, attempt)
        context = SagaContext(self.definition.name, self.instance.id, path, generation, operation, None, failures)
        self.effects.append(Send(identity, command, context))
        return identity

    def _command_id(self, path: str, operation: Operation, generation: int, attempt: int) -> UUID:
        """A transition that is computed again, by whomever, sends the same command under the same id (invariant I3)."""
        return uuid5(self.instance.id, f"{operation}/{path}/{generation}/{attempt}")

    def _send_ends(self, end: str, messages: Messages) -> tuple[str, ...]:
        many: Iterable[Message] = () if messages is None else (messages,) if isinstance(messages, Message) else messages
        sent = []
        for n, message in enumerate(many):
            self.effects.append(Send(uuid5(self.instance.id, f"{end}/{n}"), message, None))
            sent.append(contract_of(message).type)
        return tuple(sent)

    def _cancellation(self) -> Cancellation:
        turned = self.instance.turned
        assert turned is not None
        reply: Message | None = None
        step = self.definition.steps[_split(turned.step)[0]]
        if turned.body is not None and not isinstance(step, LocalStep) and turned.message in step.fails_on:
            reply = step.fails_on[turned.message].type.model_validate_json(turned.body, extra="ignore")
        return Cancellation(turned.step, turned.reason, reply)

    # -- the user's state

    @property
    def state(self) -> SagaState:
        return self.load(self.instance.data)

    def load(self, data: str) -> SagaState:
        """The state as the user's functions get it: a fresh object each time, so that nothing they do to it is kept."""
        return self.definition.state.model_validate_json(data)

    def view(self, path: str, state: SagaState) -> Any:
        """What the functions of the step at ``path`` see: the state, wrapped in ``Each`` for every fan-out around it."""
        name, indices = _split(path)
        return self._wrap(Place(self.definition.fans[name], indices), state)

    def _wrap(self, at: Place, state: SagaState) -> Any:
        view: Any = state
        for depth in range(len(at.indices)):
            view = Each(view, self._element(Place(at.fans[: depth + 1], at.indices[: depth + 1])))
        return view

    def _element(self, at: Place) -> Any:
        """The element at this place, taken from the list as it was computed when the saga got here."""
        fan, outer = at.fans[-1], Place(at.fans[:-1], at.indices[:-1])
        stored = self.instance.fans[fan.name + outer.suffix]
        return fan.items(self._wrap(outer, self.load(stored.data)))[at.indices[-1]]

    def _record(self, path: str, entry: Reply[Any] | None, message: Message | None) -> str | None:
        """The state after a reply was recorded, as JSON; None if it did not change."""
        if entry is None or entry.record is None or message is None:
            return None
        state = self.state
        entry.record(self.view(path, state), message)
        data = state.model_dump_json()
        return data if data != self.instance.data else None


def _split(path: str) -> tuple[str, tuple[int, ...]]:
    """A step path as its step's name and the elements of the fan-outs around it."""
    name, *indices = path.replace("]", "").split("[")
    return name, tuple(map(int, indices))


def _every(parts: Iterable[bool]) -> bool:
    """All of them, each of them looked at: the branches of a group do not wait for one another."""
    return all(parts)


def start_of(definition: Definition, message: Message) -> Start:
    """The input that ``message`` is to a saga that starts on it: the message's key is the saga's correlation key."""
    return Start(key=key_of(message), message=message)
