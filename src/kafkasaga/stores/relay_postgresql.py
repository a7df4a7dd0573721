"""One relay at a time for each share of the keys on PostgreSQL: a session advisory lock on a dedicated connection.

Everything the relay does runs on the connection that holds the lock. Whatever ends the connection frees the lock at
once, and a relay that lost it notices with its next statement. A frozen relay loses it by the server's clock: the
connection has an ``idle_session_timeout``, and ``acquire`` and ``wait`` send a heartbeat in time. No other clock takes
part (I12).

A relay that lost the lock unawares may still send what it had fetched. It cannot reorder a key by that, because nothing
of a key arrives behind what did not (see the relay); it can only repeat, and the inbox knows repetitions.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, text

from kafkasaga.errors import ConfigurationError, DatabaseUnavailable
from kafkasaga.ports import OutboxRow, Page
from kafkasaga.stores.bulk import Sql
from kafkasaga.stores.failures import translated
from kafkasaga.stores.relay_queue import SqlRelayQueue
from kafkasaga.stores.relay_share import WHOLE, Share, ShareTurns
from kafkasaga.stores.wake import Target, listen

if TYPE_CHECKING:
    from kafkasaga.stores.relay_direct import DirectReader

IDLE_SESSION: Final = 15.0
"""Seconds without a sign of life after which the server ends the relay's connection."""
HEARTBEATS: Final = 5
"""Signs of life in that time."""
READ_WHOLE_TABLES: Final = ("enable_seqscan", "enable_bitmapscan", "enable_sort")
"""Plans that read the whole backlog to find its first rows. The planner takes to them, since what it knows of a queue
is from a moment when it was nearly empty (100,000 rows waiting, pages of 1,000: 102 µs a row; by primary key 12).
"""
_SELECTOR: Final[type[selectors.BaseSelector]] = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""``select`` takes no descriptors above 1023, except on Windows, which has no ``poll``."""


class PostgresqlRelayQueue(SqlRelayQueue):
    """Implements ``ports.RelayQueue``. ``engine`` must reach the server itself: poolers between share sessions."""

    def __init__(
        self,
        engine: Engine,
        sql: Sql,
        *,
        share: Share = WHOLE,
        turns: ShareTurns | None = None,
        idle_session_timeout: float = IDLE_SESSION,
    ) -> None:
        super().__init__(sql, share)
        if engine.dialect.driver != "psycopg":
            raise ConfigurationError(f"the relay needs the psycopg driver, not {engine.dialect.driver!r}")
        self._sql, self._engine = sql, engine
        self._share, self._turns = share, turns or ShareTurns()
        self._turn_in = 0.0
        """Seconds until it may ask for its share; 0: it has asked."""
        self._idle_timeout = idle_session_timeout
        self._connection: Connection | None = None
        self._direct: DirectReader | None = None
        """While it is held, and unless statements have to go through SQLAlchemy."""
        self._held = False
        self._alive_at = 0.0
        self._notified = False
        self._target = Target.of(engine, sql.tables)
        self._wakers = socket.socketpair()
        for end in self._wakers:
            end.setblocking(False)  # noqa: FBT003 (positional only)
        self._unlisten = listen(self._target, self)

    def _execute(self, connection: Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.exec_driver_sql(query, tuple(values))]

    def _read(self, page: Page) -> list[OutboxRow]:
        direct = self._direct
        return super()._read(page) if direct is None else self._directly(lambda: direct.fetch(page))

    def _remove(self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None], then: Page | None) -> list[OutboxRow]:
        direct = self._direct
        if direct is None:
            return super()._remove(rows, meanwhile, then)
        return self._directly(lambda: direct.delete(rows, meanwhile, then))

    def _directly(self, statement: Callable[[], list[OutboxRow]]) -> list[OutboxRow]:
        """As ``_reading``, without what its contexts cost where nothing goes wrong."""
        try:
            rows = statement()
        except BaseException:
            assert self._connection is not None
            with self._guarded(self._connection):
                raise
        self._alive_at = time.monotonic()
        return rows

    @property
    def active(self) -> bool:
        """Whether this relay holds the outbox, as far as it knows."""
        return self._held

    def acquire(self) -> bool:
        """One statement, or none if the lock was proven to be held just now; a few when it changes hands."""
        if self._held and not self._is_silent():
            return True
        if not self._held and self._wait_for_turn():
            return False
        with self._guarded(self._connection or self._connect()) as connection:
            if self._held:
                self._heartbeat(connection)
            elif self._try_lock(connection):
                self._held, self._alive_at = True, time.monotonic()
                self._direct = self._direct_reader(connection)
                self._turns.took(self._share)
            return self._held

    def wait(self, timeout: float) -> None:
        """Wait for a NOTIFY, a ``wake`` or the timeout, whichever comes first, with heartbeats in between."""
        end = time.monotonic() + (min(timeout, self._turn_in) if self._turn_in else timeout)
        while not self._woken() and (left := end - time.monotonic()) > 0:
            self._wait_once(min(left, self._idle_timeout / HEARTBEATS))

    def wake(self) -> None:
        """From any thread."""
        with suppress(BlockingIOError, OSError):  # full: the wake-up is there already; closed: nobody waits
            self._wakers[1].send(b"\0")

    def close(self) -> None:
        """Give it up; the lock goes with the connection."""
        self._unlisten()
        self._drop()
        for end in self._wakers:
            end.close()

    # ---- waiting --------------------------------------------------------------------------------------------------

    def _woken(self) -> bool:
        """Whether something came since the last time; forgets it."""
        with suppress(BlockingIOError):
            self._notified |= bool(self._wakers[0].recv(4096))
        notified, self._notified = self._notified, False
        return notified

    def _wait_once(self, seconds: float) -> None:
        with _SELECTOR() as sources:
            sources.register(self._wakers[0], selectors.EVENT_READ)
            if self._connection is not None:
                sources.register(_driver(self._connection), selectors.EVENT_READ)
            readable = [key.fileobj for key, _ in sources.select(seconds)]
        if self._connection is not None and self._held:
            with self._guarded(self._connection) as connection:
                unasked = any(source is not self._wakers[0] for source in readable)
                self._heartbeat(connection, needed=unasked and not self._take_notifications(connection))

    def _take_notifications(self, connection: Connection) -> bool:
        """Read what the server said unasked; False if it was something else, as its goodbye: a statement finds out."""
        server = _driver(connection).pgconn
        try:
            server.consume_input()
        except connection.dialect.loaded_dbapi.OperationalError:
            return False
        return self._hear(server)

    def _hear(self, server: Any) -> bool:
        heard = False
        while server.notifies() is not None:
            heard = True
        self._notified |= heard
        return heard

    # ---- holding --------------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        with translated():
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        _driver(connection).cursor_factory = _binary_cursor
        self._connection = connection
        return connection

    def _wait_for_turn(self) -> float:
        self._turn_in = self._turns.wait()
        return self._turn_in

    def _try_lock(self, connection: Connection) -> bool:
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._lock_key(connection)}):
            return False
        _driver(connection).add_notify_handler(self._on_notify)
        milliseconds = str(int(self._idle_timeout * 1000))
        connection.execute(text("SELECT set_config('idle_session_timeout', :value, false)"), {"value": milliseconds})
        for plan in READ_WHOLE_TABLES:
            connection.exec_driver_sql(f"SET {plan} = off")
        connection.exec_driver_sql("SET plan_cache_mode = auto")
        # What is deleted here has been published. A server that crashes and forgets the last deletes has it published
        # again; no delete is forgotten before one that came after it.
        connection.exec_driver_sql("SET synchronous_commit = off")
        connection.exec_driver_sql(f"LISTEN {self._target.channel}")
        return True

    def _direct_reader(self, connection: Connection) -> DirectReader | None:
        from kafkasaga.stores.driver import trips_of  # who uses SQLite need not have psycopg
        from kafkasaga.stores.relay_direct import DirectReader

        trips = trips_of(connection)
        return None if trips is None else DirectReader(self._sql, self._share, self._reader, connection, trips)

    def _lock_key(self, connection: Connection) -> int:
        """The lock's number: advisory locks belong to a database, so schema, prefix and share make it unique."""
        schema = self.tables.schema or connection.scalar(text("SELECT current_schema()"))
        name = f"kafkasaga/relay/{schema}/{self.tables.prefix}/{self._share.name}"
        return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)

    def _heartbeat(self, connection: Connection, *, needed: bool = False) -> None:
        if needed or self._is_silent():
            connection.exec_driver_sql("SELECT 1")
            self._alive_at = time.monotonic()

    def _is_silent(self) -> bool:
        """Whether the server should hear of this relay again."""
        return time.monotonic() - self._alive_at > self._idle_timeout / HEARTBEATS

    def _on_notify(self, _: object) -> None:
        self._notified = True

    @contextmanager
    def _guarded(self, connection: Connection) -> Generator[Connection]:
        """Whatever goes wrong with the connection, it is not held any more."""
        try:
            with translated():
                yield connection
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection, self._direct, self._held = self._connection, None, None, False
        self._turns.lost(self._share)
        if connection is not None:
            # Closed, not given back to the pool, where it would keep the lock; and without asking the server for
            # anything, which may be gone.
            connection.invalidate()
            connection.close()

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        if self._connection is None or not self._held:
            raise DatabaseUnavailable("this relay does not hold the outbox; acquire() it first")
        with self._guarded(self._connection) as connection:
            yield connection
            self._alive_at = time.monotonic()

    _writing = _reading


def _binary_cursor(connection: Any, **options: Any) -> Any:
    """A cursor to which the server sends bytes and ids as they are, instead of as text."""
    import psycopg  # who uses SQLite need not have it

    cursor = psycopg.Cursor[Any](connection, **options)
    cursor.format = psycopg.pq.Format.BINARY
    return cursor


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
