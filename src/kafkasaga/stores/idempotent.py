"""``@idempotent``: a handler that takes effect once, for consumers that are not run by kafkasaga."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Generic, Literal, TypeVar
from uuid import UUID

from sqlalchemy import Connection, MetaData

from kafkasaga.messages import Message
from kafkasaga.ports import InboxKey
from kafkasaga.stores.bulk import Sql
from kafkasaga.stores.dialects import begin_writing
from kafkasaga.stores.failures import translated
from kafkasaga.stores.inbox import Inbox
from kafkasaga.stores.outbox import Outbox
from kafkasaga.stores.schema import Tables

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)
M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


@dataclass(frozen=True, slots=True)
class Received(Generic[M_co]):
    """A message with what makes it the same message when it comes again: its id, and who wrote it."""

    message: M_co
    id: UUID
    source: str = ""


class Idempotent(Generic[M_contra]):
    """A handler whose effects happen once for each message. Made by ``idempotent``; ``__wrapped__`` is the original."""

    __wrapped__: Callable[[M_contra, Session], object]

    def __init__(self, function: Callable[[M_contra, Session], object], consumer: str, tables: Tables) -> None:
        update_wrapper(self, function)
        self.__wrapped__ = function
        self._consumer = consumer
        self._tables = tables
        self._inboxes: dict[str, Inbox] = {}

    def __call__(self, received: Received[M_contra], session: Session) -> Literal["handled", "repeated"]:
        """Handle the message, unless this consumer has handled it. The caller commits; then it has happened.

        If another transaction handles the same message at this moment, this call waits for its end. If the handler
        raises, its changes and the note that it was handled are undone together, and the session stays usable.
        """
        where = {"clause": self._tables.inbox}
        begin_writing(session.connection(bind_arguments=where))
        with session.begin_nested():
            # Asked for inside the block: only then does SQLAlchemy set the savepoint on it.
            connection = session.connection(bind_arguments=where)
            key = InboxKey(self._consumer, received.source, received.id)
            with translated():
                if not self._inbox(connection).claim(connection, [key]):
                    return "repeated"
            self.__wrapped__(received.message, session)
        return "handled"

    def _inbox(self, connection: Connection) -> Inbox:
        dialect = connection.dialect
        inbox = self._inboxes.get(dialect.name)
        if inbox is None:
            inbox = self._inboxes[dialect.name] = Inbox(Sql(self._tables, dialect))
        return inbox


def idempotent(
    *, consumer: str, outbox: Outbox | None = None
) -> Callable[[Callable[[M, Session], object]], Idempotent[M]]:
    """Make a handler idempotent.

    ::

        @idempotent(consumer="billing")
        def on_paid(event: PaymentSucceeded, session: Session) -> None: ...

        with Session.begin() as session:
            on_paid(Received(event, id=event_id, source=event_source), session)

    Args:
        consumer: the name under which handled messages are remembered. Keep it when code moves.
        outbox: whose tables to use; by default those without schema and prefix.
    """
    tables = Tables(MetaData()) if outbox is None else outbox.tables
    return lambda function: Idempotent(function, consumer, tables)
