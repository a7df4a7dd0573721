"""One relay at a time on SQLite: a lock on a file beside the database, which the system frees when its process dies.

A process that is frozen keeps the lock, unlike on PostgreSQL: SQLite's processes share a machine, so the person who
froze it can also end it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine

from kafkasaga.stores.bulk import Sql
from kafkasaga.stores.dialects import begin_writing
from kafkasaga.stores.engine import in_memory
from kafkasaga.stores.failures import translated
from kafkasaga.stores.relay_queue import SqlRelayQueue
from kafkasaga.stores.relay_share import WHOLE
from kafkasaga.stores.wake import Target, listen

POLL: Final = 0.05
"""Seconds between looks at whether another process has committed something."""


class SqliteRelayQueue(SqlRelayQueue):
    """Implements ``ports.RelayQueue``."""

    def __init__(self, engine: Engine, sql: Sql) -> None:
        super().__init__(sql, WHOLE)
        self._engine = engine
        self._lock = _lock_for(engine, f"{sql.tables.prefix}relay-{WHOLE.name}")
        self._held = False
        self._event = threading.Event()
        self._watch: Connection | None = None
        self._version: int | None = None
        self._unlisten = listen(Target.of(engine, sql.tables), self)

    def _execute(self, connection: Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        rows = connection.exec_driver_sql(query, tuple(values))
        return [(id, bytes.fromhex(message_id), *rest) for id, message_id, *rest in rows]

    @property
    def active(self) -> bool:
        """Whether this relay holds the outbox."""
        return self._held

    def acquire(self) -> bool:
        """No statement."""
        self._held = self._held or self._lock.acquire()
        return self._held

    def wait(self, timeout: float) -> None:
        """Wait for a ``wake``, a commit of another process, or the timeout."""
        end = time.monotonic() + timeout
        # Compared with the last wait, not with now: what was committed in between must not be missed.
        while not self._changed() and (left := end - time.monotonic()) > 0:
            if self._event.wait(min(left, POLL)):
                self._event.clear()
                return

    def wake(self) -> None:
        """From any thread."""
        self._event.set()

    def close(self) -> None:
        """Give it up."""
        self._unlisten()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._held:
            self._held = False
            self._lock.release()

    def _changed(self) -> bool:
        before, self._version = self._version, self._data_version()
        return self._version != before

    def _data_version(self) -> int | None:
        """A number that changes when another connection commits; one connection must ask each time."""
        if in_memory(self._engine.url):
            return None
        with translated():
            if self._watch is None:
                self._watch = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            version: int = self._watch.exec_driver_sql("PRAGMA data_version").scalar_one()
            return version

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        with translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        with translated(), self._engine.begin() as connection:
            begin_writing(connection)
            yield connection


class _FileLock:
    """Holds a file locked until it is released or the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        file = self._path.open("ab")
        try:
            _lock_file(file)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _MemoryLock:
    """An in-memory database has no file, and no other process."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def acquire(self) -> bool:
        return self._lock.acquire(blocking=False)

    def release(self) -> None:
        self._lock.release()


_memory_locks: WeakKeyDictionary[Engine, dict[str, threading.Lock]] = WeakKeyDictionary()


def _lock_for(engine: Engine, name: str) -> _FileLock | _MemoryLock:
    if in_memory(engine.url):
        return _MemoryLock(_memory_locks.setdefault(engine, {}).setdefault(name, threading.Lock()))
    return _FileLock(Path(f"{engine.url.database}.{name}.lock"))


if sys.platform == "win32":
    import msvcrt

    def _lock_file(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock_file(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
