"""One call of ``decide`` under way: the instance as it evolves, what happened, what is to be done.

Its methods are the verbs of a saga. *When* each is due is decided elsewhere: by what came in (``react``) and by where
the saga stands in its plan (``advance``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from kafkasaga.messages import Message, Operation, SagaContext, contract_of, derived
from kafkasaga.saga import view
from kafkasaga.saga.definition import Definition, Messages
from kafkasaga.saga.effects import Decision, Effect, RunLocal, Send
from kafkasaga.saga.events import (
    CommandSent,
    CompensationBegan,
    CompensationSent,
    Event,
    RetryScheduled,
    Started,
    StepStuck,
)
from kafkasaga.saga.flow import LocalStep, Step
from kafkasaga.saga.functions import build, call
from kafkasaga.saga.instance import Instance, StepState, StepStatus
from kafkasaga.saga.policy import Retry
from kafkasaga.saga.transitions import evolve

_NOT_BEGUN = StepState(StepStatus.PENDING)


class Turn:
    """One call of ``decide``."""

    __slots__ = ("definition", "effects", "events", "instance", "now")

    instance: Instance
    """As it is by now. A saga that has not begun has none."""

    def __init__(self, definition: Definition, instance: Instance | None, now: datetime) -> None:
        self.definition, self.now = definition, now
        self.events: list[Event] = []
        self.effects: list[Effect] = []
        if instance is not None:
            self.instance = instance

    @property
    def runs_locally(self) -> bool:
        """A local step is about to run; what comes after it must wait for the state that it leaves."""
        return any(isinstance(effect, RunLocal) for effect in self.effects)

    def begin(self, event: Started) -> None:
        self.instance = evolve(None, event)
        self.events.append(event)

    def emit(self, event: Event) -> None:
        self.instance = evolve(self.instance, event)
        self.events.append(event)

    def decision(self) -> Decision:
        return Decision(self.instance, tuple(self.events), tuple(self.effects))

    def send(self, path: str) -> None:
        """Send a step's command: for the first time, or again."""
        step = self.definition.step_at(path)
        assert isinstance(step, Step)
        before = self.instance.steps.get(path, _NOT_BEGUN)
        generation, attempt = before.generation, before.attempt + 1
        state = view.of_step(self.definition, self.instance, path)
        command = build(self.definition.name, f"step {path!r}, command=", step.command, state)
        identity = self._dispatch(path, command, Operation.ACTION, generation, attempt)
        self.emit(
            CommandSent(
                step=path,
                generation=generation,
                attempt=attempt,
                command_id=identity,
                message=contract_of(command).type,
                deadline=self.now + step.deadline,
            )
        )

    def send_compensation(self, path: str) -> None:
        """Send what undoes a step, or have it run where the step is a local one."""
        step = self.definition.step_at(path)
        before = self.instance.steps[path]
        generation = before.generation
        attempt = before.attempt + 1 if before.status is StepStatus.UNDO_WAITING else 1
        if isinstance(step, LocalStep):
            identity = self._command_id(path, Operation.COMPENSATION, generation, attempt)
            message, deadline = "", None
            self.effects.append(RunLocal(path, Operation.COMPENSATION))
        else:
            assert isinstance(step, Step)
            assert step.compensation is not None
            state = view.of_step(self.definition, self.instance, path)
            command = build(self.definition.name, f"step {path!r}, compensation=", step.compensation, state)
            identity = self._dispatch(path, command, Operation.COMPENSATION, generation, attempt)
            message, deadline = contract_of(command).type, self.now + step.deadline
        self.emit(
            CompensationSent(
                step=path,
                generation=generation,
                attempt=attempt,
                command_id=identity,
                message=message,
                deadline=deadline,
            )
        )

    def send_ends(self, end: str, function: Callable[..., Messages] | None, *arguments: Any) -> tuple[str, ...]:
        """Send what the saga tells the world when it ends; returns the types."""
        if function is None:
            return ()
        return call(self.definition.name, f"ends, {end}=", self._send_ends, end, function, *arguments)

    def _send_ends(self, end: str, function: Callable[..., Messages], *arguments: Any) -> tuple[str, ...]:
        messages = function(*arguments)
        many: Iterable[Message] = () if messages is None else (messages,) if isinstance(messages, Message) else messages
        sent: list[str] = []
        for n, message in enumerate(many):
            self.effects.append(Send(derived(self.instance.id, f"{end}/{n}"), message, None))
            sent.append(contract_of(message).type)
        return tuple(sent)

    def attempts_left(self, path: str, step: Step[object]) -> bool:
        """Whether the step's current operation may be tried again."""
        state = self.instance.steps[path]
        return state.attempt - state.spent < _policy(step, state).attempts

    def try_again(self, path: str, step: Step[object], reason: str, *, generation: int) -> None:
        """Schedule the next attempt; where none is left, the step is stuck."""
        state = self.instance.steps[path]
        if not self.attempts_left(path, step):
            self.emit(StepStuck(step=path, generation=generation, reason=reason))
            return
        at = self.now + _policy(step, state).delay(state.attempt - state.spent)
        self.emit(RetryScheduled(step=path, generation=generation, at=at, reason=reason))

    def turn_back(self, path: str, reason: str, message: str | None = None, body: str | None = None) -> None:
        """From here on the saga is undone; the first reason counts."""
        if self.instance.turned is None:
            self.emit(CompensationBegan(step=path, reason=reason, message=message, body=body))

    def _dispatch(self, path: str, command: Message, operation: Operation, generation: int, attempt: int) -> UUID:
        identity = self._command_id(path, operation, generation, attempt)
        failures = self.definition.failures_of(path) if operation is Operation.COMPENSATION else ()
        saga = self.instance.id
        context = SagaContext(self.definition.name, saga, path, generation, operation, None, failures)
        self.effects.append(Send(identity, command, context))
        return identity

    def _command_id(self, path: str, operation: Operation, generation: int, attempt: int) -> UUID:
        """A transition that is computed again, by whomever, sends the same command under the same id (invariant I3)."""
        return derived(self.instance.id, f"{operation}/{path}/{generation}/{attempt}")


def _policy(step: Step[object], state: StepState) -> Retry:
    return step.compensation_retry if state.status is StepStatus.UNDOING else step.retry
