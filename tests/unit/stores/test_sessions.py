"""Telling sessions from other things in annotations."""

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from kafkasaga.stores import is_async_session_type, is_session_type
from kafkasaga.stores.sessions import sync_session


class MySession(Session): ...


class MyAsyncSession(AsyncSession): ...


def test_sessions_and_their_subclasses_are_sessions() -> None:
    assert is_session_type(Session)
    assert is_session_type(MySession)
    assert not any(map(is_session_type, (AsyncSession, int, "Session", None, Session())))


def test_asynchronous_ones_are_told_apart() -> None:
    assert is_async_session_type(AsyncSession)
    assert is_async_session_type(MyAsyncSession)
    assert not any(map(is_async_session_type, (Session, int, "AsyncSession", None)))


def test_an_async_session_is_a_face_of_a_session() -> None:
    inner = Session()
    assert sync_session(inner) is inner
    outer = AsyncSession()
    assert sync_session(outer) is outer.sync_session
