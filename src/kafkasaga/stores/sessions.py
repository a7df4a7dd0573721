"""Sessions as users write them: in annotations, and as arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from kafkasaga.errors import DefinitionError

__all__ = ["Session", "is_async_session_type", "is_session_type", "sync_session"]

if TYPE_CHECKING:  # importing it at run time fails without greenlet
    from sqlalchemy.ext.asyncio import AsyncSession


def is_session_type(hint: Any) -> bool:
    """Whether an annotation of a handler's parameter asks for the session of its transaction."""
    return isinstance(hint, type) and issubclass(hint, Session)


def is_async_session_type(hint: Any) -> bool:
    """Whether it asks for an AsyncSession, which a handler cannot get: to say so clearly."""
    return isinstance(hint, type) and any(
        base.__name__ == "AsyncSession" and base.__module__.startswith("sqlalchemy.ext.asyncio")
        for base in hint.__mro__
    )


def sync_session(session: Session | AsyncSession) -> Session:
    """The session that does the work: an AsyncSession is a face of one.

    Raises:
        DefinitionError: for anything else.
    """
    given: Any = session
    found: Any = given if isinstance(given, Session) else getattr(given, "sync_session", None)
    if not isinstance(found, Session):
        raise DefinitionError(
            f"the outbox publishes in the transaction of a Session or an AsyncSession; a {type(given).__name__} is "
            "neither: with Session(engine) as session, session.begin(): outbox.publish(session, …)"
        )
    return found
