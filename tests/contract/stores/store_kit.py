"""Transactions in other threads, and what was executed."""

import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, event, text

from kafkasaga.stores import SqlStore

T = TypeVar("T")
# Seconds; only a test that fails ever waits that long. Shorter than what the server's clock would set right by itself.
WITHIN = 12.0

WAITING = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND state = 'active'"""


class Threads:
    """Runs transactions beside the test's own, and knows when one of them waits for a lock."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(4)

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Run it in another thread; return when that thread is running."""
        running = threading.Event()

        def run() -> T:
            running.set()
            return work()

        future = self._pool.submit(run)
        assert running.wait(WITHIN)
        return future

    def start_and_block(self, work: Callable[[], T], *, waiting: int = 1) -> Future[T]:
        """Run what has to wait for another transaction; return when ``waiting`` do (on SQLite: when it runs)."""
        future = self.start(work)
        if self._store.engine.dialect.name == "postgresql":
            until(lambda: future.done() or self._waiting() == waiting)
        assert not future.done(), "it did not wait"
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def _waiting(self) -> int:
        with self._store.engine.connect() as connection:
            return connection.scalar(text(WAITING)) or 0


def until(condition: Callable[[], object]) -> None:
    """Return when ``condition`` holds; fail if it never does."""
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


@contextmanager
def counted_statements(store: SqlStore) -> Generator[list[str]]:
    """The statements that are executed inside the block, also those that go past SQLAlchemy.

    What begins and ends a transaction does not count, nor what goes with its beginning: settings, and its turn.
    """
    statements: list[str] = []

    def note(statement: str) -> None:
        if not statement.startswith(
            ("BEGIN", "COMMIT", "ROLLBACK", "SELECT set_config(", "SELECT pg_advisory_xact_lock")
        ):
            statements.append(statement)

    def through_sqlalchemy(_c: Connection, _cursor: object, statement: str, *_: object) -> None:
        note(statement)

    past_it = _Noting(note)
    event.listen(store.engine, "before_cursor_execute", through_sqlalchemy)
    log, level = logging.getLogger("kafkasaga.sql"), logging.getLogger("kafkasaga.sql").level
    log.addHandler(past_it)
    log.setLevel(logging.DEBUG)
    try:
        yield statements
    finally:
        log.setLevel(level)
        log.removeHandler(past_it)
        event.remove(store.engine, "before_cursor_execute", through_sqlalchemy)


class _Noting(logging.Handler):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())
