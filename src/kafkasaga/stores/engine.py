"""The engine of the library's own connections, with the protections that they need.

A frozen process (SIGSTOP, a lost network) must not hold its successor up (invariant I11). On PostgreSQL the server
therefore ends a transaction that nobody moves, no one waits for a lock without end, and both ends notice a dead
network.

``pool_pre_ping`` stays off: it would cost a round trip for each batch, to save nothing but one failed batch after a
connection was lost. That batch is executed again anyway, and SQLAlchemy throws away all old connections of the pool
when one of them turns out to be dead.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from kafkasaga.errors import ConfigurationError

LOCK_TIMEOUT: Final = 10.0
"""Seconds to wait for a lock; then the batch is rolled back and executed again."""
IDLE_IN_TRANSACTION: Final = 60.0
"""Seconds that a transaction may stand still (a handler computes, the process is frozen); then the server ends it."""
SQLITE_BUSY_TIMEOUT: Final = 10.0
"""Seconds that SQLite waits for the other writer."""

_LIBPQ: Final[dict[str, str | int]] = {
    "application_name": "kafkasaga",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    "client_encoding": "UTF8",
}
"""Connection parameters; what the URL says wins."""


def create_library_engine(
    url: str | URL,
    *,
    lock_timeout: float = LOCK_TIMEOUT,
    idle_in_transaction_timeout: float = IDLE_IN_TRANSACTION,
    **options: Any,
) -> Engine:
    """An engine for ``url`` (``postgresql://…`` or ``sqlite:///…``); ``options`` go to ``create_engine``.

    Raises:
        ConfigurationError: for another kind of database, one without its driver, or a file that cannot be there.
    """
    parsed = _parsed(url)
    # What a statement carries is business data: it belongs neither into a log nor into the error of a parked message.
    options = {"hide_parameters": True, **options}
    match parsed.get_backend_name():
        case "postgresql":
            return _postgresql(parsed, lock_timeout, idle_in_transaction_timeout, options)
        case "sqlite":
            return _sqlite(parsed, options)
        case other:
            raise ConfigurationError(f"kafkasaga keeps its tables in PostgreSQL or SQLite, not in {other!r}")


def _parsed(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # whose texts may hold the password
        raise ConfigurationError(
            "the database URL cannot be read; write it like postgresql+psycopg://user:password@host:5432/database "
            "or sqlite:///file.db, with %-escapes for special characters in the password"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        _check_sqlite(parsed)
    return parsed


def _check_sqlite(url: URL) -> None:
    """What SQLite would not open, or SQLAlchemy not understand."""
    if url.host:
        raise ConfigurationError(
            f"the database URL sqlite://{url.host} names a host; a file has three slashes: sqlite:///{url.host} "
            "(four, if its path begins with one)"
        )
    file = sqlite_file(url)
    if file is not None and not file.parent.is_dir():
        raise ConfigurationError(f"there is no folder {file.parent} for the database {file}; make it, or correct it")
    if file is not None and file.is_dir():
        raise ConfigurationError(f"the database {file} is a folder; name a file in it")


def sqlite_file(url: URL) -> Path | None:
    """The file that an SQLite URL names; None for a database in memory, a URI, or another kind of database."""
    if url.get_backend_name() != "sqlite" or in_memory(url) or (url.database or "").startswith("file:"):
        return None
    return Path(url.database or "")


def _postgresql(url: URL, lock_timeout: float, idle_timeout: float, options: dict[str, Any]) -> Engine:
    given = options.pop("connect_args", {})
    libpq = {name: value for name, value in _LIBPQ.items() if name not in url.query}
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",  # claims wait for each other and then see what the other one left
            connect_args={**libpq, **given},
            **options,
        )
    except ImportError as error:
        raise ConfigurationError(f'PostgreSQL needs psycopg: pip install "kafkasaga[postgresql]" ({error})') from None
    settings = {
        "lock_timeout": _milliseconds(lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(idle_timeout),
        # A plan made while a queue table was empty would read all of it after it has grown. Planning a statement anew
        # costs about 0.1 ms. (What each batch asks has plans that are kept: see ``plans``.)
        "plan_cache_mode": "force_custom_plan",
    }

    @event.listens_for(engine, "connect")
    def protect(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            for name, value in settings.items():
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.commit()

    return engine


def _sqlite(url: URL, options: dict[str, Any]) -> Engine:
    given = {"timeout": SQLITE_BUSY_TIMEOUT, "check_same_thread": False, **options.pop("connect_args", {})}
    if in_memory(url):
        # One connection is the database: whoever wants it waits until it is given back.
        options = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, **options}
    engine = create_engine(url, connect_args=given, **options)

    @event.listens_for(engine, "connect")
    def protect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # With NORMAL, a power cut may undo the last commits in WAL mode. An order that was confirmed must not vanish.
        connection.execute("PRAGMA synchronous = FULL")

    return engine


def in_memory(url: URL) -> bool:
    """Whether an SQLite database lives in memory only."""
    return not url.database or url.database == ":memory:" or "mode=memory" in url.database


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
