"""Statements that go to psycopg past SQLAlchemy, and several of them in one round trip.

What a batch costs beyond its messages is statements: their way through SQLAlchemy, a round trip each, their planning.
So the library's own bulk statements are handed to the driver as they are, and those that need not wait for each other
travel together, in a pipeline. Errors go through SQLAlchemy all the same: it says which connections are lost.

Whoever wants to see them: the logger ``kafkasaga.sql`` has each at level DEBUG.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final, Protocol, cast

import psycopg
from psycopg import generators
from psycopg.adapt import Dumper
from psycopg.pq import Format, TransactionStatus
from sqlalchemy import Connection, Dialect

from kafkasaga.stores.arrays import array_writer
from kafkasaga.stores.bulk import ISOLATION, Answer, Bulk, Convert, Plain, Row, Types, Way, read

log = logging.getLogger("kafkasaga.sql")

_send_all: Final[Callable[[Any], Any]] = cast("Any", generators).send
"""Psycopg's own way to empty the buffer of a connection."""

_KNOWN: Final = "kafkasaga.driver"
"""Under this key a connection's ``info`` holds psycopg's connection, or None where statements cannot go to it."""


class Array(bytes):
    """A binary array, of the type that its place in the statement says."""

    __slots__ = ()


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        return obj


class _Cursor(Protocol):
    @property
    def rowcount(self) -> int: ...

    def fetchall(self) -> list[tuple[Any, ...]]: ...


class PsycopgBulk:
    """A statement over many rows, past SQLAlchemy.

    One that reads no table of ours is prepared, and PostgreSQL may keep its plan. Any other is planned anew each time:
    a plan that was made while a queue table was empty would read all of it after it has grown.
    """

    def __init__(
        self, body: str, rows: Types, readers: Sequence[Convert | None], dialect: Dialect, otherwise: Bulk
    ) -> None:
        names = ", ".join(f'"{name}"' for name in rows)
        arrays = ", ".join(f"CAST(${n} AS {type.compile(dialect)}[])" for n, type in enumerate(rows.values(), start=1))
        self._text = f"WITH r({names}) AS (SELECT * FROM unnest({arrays})) {body}".encode()  # noqa: S608 (our own text)
        self._writers = [array_writer(type) for type in rows.values()]
        self._readers = readers
        self._prepare = None if body.startswith(("INSERT", ", inserted AS (INSERT")) else False
        self._otherwise = otherwise

    def send(self, connection: Connection, rows: Sequence[Row]) -> None:
        if driver_of(connection) is None:
            self._otherwise.send(connection, rows)
        elif rows:
            self._execute(connection, rows)

    def ask(self, connection: Connection, rows: Sequence[Row]) -> Answer:
        if not rows:
            return list
        if driver_of(connection) is None:
            return self._otherwise.ask(connection, rows)
        cursor = self._execute(connection, rows)
        return lambda: read(cursor.fetchall(), self._readers)

    def rows(self, connection: Connection, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        return self.ask(connection, rows)()

    def count(self, connection: Connection, rows: Sequence[Row]) -> int:
        if driver_of(connection) is None:
            return self._otherwise.count(connection, rows)
        return self._execute(connection, rows).rowcount if rows else 0

    def _execute(self, connection: Connection, rows: Sequence[Row]) -> _Cursor:
        columns = zip(*rows, strict=True)
        arrays = [Array(write(column)) for write, column in zip(self._writers, columns, strict=True)]
        return execute(connection, self._text, arrays, prepare=self._prepare)


class PsycopgPlain:
    """A statement without parameters, past SQLAlchemy."""

    def __init__(self, statement: str, otherwise: Plain) -> None:
        self._text, self._otherwise = statement.encode(), otherwise

    def ask(self, connection: Connection) -> Answer:
        if driver_of(connection) is None:
            return self._otherwise.ask(connection)
        return execute(connection, self._text, prepare=False).fetchall


def execute(
    connection: Connection, statement: bytes, parameters: Sequence[Any] = (), *, prepare: bool | None = None
) -> _Cursor:
    """Hand a statement to psycopg; its parameters are ``$1``, ``$2`` and so on."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s", statement.decode())
    driver = driver_of(connection)
    assert driver is not None
    cursor = psycopg.RawCursor(driver)
    try:
        cursor.execute(statement, parameters, prepare=prepare, binary=True)
    except psycopg.Error as error:
        _raise(connection, statement, error)
    return cursor


class PsycopgWay(Way):
    """Statements in a pipeline: they travel together, and so do their answers.

    The connection is in the driver's autocommit mode and BEGIN is a statement like others, because the driver's own one
    is a round trip by itself.
    """

    begins_late = True

    def begin(self, connection: Connection) -> None:
        # The driver has forgotten it in autocommit mode.
        level = connection.get_execution_options().get(ISOLATION) or connection.default_isolation_level
        begin = f"BEGIN ISOLATION LEVEL {level}"
        if driver_of(connection) is None:
            connection.exec_driver_sql(begin)
        else:
            execute(connection, begin.encode(), prepare=False)

    def together(self, connection: Connection) -> AbstractContextManager[None]:
        return pipeline(connection)

    def keep_plans(self, connection: Connection) -> None:
        if driver_of(connection) is not None:
            execute(connection, b"SET LOCAL plan_cache_mode = auto")

    def commit(self, connection: Connection, meanwhile: Callable[[], None]) -> None:
        if driver_of(connection) is not None:
            execute(connection, b"COMMIT", prepare=False)  # the end of the pipeline waits for its answer
            # Of much data the last part, and with it COMMIT, is still here: nobody is to wait for our locks meanwhile.
            driver = driver_of(connection)
            assert driver is not None
            driver.wait(_send_all(driver.pgconn))
            meanwhile()

    def end(self, connection: Connection) -> None:
        # An engine of a user's may have been told that what is in autocommit mode needs no ROLLBACK.
        driver = None if connection.invalidated else driver_of(connection)
        if driver is not None and not driver.closed and driver.info.transaction_status != TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                driver.rollback()


@contextmanager
def pipeline(connection: Connection) -> Generator[None]:
    """Statements inside the block are sent at once; it ends when all are answered."""
    driver = driver_of(connection)
    if driver is None:
        yield
        return
    try:
        with driver.pipeline():
            yield
    except psycopg.Error as error:
        _raise(connection, b"", error)


def driver_of(connection: Connection) -> psycopg.Connection[Any] | None:
    """Psycopg's connection, if it takes our statements: texts travel in UTF-8, which a user's engine may not speak."""
    info = connection.info
    if _KNOWN not in info:
        driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        driver.adapters.register_dumper(Array, _ArrayDumper)
        info[_KNOWN] = driver if driver.info.encoding == "utf-8" else None
    found: psycopg.Connection[Any] | None = info[_KNOWN]
    return found


def _raise(connection: Connection, statement: bytes, error: psycopg.Error) -> None:
    """As SQLAlchemy raises it, which also throws away connections that are lost."""
    connection._handle_dbapi_exception(error, statement.decode(), None, None, None)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
