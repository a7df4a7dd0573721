"""Round trips to PostgreSQL: several statements go out together, and their answers come back together.

psycopg's own pipeline hands each statement to the network by itself, and waits until it may. For the small statements
of a batch that is most of their time, on both sides of the connection. So they are given to libpq, on which psycopg is
built: it keeps them until all are there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final, cast

import psycopg
from psycopg import generators
from psycopg.adapt import Transformer
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ExecStatus, Format, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from kafkasaga.ports import nothing

Values = Sequence[bytes]
Names = MutableMapping[tuple[bytes, tuple[Any, ...]], bytes]
_OURS: Final = ("kafkasaga",)
"""Stands where psycopg has the types of a statement's parameters."""
_send: Final[Callable[[Any], Generator[Any, Any, None]]] = cast("Any", generators).send
_fetch_many: Final[Callable[[Any], Generator[Any, Any, list[PGresult]]]] = cast("Any", generators).fetch_many
"""Psycopg's own ways to empty the buffer of a connection, and to read what answers one statement."""
_REFUSED: Final = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)
_numbers: Final = count()
"""For the names of prepared statements: one that somebody dropped is prepared again under another name."""


class Reply:
    """What PostgreSQL answers to a statement. To ask for it is to send all that waits to be sent."""

    __slots__ = ("_result", "_trips")

    def __init__(self, trips: Trips) -> None:
        self._trips = trips
        self._result: PGresult | None = None

    def arrived(self, result: PGresult) -> None:
        self._result = result

    def rows(self) -> list[tuple[Any, ...]]:
        """What it returns; psycopg makes Python's values of it."""
        result, loader = self._there(), self._trips.loader
        loader.set_pgresult(result)
        return loader.load_rows(0, result.ntuples, tuple)

    def count(self) -> int:
        """How many rows it touched."""
        return self._there().command_tuples or 0

    def _there(self) -> PGresult:
        if self._result is None:
            self._trips.exchange()
        assert self._result is not None
        return self._result


class Trips:
    """The statements of one connection of psycopg's. Between two trips the connection is as psycopg knows it."""

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        self._driver: Final = driver
        self.loader: Final = Transformer(driver)
        self._names: Final = _names_known(driver)
        """Of statements that are prepared; None: none is to be."""
        self._preparing: list[bytes] = []
        """Those of them that nobody has heard of yet."""
        self._asked: list[Reply | None] = []
        """Who waits for the next answers, in their order; nobody, for BEGIN and for what prepares a statement."""
        self._together = False

    @property
    def interrupted(self) -> bool:
        """Whether a trip has not come to its end: nobody knows what of it was done."""
        return self._driver.pgconn.pipeline_status != PipelineStatus.OFF

    @contextmanager
    def together(self) -> Generator[None]:
        """What is sent inside the block goes in one trip, unless an answer is asked for before.

        Raises:
            psycopg.Error: of the first statement that failed; PostgreSQL has executed nothing behind it.
        """
        if self._together:
            yield
            return
        self._together = True
        try:
            yield
        except BaseException:
            with suppress(psycopg.Error):
                self.exchange()
            raise
        else:
            self.exchange()
        finally:
            self._together = False

    def send(self, statement: bytes, values: Values = (), *, prepare: bool = False) -> Reply:
        """Send a statement, with binary values for its ``$1``, ``$2`` and so on: at once, or with others.

        Nothing is prepared where psycopg prepares nothing either (``prepare_threshold=None``, for a pooler).

        Raises:
            psycopg.Error: of a statement that failed; ``ProgrammingError`` inside a pipeline of psycopg's.
        """
        if not self._asked:
            self._set_out()
        server, formats = self._driver.pgconn, [Format.BINARY] * len(values)
        if prepare and self._names is not None and self._driver.prepare_threshold is not None:
            name = self._names.get((statement, _OURS)) or self._prepare(statement, self._names)
            server.send_query_prepared(name, values, formats, Format.BINARY)
        else:
            server.send_query_params(statement, values, None, formats, Format.BINARY)
        reply = Reply(self)
        self._asked.append(reply)
        if not self._together:
            self.exchange()
        return reply

    def exchange(self, meanwhile: Callable[[], None] = nothing) -> None:
        """Send what is there, do something else, and wait for all answers.

        Raises:
            psycopg.Error: of the first statement that failed; PostgreSQL has executed nothing behind it.
        """
        if not self._asked:
            return
        (asked, self._asked), driver, server = (self._asked, []), self._driver, self._driver.pgconn
        server.pipeline_sync()
        if meanwhile is not nothing:
            # Of much data the last part may still be here: nobody is to wait for our locks meanwhile.
            driver.wait(_send(server))
            meanwhile()
        answers = driver.wait(_answers(server, len(asked)))
        server.exit_pipeline_mode()
        for reply, answer in zip(asked, answers, strict=True):
            if answer.status in _REFUSED:
                self._refused(answer)
            if reply is not None:
                reply.arrived(answer)
        self._preparing.clear()

    def _set_out(self) -> None:
        driver, server = self._driver, self._driver.pgconn
        if self.interrupted:
            raise psycopg.ProgrammingError(
                "a pipeline is under way on this connection: let `with connection.pipeline():` end before kafkasaga "
                "writes in its transaction"
            )
        server.enter_pipeline_mode()
        if not driver.autocommit and server.transaction_status == TransactionStatus.IDLE:
            server.send_query_params(_begin(driver), ())
            self._asked.append(None)

    def _prepare(self, statement: bytes, names: Names) -> bytes:
        name = names[statement, _OURS] = b"kafkasaga_%d" % next(_numbers)
        self._preparing.append(statement)
        self._driver.pgconn.send_prepare(name, statement)
        self._asked.append(None)
        return name

    def _refused(self, answer: PGresult) -> None:
        error = error_from_result(answer, self._driver.info.encoding)
        if self._names is not None:
            if isinstance(error, InvalidSqlStatementName):  # after somebody's DISCARD ALL the server knows none of them
                self._names.clear()
            for statement in self._preparing:
                self._names.pop((statement, _OURS), None)
        self._preparing.clear()
        raise error


def _names_known(driver: psycopg.Connection[Any]) -> Names | None:
    """Psycopg's own, for ours are to go with them: after each ROLLBACK it drops whatever is prepared (DEALLOCATE ALL).

    They are not in its manual; where it has none, nothing is prepared.
    """
    names: Names | None = getattr(getattr(driver, "_prepared", None), "_names", None)
    return names


def _begin(driver: psycopg.Connection[Any]) -> bytes:
    """What psycopg sends before the first statement of a transaction."""
    begin = "BEGIN"
    if driver.isolation_level is not None:
        begin += f" ISOLATION LEVEL {driver.isolation_level.name.replace('_', ' ')}"
    if driver.read_only is not None:
        begin += " READ ONLY" if driver.read_only else " READ WRITE"
    if driver.deferrable is not None:
        begin += " DEFERRABLE" if driver.deferrable else " NOT DEFERRABLE"
    return begin.encode()


def _answers(server: Any, count: int) -> Generator[Any, Any, list[PGresult]]:
    """The answers to as many statements, the first refusal among them; then the server is in step again."""
    yield from _send(server)
    answers: list[PGresult] = []
    for _ in range(count):
        answers += yield from _fetch_many(server)
    yield from _fetch_many(server)  # the end of the trip
    return answers
