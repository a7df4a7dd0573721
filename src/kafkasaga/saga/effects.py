"""What the machine asks of its shell: effects, to be carried out in the transaction that logs the events."""

from __future__ import annotations

from uuid import UUID

from kafkasaga.messages import Message, Operation, SagaContext
from kafkasaga.saga.events import Event
from kafkasaga.saga.instance import Instance
from kafkasaga.values import value


@value(frozen=True, slots=True)
class Send:
    """Put this message into the outbox, under this id."""

    id: UUID
    message: Message
    context: SagaContext | None


@value(frozen=True, slots=True)
class RunLocal:
    """Run the function of a local step in this transaction, then ``decide`` again with ``Ran``.

    A decision holds at most one: the next local step begins when this one's state is known.
    """

    step: str
    operation: Operation


Effect = Send | RunLocal


@value(frozen=True, slots=True)
class Decision:
    """What happened, what is to be done about it, and the instance after it."""

    instance: Instance
    events: tuple[Event, ...]
    effects: tuple[Effect, ...]
