"""``Outbox``: publishing from the user's own transaction.

A message becomes a row in the unit of work of the user's session. It is written with the user's rows, in the order of
publishing, is dropped with a savepoint that is rolled back, and reaches Kafka if and only if the transaction commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from sqlalchemy import MetaData, event, inspect
from sqlalchemy.orm import Session, SessionTransaction, registry

from kafkasaga.messages import Codec, Envelope, JsonCodec, Message, contract_of, key_of
from kafkasaga.stores.outbox_rows import headers_as_text
from kafkasaga.stores.remedies import remember
from kafkasaga.stores.schema import Tables
from kafkasaga.stores.sessions import sync_session
from kafkasaga.stores.wake import wake_after_commit

if TYPE_CHECKING:  # importing AsyncSession at run time fails without greenlet
    from sqlalchemy.ext.asyncio import AsyncSession

CONTEXT: Final = "kafkasaga"
"""The key of a ``PublishContext`` in a session's ``info``."""
_JSON: Final = JsonCodec()

Place = tuple[str | None, str]
"""The schema and the prefix of an outbox's tables."""


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
    published: Published | None = None
    """Where the batch gathers what it sends; None: the session's unit of work does."""


class Published:
    """What the handlers of a batch publish, kept in one order with what they answer (invariant I4).

    A message that was published inside a savepoint goes with it, if that is rolled back.
    """

    def __init__(self, place: Place) -> None:
        self.place: Final = place
        self._within: dict[UUID, tuple[Session, SessionTransaction]] = {}
        self.said: list[Envelope] = []
        """In the order of publishing; whoever runs the handlers takes them away."""

    def add(self, session: Session, envelope: Envelope) -> None:
        """Gather a message."""
        savepoint = session.get_nested_transaction()
        if savepoint is not None:
            self._within[envelope.id] = session, savepoint
        self.said.append(envelope)

    def take(self) -> list[Envelope]:
        """What was published since the last call."""
        said, self.said = self.said, []
        return said

    def kept(self, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """Without what went with a savepoint."""
        if not self._within:
            return list(envelopes)
        return [envelope for envelope in envelopes if not self._is_gone(envelope)]

    def _is_gone(self, envelope: Envelope) -> bool:
        session, savepoint = self._within.get(envelope.id, (None, None))
        undone: list[SessionTransaction] = [] if session is None else session.info.get(_UNDONE, [])
        while savepoint is not None:
            if any(savepoint is one for one in undone):
                return True
            savepoint = savepoint.parent
        return False


_UNDONE: Final = "kafkasaga.undone"


@event.listens_for(Session, "after_soft_rollback")
def _after_rollback(session: Session, undone: SessionTransaction) -> None:
    if CONTEXT in session.info:
        session.info.setdefault(_UNDONE, []).append(undone)


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
        codec: how bodies are written. By default as the service does that the outbox is given to, or as JSON.
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
        self.codec = codec
        self._row = _row_class(self.tables)
        remember(self.tables)

    @property
    def place(self) -> Place:
        """Where its tables are: their schema and prefix."""
        return self.tables.schema, self.tables.prefix

    def publish(self, session: Session | AsyncSession, *messages: Message) -> None:
        """Add messages to the session's transaction, in this order. After its commit, the relay publishes them.

        Nothing is sent to the database before the session flushes, so this is a plain call on an AsyncSession too.

        Raises:
            DefinitionError: for a message without a topic; then none is published.
        """
        target = sync_session(session)
        context: PublishContext = target.info.get(CONTEXT) or PublishContext(self.source or "kafkasaga", uuid4)
        envelopes = [self._envelope(message, context) for message in messages]
        if context.published is not None and context.published.place == self.place:
            for envelope in envelopes:
                context.published.add(target, envelope)
            return
        rows = [self._row_of(envelope) for envelope in envelopes]
        target.add_all(rows)
        if rows:
            engine = target.get_bind(mapper=inspect(self._row)).engine
            wake_after_commit(target, engine, self.tables)

    def _envelope(self, message: Message, context: PublishContext) -> Envelope:
        contract, codec = contract_of(message), self.codec or _JSON
        return Envelope(
            topic=contract.topic,
            key=key_of(message),
            id=context.ids(),
            source=context.source,
            type=contract.type,
            time=context.now or datetime.now(UTC),
            payload=codec.encode(message),
            content_type=codec.content_type,
            traceparent=context.traceparent,
        )

    def _row_of(self, envelope: Envelope) -> Any:
        return self._row(
            message_id=envelope.id,
            topic=envelope.topic,
            key=envelope.key,
            payload=envelope.payload,
            headers=headers_as_text(envelope),
            created_at=envelope.time,
        )


def _row_class(tables: Tables) -> type[Any]:
    """A class mapped to the outbox: its own for each set of tables, the same one if asked again."""
    known: type[Any] | None = tables.outbox.info.get("row")
    if known is None:
        known = tables.outbox.info["row"] = type("OutboxRow", (), {})
        registry(metadata=tables.metadata).map_imperatively(known, tables.outbox)
    return known
