"""The law of replies: a step is settled only by an answer to what the saga asks of it now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

from kafkasaga.messages import Operation, SagaContext
from kafkasaga.ports import SagaChange
from kafkasaga.saga.events import (
    CommandSent,
    CompensationSent,
    RetryScheduled,
    StepBegan,
    StepCompensated,
    StepFailed,
    StepStuck,
    StepSucceeded,
)
from kafkasaga.testing.simulator.history import Effect, Violation

LAW = "reply matching"

_Settled = StepSucceeded | StepFailed | StepCompensated | RetryScheduled | StepStuck


class Answers:
    """Looks at each transition that a reply caused. What was asked it reads from the logs alone."""

    def __init__(self, fail: Callable[[Violation], None]) -> None:
        self._fail = fail
        self._asked: dict[tuple[UUID, str], tuple[int, Operation]] = {}

    def check(self, change: SagaChange, causes: Mapping[UUID, Effect]) -> None:
        """Every step that this change settles; ``causes`` are the messages that it comes from, by their ids."""
        id, early = change.instance.id, set[str]()
        for entry in change.entries:
            match entry.event:
                case StepBegan(step=step, early=str()):
                    early.add(step)
                case CommandSent(step=step, generation=generation):
                    self._asked[id, step] = (generation, Operation.ACTION)
                case CompensationSent(step=step, generation=generation):
                    self._asked[id, step] = (generation, Operation.COMPENSATION)
                case StepSucceeded(message="") | StepCompensated(message=""):
                    pass  # a local step ran: nobody answers it, whatever reply the saga came by
                case StepSucceeded(step=step) | StepFailed(step=step) if step in early:
                    pass  # by an event that had come before, whatever reply the saga came to it by
                case StepSucceeded() | StepFailed() | StepCompensated() | RetryScheduled() | StepStuck():
                    effect = None if entry.cause is None else causes.get(entry.cause)
                    if effect is not None and effect.saga is not None and effect.saga.command_id is not None:
                        self._look(change, entry.event, effect.saga)
                case _:
                    pass

    def _look(self, change: SagaChange, event: _Settled, reply: SagaContext) -> None:
        asked = self._asked.get((change.instance.id, event.step))
        about = (reply.saga_id, reply.step, (reply.generation, reply.operation))
        if about != (change.instance.id, event.step, asked):
            what = f"saga {change.instance.key!r} took {event.kind} of step {event.step!r}, which was asked {asked},"
            answer = f"{reply.operation} of step {reply.step!r} generation {reply.generation}"
            self._fail(Violation(LAW, f"{what} from a reply to {answer}"))
