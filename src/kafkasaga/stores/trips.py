"""Round trips to PostgreSQL: several statements go out together, and their answers come back together.

psycopg's own pipeline hands each statement to the network by itself, and waits until it may. For the small statements
of a batch that is most of their time, on both sides of the connection. So they are given to libpq, on which psycopg is
built: it keeps them until all are there. A statement that travels alone goes to libpq too, without psycopg's cursors
and contexts, which cost the client more than everything below them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, MutableMapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import count
from typing import Any, Final, NoReturn, cast

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
fetch_many: Final[Callable[[Any], Generator[Any, Any, list[PGresult]]]] = cast("Any", generators).fetch_many
"""Psycopg's own ways to empty the buffer of a connection, and to read what answers one statement. They are given to
``Connection.wait``, which lets other threads run meanwhile, and Ctrl-C end it; libpq itself would do neither.
"""
# Looked up once: in Python 3.11 each look at a member of an enumeration is a call.
_BINARY: Final = Format.BINARY
_ACTIVE: Final = TransactionStatus.ACTIVE
_IDLE: Final = TransactionStatus.IDLE
_NO_PIPELINE: Final = PipelineStatus.OFF
_REFUSED: Final = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)
_numbers: Final = count()
"""For the names of prepared statements: one that somebody dropped is prepared again under another name."""


class Reply:
    """What PostgreSQL answers to a statement. To ask for it is to send all that waits to be sent."""

    __slots__ = ("_trips", "result")

    def __init__(self, trips: Trips) -> None:
        self._trips = trips
        self.result: PGresult | None = None
        """None until it is there."""

    def rows(self) -> list[tuple[Any, ...]]:
        """What it returns; psycopg makes Python's values of it."""
        result, loader = self._there(), self._trips.loader
        if not result.ntuples:
            return []
        loader.set_pgresult(result)
        return loader.load_rows(0, result.ntuples, tuple)

    def count(self) -> int:
        """How many rows it touched."""
        return self._there().command_tuples or 0

    def _there(self) -> PGresult:
        if self.result is None:
            self._trips.exchange()
        assert self.result is not None
        return self.result


class Trips:
    """The statements of one connection of psycopg's. Between two trips the connection is as psycopg knows it."""

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        self._driver: Final = driver
        self._server: Final = driver.pgconn
        self.loader: Final = Transformer(driver)
        known = _names_known(driver)
        self._names: Final[Names] = {} if known is None else known
        """Of statements that are prepared."""
        self._prepares: Final = known is not None
        self._preparing: list[bytes] = []
        """Those of them that nobody has heard of yet."""
        self._asked: list[Reply | None] = []
        """Who waits for the next answers, in their order; nobody, for BEGIN and for what prepares a statement."""
        self.answered = 0
        """How many statements of the last trip of several were answered, before one was refused."""
        self.keeps_plans = False
        """Whether statements that read tables may be prepared, too."""
        self._blocks = 0
        """Of ``together``: how many are open, one inside the other."""

    @property
    def interrupted(self) -> bool:
        """Whether a trip has not come to its end: nobody knows what of it was done."""
        # A statement that travels alone has no pipeline, and what waits for the end of its block is not sent yet.
        server = self._server
        return server.pipeline_status != _NO_PIPELINE or server.transaction_status == _ACTIVE or bool(self._blocks)

    def together(self) -> AbstractContextManager[object]:
        """What is sent inside the block goes in one trip, unless an answer is asked for before.

        Raises:
            psycopg.Error: of the first statement that failed; PostgreSQL has executed nothing behind it.
        """
        return self

    def __enter__(self) -> None:
        self._blocks += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._blocks -= 1
        if self._blocks:
            return
        if kind is None:
            self.exchange()
        else:
            with suppress(psycopg.Error):
                self.exchange()

    def send(self, statement: bytes, values: Values = (), *, prepare: bool = False) -> Reply:
        """Send a statement, with binary values for its ``$1``, ``$2`` and so on: at once, or with others.

        Nothing is prepared where psycopg prepares nothing either (``prepare_threshold=None``, for a pooler).

        Raises:
            psycopg.Error: of a statement that failed; ``ProgrammingError`` inside a pipeline of psycopg's.
        """
        if not self._asked and self._server.pipeline_status != _NO_PIPELINE:
            raise psycopg.ProgrammingError(
                "a pipeline is under way on this connection: let `with connection.pipeline():` end before kafkasaga "
                "writes in its transaction"
            )
        name = self._names.get((statement, _OURS)) if prepare else None
        is_new = prepare and name is None and self._prepares and self._driver.prepare_threshold is not None
        with_others = self._blocks or is_new or self._has_to_begin()
        if with_others and not self._asked:
            self._set_out()
        if is_new:
            name = self._prepare(statement)
        formats = [_BINARY] * len(values)
        if name is None:
            self._server.send_query_params(statement, values, None, formats, _BINARY)
        else:
            self._server.send_query_prepared(name, values, formats, _BINARY)
        reply = Reply(self)
        if with_others:
            self._asked.append(reply)
            if not self._blocks:
                self.exchange()
        else:
            reply.result = self._answer()
        return reply

    def exchange(self, meanwhile: Callable[[], None] = nothing) -> None:
        """Send what is there, do something else, and wait for all answers.

        Raises:
            psycopg.Error: of the first statement that failed; PostgreSQL has executed nothing behind it.
        """
        if not self._asked:
            return
        asked, self._asked = self._asked, []
        self._server.pipeline_sync()
        self._flush()
        meanwhile()
        answers = self._driver.wait(_answers(self._server, len(asked)))
        self._server.exit_pipeline_mode()
        self.answered = 0
        for reply, answer in zip(asked, answers, strict=True):
            if answer.status in _REFUSED:
                self._refused(answer)
            if reply is not None:
                reply.result = answer
                self.answered += 1
        self._preparing.clear()

    def _answer(self) -> PGresult:
        """Of a statement that travels alone."""
        self._flush()
        (answer,) = self._driver.wait(fetch_many(self._server))
        if answer.status in _REFUSED:
            self._refused(answer)
        return answer

    def _set_out(self) -> None:
        begins = self._has_to_begin()
        self._server.enter_pipeline_mode()
        if begins:
            self._server.send_query_params(_begin(self._driver), ())
            self._asked.append(None)

    def _has_to_begin(self) -> bool:
        return not self._driver.autocommit and self._server.transaction_status == _IDLE

    def _prepare(self, statement: bytes) -> bytes:
        name = self._names[statement, _OURS] = b"kafkasaga_%d" % next(_numbers)
        self._preparing.append(statement)
        self._server.send_prepare(name, statement)
        self._asked.append(None)
        return name

    def _flush(self) -> None:
        """Of much data the last part may still be here: nobody is to wait for our locks meanwhile."""
        if self._server.flush():
            self._driver.wait(_send(self._server))

    def _refused(self, answer: PGresult) -> NoReturn:
        error = error_from_result(answer, self._driver.info.encoding)
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
    answers: list[PGresult] = []
    for _ in range(count):
        answers += yield from fetch_many(server)
    yield from fetch_many(server)  # the end of the trip
    return answers
