"""How a message of this service becomes an envelope: its source, its id, its trace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kafkasaga.clock import Clock
from kafkasaga.messages import Attributes, Codec, Envelope, Mark, Message, SagaContext, contract_of, derived, key_of


@dataclass(frozen=True, slots=True)
class Sender:
    """Makes the envelopes of one service."""

    source: str
    codec: Codec
    clock: Clock
    place: tuple[str | None, str] = (None, "")
    """The schema and the prefix of its outbox."""

    def envelope(
        self, message: Message, id: UUID, at: datetime, *, saga: SagaContext | None, traceparent: str | None
    ) -> Envelope:
        contract = contract_of(message)
        return Envelope(
            topic=contract.topic,
            key=key_of(message),
            id=id,
            source=self.source,
            type=contract.type,
            time=at,
            payload=self.codec.encode(message),
            content_type=self.codec.content_type,
            saga=saga,
            traceparent=traceparent,
        )

    def answer(
        self, topic: str, type: str, key: str, body: bytes | None, id: UUID, saga: SagaContext, traceparent: str | None
    ) -> Envelope:
        """A reply that a barrier gives: the first one again, or none but its mark."""
        return Envelope(
            topic=topic,
            key=key,
            id=id,
            source=self.source,
            type=type,
            time=self.clock.now(),
            payload=body,
            content_type=self.codec.content_type,
            saga=saga,
            traceparent=traceparent,
        )


def derived_id(cause: Attributes, consumer: str, n: int) -> UUID:
    """The id of the ``n``-th message that ``consumer`` sends because of ``cause``.

    A batch that is run again sends the same ids, so whatever reads them takes them once (invariant I3). The source is
    part of it: two sources may use the same id for different messages.
    """
    return derived(cause.id, f"{consumer}/{n}/{cause.source}")


def reply_context(command: SagaContext, command_id: UUID, mark: Mark | None = None) -> SagaContext:
    """The saga attributes of the answer to a command."""
    return SagaContext(
        saga=command.saga,
        saga_id=command.saga_id,
        step=command.step,
        generation=command.generation,
        operation=command.operation,
        command_id=command_id,
        mark=mark,
    )
