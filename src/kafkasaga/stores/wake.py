"""Waking the relay after a commit.

If the active relays of an outbox run in this process, they are called. Where one is elsewhere, PostgreSQL carries the
word: a NOTIFY *after* the commit, on a connection of its own. (Inside the transaction it would serialise all commits:
measured, 12 to 25 % slower.) Whoever commits sends it, and waits for nothing; while the last one is not answered, and
where there is no connection yet, a background thread does. So many commits make one NOTIFY. A wake-up that gets lost
costs the relay's polling interval, nothing else; a needless one costs a look at the outbox.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from kafkasaga.stores.schema import Tables

if TYPE_CHECKING:
    from kafkasaga.stores.line import Line

_log = logging.getLogger(__name__)

PENDING: Final = "kafkasaga.wake"
"""Under this key a session's ``info`` holds whom to wake after its commit."""
IDLE: Final = 10.0
"""Seconds after which an idle notifier's thread ends; the next commit starts another."""
CLOSE_SECONDS: Final = 2.0
"""For the last NOTIFY, where the database does not answer: then it is not worth waiting for."""


class Listener(Protocol):
    """A relay's queue, as a commit sees it."""

    @property
    def active(self) -> bool:
        """Whether it is one that reads the outbox."""
        ...

    @property
    def relays(self) -> int:
        """How many read it, wherever they are."""
        ...

    def wake(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """One outbox: where its database is, and what it is called there."""

    host: str | None
    port: int | None
    database: str | None
    schema: str | None
    prefix: str

    @classmethod
    def of(cls, engine: Engine, tables: Tables) -> Target:
        return cls(engine.url.host, engine.url.port, engine.url.database, tables.schema, tables.prefix)

    @property
    def channel(self) -> str:
        """The name under which PostgreSQL carries the word; the same in every process."""
        name = f"{self.schema or ''}/{self.prefix}"
        return f"kafkasaga_{blake2b(name.encode(), digest_size=8).hexdigest()}"


_listeners: defaultdict[Target, set[Listener]] = defaultdict(set)
_notifiers: WeakKeyDictionary[Engine, Notifier] = WeakKeyDictionary()
_guard = threading.Lock()


def listen(target: Target, listener: Listener) -> Callable[[], None]:
    """Have ``listener`` woken after commits to ``target``; returns what ends it."""
    with _guard:
        _listeners[target].add(listener)

    def end() -> None:
        with _guard:
            _listeners[target].discard(listener)

    return end


def wake(engine: Engine, tables: Tables) -> bool:
    """Something was committed to the outbox; True if a relay of this process was woken for it."""
    target = Target.of(engine, tables)
    with _guard:
        active = [listener for listener in _listeners.get(target, ()) if listener.active]
    for listener in active:
        listener.wake()
    # While a deployment changes how many there are, relays of both numbers run: each number has to be complete here.
    numbers = [listener.relays for listener in active]
    elsewhere = not numbers or any(numbers.count(number) < number for number in numbers)
    if elsewhere and engine.dialect.name == "postgresql":
        notifier(engine).notify(target.channel)
    return bool(active)


def wake_after_commit(session: Session, engine: Engine, tables: Tables) -> None:
    """Call ``wake`` when the session's outermost transaction has committed."""
    session.info.setdefault(PENDING, {})[Target.of(engine, tables)] = (engine, tables)
    if not event.contains(session, "after_commit", _after_commit):
        event.listen(session, "after_commit", _after_commit)


def committed(session: Session) -> None:
    """The session's transaction has committed: wake whom it has to."""
    for engine, tables in session.info.pop(PENDING, {}).values():
        wake(engine, tables)


def _after_commit(session: Session) -> None:
    if not session.in_nested_transaction():  # the release of a savepoint makes nothing visible yet
        committed(session)


def notifier(engine: Engine) -> Notifier:
    """The one notifier of an engine."""
    with _guard:
        found = _notifiers.get(engine)
        if found is None:
            found = _notifiers[engine] = Notifier(engine)
        return found


def close(engine: Engine) -> None:
    """Send what is to be sent through ``engine``, before it is disposed of."""
    with _guard:
        found = _notifiers.pop(engine, None)
    if found is not None:
        found.close()


class Notifier:
    """Sends NOTIFY without ever holding anybody up. What comes while one is on its way is sent together, after it.

    Its thread makes the connection, and has it while there is something to wait for; else it lies there as a ``Line``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = ref(engine)  # the user may drop an engine; nobody then waits for its commits
        self._condition = threading.Condition()
        self._channels: set[str] = set()
        self._line: Line | None = None
        self._is_used = False
        """Whether the line was, since the thread last looked."""
        self._thread: threading.Thread | None = None
        self._closed = False

    def notify(self, channel: str) -> None:
        """Send it soon; never waits, never raises."""
        with self._condition:
            if self._closed:
                return
            if self._line is not None and not self._channels and self._line.send(channel):
                self._is_used = True
                return
            self._channels.add(channel)
            if self._thread is None or not self._thread.is_alive():
                self._thread = self._start()
            self._condition.notify()

    def close(self) -> None:
        """End the thread, after what it has to send; it is left alone if that takes too long."""
        with self._condition:
            self._closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def _start(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name="kafkasaga-notify", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # too many threads, or the interpreter ends; the user's commit stands
            _log.warning("could not wake the relay, which will look by itself: %s", error)
            return None
        return thread

    def _run(self) -> None:
        connection: Connection | None = None
        while channels := self._next():
            try:
                connection = connection or self._connect()
                if connection is None:
                    return
                for channel in channels:
                    connection.exec_driver_sql(f"SELECT pg_notify('{channel}', '')")
                self._lay_out(connection)
            except SQLAlchemyError as error:
                _log.warning("could not wake the relay, which will look by itself: %s", error)
                _close(connection)
                connection = None
        _close(connection)

    def _lay_out(self, connection: Connection) -> None:
        """Let whoever commits next use it."""
        if connection.dialect.driver != "psycopg":
            return
        from kafkasaga.stores.line import Line  # who uses another driver need not have psycopg

        with self._condition:
            self._line = Line(connection)

    def _next(self) -> list[str]:
        """What to send, on a connection that waits for no answer; nothing: the thread ends."""
        with self._condition:
            while not self._channels and not self._closed:
                self._is_used = False
                if not self._condition.wait(IDLE) and not self._is_used:
                    break
            line, self._line = self._line, None
            channels = sorted(self._channels)
            self._channels.clear()
            if not channels:
                self._thread = None
        if line is not None:
            line.settle()  # if it is lost, the next statement says so
        return channels

    def _connect(self) -> Connection | None:
        """A connection of its own, kept while commits come: to take one from the pool costs more than the NOTIFY."""
        engine = self._engine()
        if engine is None:
            return None
        connection = _blocking(engine).connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()
        return connection


def _close(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(SQLAlchemyError):  # it was lost since it was used last
            connection.close()


def _blocking(engine: Engine) -> Engine:
    """An engine that a plain thread can use: an asynchronous one needs its event loop."""
    if not engine.dialect.is_async:
        return engine
    return create_engine(engine.url.set(drivername="postgresql+psycopg"), poolclass=NullPool)
