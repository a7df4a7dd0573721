"""``Outbox``: publishing from the user's own transaction.

A message becomes a row in the unit of work of the user's session. It is written with the user's rows, in the order of
publishing, is dropped with a savepoint that is rolled back, and reaches Kafka if and only if the transaction commits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from sqlalchemy import MetaData, inspect
from sqlalchemy.orm import registry

from kafkasaga.messages import Codec, Envelope, JsonCodec, Message, contract_of, key_of, write_headers
from kafkasaga.stores.outbox_rows import headers_to_text
from kafkasaga.stores.schema import Tables
from kafkasaga.stores.sessions import sync_session
from kafkasaga.stores.wake import wake_after_commit

if TYPE_CHECKING:  # importing AsyncSession at run time fails without greenlet
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

CONTEXT: Final = "kafkasaga"
"""The key of a ``PublishContext`` in a session's ``info``."""


@dataclass(frozen=True, slots=True)
class PublishContext:
    """What the runtime says about the delivery that a handler works on, in ``session.info["kafkasaga"]``.

    Its ids are derived from the incoming message, so that a batch that is executed again publishes the same ids.
    """

    source: str
    ids: Callable[[], UUID]
    traceparent: str | None = None
    now: datetime | None = None
    """The time of the message; by default the clock's."""


class Outbox:
    """Publishes messages in the user's own transaction.

    ::

        outbox = Outbox(Base.metadata, source="shop")

        with Session.begin() as session:
            session.add(order)
            outbox.publish(session, OrderCreated(order_id=order.id))

    Args:
        metadata: the user's own, to which the library's tables are added; by default one of its own.
        schema: their PostgreSQL schema.
        prefix: put before their names.
        source: who publishes (``ce_source``); consumers tell apart equal ids of different sources. By default the
            service that the outbox is given to, or ``kafkasaga``.
        codec: how bodies are written.
    """

    def __init__(
        self,
        metadata: MetaData | None = None,
        *,
        schema: str | None = None,
        prefix: str = "",
        source: str | None = None,
        codec: Codec | None = None,
    ) -> None:
        self.tables: Final = Tables(MetaData() if metadata is None else metadata, schema, prefix)
        self.source = source
        self._codec = codec or JsonCodec()
        self._row = _row_class(self.tables)

    def publish(self, session: Session | AsyncSession, *messages: Message) -> None:
        """Add messages to the session's transaction, in this order. After its commit, the relay publishes them.

        Nothing is sent to the database before the session flushes, so this is a plain call on an AsyncSession too.

        Raises:
            DefinitionError: for a message without a topic; then none is published.
        """
        target = sync_session(session)
        context: PublishContext = target.info.get(CONTEXT) or PublishContext(self.source or "kafkasaga", uuid4)
        rows = [self._row_of(self._envelope(message, context)) for message in messages]
        target.add_all(rows)
        if rows:
            engine = target.get_bind(mapper=inspect(self._row)).engine
            wake_after_commit(target, engine, self.tables)

    def _envelope(self, message: Message, context: PublishContext) -> Envelope:
        contract = contract_of(message)
        return Envelope(
            topic=contract.topic,
            key=key_of(message),
            id=context.ids(),
            source=context.source,
            type=contract.type,
            time=context.now or datetime.now(UTC),
            payload=self._codec.encode(message),
            content_type=self._codec.content_type,
            traceparent=context.traceparent,
        )

    def _row_of(self, envelope: Envelope) -> Any:
        return self._row(
            message_id=envelope.id,
            topic=envelope.topic,
            key=envelope.key,
            payload=envelope.payload,
            headers=headers_to_text(write_headers(envelope)),
            created_at=envelope.time,
        )


def _row_class(tables: Tables) -> type[Any]:
    """A class mapped to the outbox: its own for each set of tables, the same one if asked again."""
    known: type[Any] | None = tables.outbox.info.get("row")
    if known is None:
        known = tables.outbox.info["row"] = type("OutboxRow", (), {})
        registry(metadata=tables.metadata).map_imperatively(known, tables.outbox)
    return known
