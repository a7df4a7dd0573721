"""The law of deadlines: one fires only after its command was sent, and after every reply that was there was read."""

from __future__ import annotations

from typing import Protocol

from kafkasaga.messages import Operation
from kafkasaga.ports import SagaChange, TopicPartition
from kafkasaga.saga.events import Event, RetryScheduled, StepExpired, StepStuck
from kafkasaga.saga.instance import StepState, StepStatus
from kafkasaga.testing.simulator.history import History, Transaction, Violation
from kafkasaga.testing.simulator.kafka import WorldBroker
from kafkasaga.testing.simulator.process import Site
from kafkasaga.testing.simulator.world import EPOCH

LAW = "deadline gate"


class _Stage(Protocol):
    broker: WorldBroker
    history: History
    sites: list[Site]

    def fail(self, violation: Violation) -> None: ...


class Gate:
    """Looks at each transition that the clock caused, before it is noted."""

    def __init__(self, stage: _Stage) -> None:
        self._stage = stage

    def check(self, done: Transaction, change: SagaChange) -> None:
        """Every step that this change gives up waiting for."""
        before = self._stage.history.instances.get(change.instance.id)
        site = next(site for site in self._stage.sites if site.name == done.service)
        if before is None or site.jumped:
            return  # which moment "due" was cannot be told when clocks jump
        for entry in change.entries:
            state = None if entry.cause is not None else _given_up(entry.event, before.steps)
            if state is not None:
                self._look(site, change, str(getattr(entry.event, "step", "")), state)

    def _look(self, site: Site, change: SagaChange, path: str, state: StepState) -> None:
        broker, history = self._stage.broker, self._stage.history
        assert state.due is not None
        saga = f"saga {change.instance.key!r} gave up waiting for step {path!r}"
        if state.command_id not in broker.written:
            self._stage.fail(Violation(LAW, f"{saga} before its command was sent"))
        operation = Operation.COMPENSATION if state.status is StepStatus.UNDOING else Operation.ACTION
        due = (state.due - EPOCH).total_seconds()
        for written, record in broker.replies.get((change.instance.id, path, state.generation, operation), ()):
            place = TopicPartition(record.topic, record.partition)
            unread = record.offset >= history.offsets.get((site.name, place), 0)
            if written <= due and unread:
                self._stage.fail(Violation(LAW, f"{saga} although its reply lay unread in {record.topic}"))


def _given_up(event: Event, steps: object) -> StepState | None:
    """The step, as it was, that an event gives up waiting for, if it does."""
    if not isinstance(event, StepExpired | RetryScheduled | StepStuck) or not isinstance(steps, dict):
        return None
    state = steps.get(event.step)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(state, StepState) or state.due is None or state.command_id is None:
        return None
    return state if state.status in (StepStatus.PENDING, StepStatus.UNDOING) else None
