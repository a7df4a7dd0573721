"""Statements straight to libpq, on a connection that one thread has to itself.

A small statement costs the client more in psycopg's cursors and contexts than in everything below them, most of all
in a process that sleeps in between. Who executes two statements for each message goes without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, NamedTuple, NoReturn, cast

import psycopg
from psycopg import generators
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus
from sqlalchemy import Connection

from kafkasaga.stores.driver import driver_of, log, raised, trips_of

_BINARY: Final = 1
_DONE: Final = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)

_send_all: Final[Callable[[Any], Any]] = cast("Any", generators).send
_fetch_many: Final[Callable[[Any], Generator[Any, Any, list[Any]]]] = cast("Any", generators).fetch_many
"""Psycopg's own ways to empty the buffer of a connection, and to read what answers one statement."""


class Array(bytes):
    """A binary array, of the type that its place in the statement says."""

    __slots__ = ()


Rows = list[tuple[Any, ...]]
Value = Array | str | int


class Query(NamedTuple):
    """A statement, whose parameters are ``$1``, ``$2`` and so on, and their values."""

    text: bytes
    values: Sequence[Value]
    name: bytes = b""
    """It is prepared under this name, and PostgreSQL may keep its plan. Without a name it is planned anew each time."""


class Direct:
    """A connection in the driver's autocommit mode. After an error it is of no use any more."""

    def __init__(self, connection: Connection, driver: psycopg.Connection[Any]) -> None:
        self._connection, self._driver, self._server = connection, driver, driver.pgconn
        self._loader = Transformer(driver)
        self._prepared: set[bytes] = set()
        self._prepares = driver.prepare_threshold is not None  # else there is a pooler that knows no names

    @classmethod
    def of(cls, connection: Connection) -> Direct | None:
        """None where statements have to go through SQLAlchemy."""
        return None if trips_of(connection) is None else cls(connection, driver_of(connection))

    def ask(self, query: Query) -> Rows:
        """Execute a statement; what it returns."""
        try:
            encoded, formats = _encoded(query.values)
            if name := self._prepare(query):
                result = self._server.exec_prepared(name, encoded, formats, _BINARY)
            else:
                result = self._server.exec_params(query.text, encoded, None, formats, _BINARY)
            return self._rows(result)
        except (psycopg.Error, MemoryError) as error:
            self._raise(query, error)

    def ask_together(self, queries: Sequence[Query], meanwhile: Callable[[], None]) -> list[Rows]:
        """Execute statements in one round trip and one transaction, and do something else meanwhile."""
        try:
            named = [(query, self._prepare(query)) for query in queries]
            self._server.enter_pipeline_mode()
            for query, name in named:
                self._send(query, name)
            self._server.pipeline_sync()
            if self._server.flush():
                self._driver.wait(_send_all(self._server))
        except (psycopg.Error, MemoryError) as error:
            self._raise(queries[0], error)
        meanwhile()
        try:
            answers = self._driver.wait(_answers(self._server, len(queries)))
            found = [self._rows(answer) for answer in answers]
            self._server.exit_pipeline_mode()
        except (psycopg.Error, MemoryError) as error:
            self._raise(queries[0], error)
        return found

    def _prepare(self, query: Query) -> bytes:
        """Under which name it is prepared, if it is."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s", query.text.decode())
        if not query.name or not self._prepares:
            return b""
        if query.name not in self._prepared:
            self._rows(self._server.prepare(query.name, query.text))
            self._prepared.add(query.name)
        return query.name

    def _send(self, query: Query, name: bytes) -> None:
        text, values, _ = query
        encoded, formats = _encoded(values)
        if name:
            self._server.send_query_prepared(name, encoded, formats, _BINARY)
        else:
            self._server.send_query_params(text, encoded, None, formats, _BINARY)

    def _rows(self, result: Any) -> Rows:
        if result is None or result.status not in _DONE:
            raise self._lost() if result is None else psycopg.errors.error_from_result(result)
        if not result.ntuples:
            return []
        self._loader.set_pgresult(result)
        return self._loader.load_rows(0, result.ntuples, tuple)

    def _lost(self) -> psycopg.Error:
        return psycopg.OperationalError(f"the connection is lost: {self._server.get_error_message()}")

    def _raise(self, query: Query, error: psycopg.Error | MemoryError) -> NoReturn:
        if isinstance(error, MemoryError):  # so psycopg calls any result that libpq does not give
            if self._server.status == ConnStatus.OK:
                raise error
            error = self._lost()
        raised(self._connection, query.text, error)


def _answers(server: Any, count: int) -> Generator[Any, Any, list[Any]]:
    """The answers to as many statements; then the server is in step again.

    A plain ``get_result`` would wait with the GIL held.
    """
    answers: list[Any] = []
    for _ in range(count):
        answers += yield from _fetch_many(server)
    yield from _fetch_many(server)  # the end of the pipeline
    return answers


def _encoded(values: Sequence[Value]) -> tuple[list[bytes], list[int]]:
    return (
        [value if isinstance(value, bytes) else str(value).encode() for value in values],
        [int(isinstance(value, bytes)) for value in values],
    )
