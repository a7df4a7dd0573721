"""Statements that go to psycopg past SQLAlchemy, and several of them in one round trip.

What a batch costs beyond its messages is statements: their way through SQLAlchemy, a round trip each, their planning.
So the library's own bulk statements are handed to the driver as they are, and those that need not wait for each other
travel together. Errors go through SQLAlchemy all the same: it says which connections are lost.

Whoever wants to see them: the logger ``kafkasaga.sql`` has each at level DEBUG.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Any, Final, NoReturn, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Dialect

from kafkasaga.stores.arrays import array_of_one, array_writer
from kafkasaga.stores.bulk import Answer, Bulk, Convert, Plain, Row, Types, Way, isolation, read
from kafkasaga.stores.trips import Reply, Trips, Values

log = logging.getLogger("kafkasaga.sql")

_KNOWN: Final = "kafkasaga.trips"
"""Under this key a connection's ``info`` holds its ``Trips``, or None where statements cannot go past SQLAlchemy. The
options of one that is kept ready have them too, where fewer calls find them.
"""


class PsycopgBulk:
    """A statement over many rows, past SQLAlchemy.

    One that reads no table of ours is prepared, and so is any other where PostgreSQL may keep its plan (``plans``).
    """

    def __init__(
        self, body: str, rows: Types, readers: Sequence[Convert | None], dialect: Dialect, otherwise: Bulk
    ) -> None:
        names = ", ".join(f'"{name}"' for name in rows)
        arrays = ", ".join(f"CAST(${n} AS {type.compile(dialect)}[])" for n, type in enumerate(rows.values(), start=1))
        self._text = f"WITH r({names}) AS (SELECT * FROM unnest({arrays})) {body}".encode()  # noqa: S608 (our own text)
        self._writers = [array_writer(type) for type in rows.values()]
        self._of_one = [array_of_one(type) for type in rows.values()]
        self._readers = readers
        self._prepare = body.startswith(("INSERT", ", inserted AS (INSERT"))
        self._otherwise = otherwise

    def send(self, connection: Connection, rows: Sequence[Row]) -> None:
        trips = trips_of(connection)
        if trips is None:
            self._otherwise.send(connection, rows)
        elif rows:
            self._send(connection, trips, rows)

    def ask(self, connection: Connection, rows: Sequence[Row]) -> Answer:
        if not rows:
            return list
        trips = trips_of(connection)
        if trips is None:
            return self._otherwise.ask(connection, rows)
        reply = self._send(connection, trips, rows)
        return lambda: read(reply.rows(), self._readers)

    def rows(self, connection: Connection, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        return self.ask(connection, rows)()

    def count(self, connection: Connection, rows: Sequence[Row]) -> int:
        trips = trips_of(connection)
        if trips is None:
            return self._otherwise.count(connection, rows)
        return self._send(connection, trips, rows).count() if rows else 0

    def _send(self, connection: Connection, trips: Trips, rows: Sequence[Row]) -> Reply:
        if len(rows) == 1:
            arrays = [one + element(value) for (one, element), value in zip(self._of_one, rows[0], strict=True)]
        else:
            columns = zip(*rows, strict=True)
            arrays = [write(column) for write, column in zip(self._writers, columns, strict=True)]
        return send(connection, trips, self._text, arrays, prepare=self._prepare or trips.keeps_plans)


class PsycopgPlain:
    """A statement without parameters, past SQLAlchemy."""

    def __init__(self, statement: str, otherwise: Plain, *, prepare: bool) -> None:
        self._text, self._otherwise, self._prepare = statement.encode(), otherwise, prepare

    def ask(self, connection: Connection) -> Answer:
        trips = trips_of(connection)
        if trips is None:
            return self._otherwise.ask(connection)
        return send(connection, trips, self._text, prepare=self._prepare or trips.keeps_plans).rows


class PsycopgWay(Way):
    """Statements travel together, and so do their answers.

    The connection is in the driver's autocommit mode and BEGIN is a statement like others, because the driver's own one
    is a round trip by itself.
    """

    begins_late = True

    def ready(self, connection: Connection) -> Connection:
        return connection.execution_options(**{_KNOWN: trips_of(connection)})

    def begin(self, connection: Connection) -> None:
        begin, trips = f"BEGIN ISOLATION LEVEL {isolation(connection)}", trips_of(connection)
        if trips is None:
            connection.exec_driver_sql(begin)
        else:
            send(connection, trips, begin.encode())

    def begin_again(self, connection: Connection) -> None:
        with together(connection):
            if (trips := trips_of(connection)) is None:
                connection.exec_driver_sql("ROLLBACK")
            else:
                send(connection, trips, b"ROLLBACK")
            self.begin(connection)

    def together(self, connection: Connection) -> AbstractContextManager[None]:
        return together(connection)

    def answered(self, connection: Connection) -> int | None:
        trips = trips_of(connection)
        return None if trips is None else trips.answered

    def keeps_plans(self, connection: Connection, *, keeps: bool) -> None:
        if (trips := trips_of(connection)) is not None:
            trips.keeps_plans = keeps

    def commit(self, connection: Connection, meanwhile: Callable[[], None]) -> None:
        if (trips := trips_of(connection)) is not None:
            send(connection, trips, b"COMMIT")  # inside `together`: alone, nobody would call `meanwhile`
            try:
                trips.exchange(meanwhile)
            except psycopg.Error as error:
                raised(connection, b"COMMIT", error)

    def end(self, connection: Connection) -> None:
        trips = None if connection.invalidated else trips_of(connection)
        if trips is None:
            return
        trips.keeps_plans = False
        if trips.interrupted:
            connection.invalidate()
            return
        # An engine of a user's may have been told that what is in autocommit mode needs no ROLLBACK.
        driver = driver_of(connection)
        if not driver.closed and driver.info.transaction_status != TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                driver.rollback()


def send(
    connection: Connection, trips: Trips, statement: bytes, values: Values = (), *, prepare: bool = False
) -> Reply:
    """Hand a statement to PostgreSQL: by itself, or together with others."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s", statement.decode())
    try:
        return trips.send(statement, values, prepare=prepare)
    except psycopg.Error as error:
        raised(connection, statement, error)


def together(connection: Connection) -> AbstractContextManager[None]:
    """Statements inside the block go in one trip; it ends when all are answered."""
    trips = trips_of(connection)
    return nullcontext() if trips is None else _Together(connection, trips)


class _Together:
    def __init__(self, connection: Connection, trips: Trips) -> None:
        self._connection, self._trips = connection, trips

    def __enter__(self) -> None:
        self._trips.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._trips.__exit__(kind, error, trace)
        except psycopg.Error as refused:
            raised(self._connection, b"", refused)
        if isinstance(error, psycopg.Error):
            raised(self._connection, b"", error)


def trips_of(connection: Connection) -> Trips | None:
    """The way to a connection's server, if it takes our statements: texts travel in UTF-8, which a user's engine may
    not speak.
    """
    known: Trips | None = connection.get_execution_options().get(_KNOWN)
    if known is not None:
        return known
    info = connection.info
    if _KNOWN not in info:
        driver = driver_of(connection)
        info[_KNOWN] = Trips(driver) if driver.info.encoding == "utf-8" else None
    found: Trips | None = info[_KNOWN]
    return found


def driver_of(connection: Connection) -> psycopg.Connection[Any]:
    """Psycopg's connection."""
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def raised(connection: Connection, statement: bytes, error: psycopg.Error) -> NoReturn:
    """Raise it as SQLAlchemy does, which also throws away connections that are lost."""
    connection._handle_dbapi_exception(error, statement.decode(), None, None, None)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
