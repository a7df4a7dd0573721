"""Many rows in one statement, on either database: the one place where they differ.

Every bulk statement reads its rows as a table ``r``::

    INSERT INTO {inbox} (consumer, source, message_id) SELECT consumer, source, message_id FROM r WHERE true
    ON CONFLICT DO NOTHING RETURNING consumer, source, message_id

``r`` is put before it as a ``WITH``. On PostgreSQL it is ``unnest`` of one array for each column: the text is the
same for any number of rows, so that it is prepared once. On SQLite it is ``VALUES``, in slices, since SQLite has no
arrays and limits the parameters of a statement.

Through psycopg they go past SQLAlchemy, as binary arrays (``driver``). With any other driver arrays travel as literals
(``{a,b}``) in one text parameter each, which every driver takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Protocol
from uuid import UUID

from sqlalchemy import Connection, CursorResult, Dialect, Table, text
from sqlalchemy.types import TypeEngine

from kafkasaga.errors import ConfigurationError
from kafkasaga.stores.dialects import begin_writing
from kafkasaga.stores.schema import Tables

Row = Sequence[Any]
Types = Mapping[str, TypeEngine[Any]]

ISOLATION: Final = "kafkasaga_isolation"
"""The execution option that says how BEGIN isolates, where the driver does not send it; None: as the engine does."""
SQLITE_PARAMETERS: Final = 32_000
"""A little below SQLite's limit of parameters in one statement (32,766 since 3.32)."""


def isolation(connection: Connection) -> str:
    """How its transactions are isolated. The driver has forgotten it in autocommit mode."""
    return str(connection.get_execution_options().get(ISOLATION) or connection.default_isolation_level)


Answer = Callable[[], list[tuple[Any, ...]]]
"""What a statement returns, once it is there."""


class Bulk(Protocol):
    """A statement over many rows. No rows: no statement."""

    def send(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Execute it. In a pipeline its failure is told by a later statement, or at the end."""
        ...

    def ask(self, connection: Connection, rows: Sequence[Row]) -> Answer:
        """Execute it; what it returns, to be asked for after the end of the pipeline, if there is one."""
        ...

    def rows(self, connection: Connection, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        """Execute it; what it returns."""
        ...

    def count(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Execute it; how many rows it touched."""
        ...


class Plain(Protocol):
    """A statement without parameters."""

    def ask(self, connection: Connection) -> Answer:
        """Execute it; what it returns, to be asked for after the end of the pipeline, if there is one."""
        ...


class Way:
    """How the statements of a transaction travel: here one by one, and SQLAlchemy begins it."""

    begins_late: bool = False
    """Whether BEGIN waits for the first statement, to travel with it."""

    def ready(self, connection: Connection) -> Connection:
        """Have a connection ready that is used for many transactions."""
        return connection

    def begin(self, connection: Connection) -> None:
        """Begin it now, as a writer."""
        begin_writing(connection)

    def begin_again(self, connection: Connection) -> None:
        """Undo what was done, and begin once more; asked of a way that begins late."""

    def together(self, connection: Connection) -> AbstractContextManager[None]:  # noqa: ARG002 (others need it)
        """Statements inside the block go in one round trip, where the driver can. Their errors come at its end."""
        return nullcontext()

    def answered(self, connection: Connection) -> int | None:  # noqa: ARG002 (others need it)
        """How many statements of the last round trip were answered, before one was refused; None if nobody knows."""
        return None

    def keeps_plans(self, connection: Connection, *, keeps: bool) -> None:
        """Whether the plans of what follows may be kept (``plans``)."""

    def commit(self, connection: Connection, meanwhile: Callable[[], None]) -> None:
        """COMMIT, where it can travel with other statements; then ``meanwhile`` is done before it is waited for."""

    def end(self, connection: Connection) -> None:
        """Leave no transaction open, whatever became of it."""


class Sql:
    """Builds bulk statements for one set of tables on one kind of database.

    Raises:
        ConfigurationError: for a database that is neither PostgreSQL nor SQLite.
    """

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        if dialect.name not in ("postgresql", "sqlite"):
            raise ConfigurationError(f"kafkasaga keeps its tables in PostgreSQL or SQLite, not in {dialect.name!r}")
        self.tables: Final = tables
        self.dialect: Final = dialect
        self.postgresql: Final = dialect.name == "postgresql"
        quote = dialect.identifier_preparer.format_table
        self._names = {table.name.removeprefix(tables.prefix): quote(table) for table in tables.all}
        self._names["for_update"] = "FOR UPDATE OF t" if self.postgresql else ""
        # By an index, whatever the planner knows of the table: of a join it may make a scan of all.
        self._names["of_r"] = (
            "= ANY (ARRAY(SELECT r.saga_id FROM r))" if self.postgresql else "IN (SELECT r.saga_id FROM r)"
        )
        self._names["skip_locked"] = "FOR UPDATE OF t SKIP LOCKED" if self.postgresql else ""

    def name(self, table: str) -> str:
        """A table's name as it is written in a statement."""
        return self._names[table]

    def named(self, statement: str) -> str:
        """The text with the tables' names put in."""
        return statement.format_map(self._names)

    def bulk(self, statement: str, rows: Types, returns: Types | None = None) -> Bulk:
        """A statement that reads ``r`` with columns ``rows``, and returns columns of the types ``returns``.

        In the text ``{inbox}`` is a table's name, ``saga_id {of_r}`` says that a saga is one of ``r``;
        ``{for_update}`` locks the rows of the table called ``t``; so does ``{skip_locked}``, which leaves out those
        that somebody else holds.
        """
        readers = [_reader(type, self.dialect) for type in (returns or {}).values()]
        body = self.named(statement)
        if not self.postgresql:
            return _SqliteBulk(body, rows, readers, self.dialect)
        by_any_driver = _PostgresqlBulk(body, rows, readers, self.dialect)
        if not self.past_sqlalchemy:
            return by_any_driver
        from kafkasaga.stores.driver import PsycopgBulk

        return PsycopgBulk(body, rows, readers, self.dialect, by_any_driver)

    def plain(self, statement: str, *, otherwise: str | None, prepare: bool = False) -> Plain:
        """A statement without parameters; ``otherwise``, or none, where it does not go to psycopg itself."""
        by_any_driver = _NoStatement() if otherwise is None else _AnyPlain(self.named(otherwise))
        if not self.past_sqlalchemy:
            return by_any_driver
        from kafkasaga.stores.driver import PsycopgPlain

        return PsycopgPlain(self.named(statement), by_any_driver, prepare=prepare)

    @property
    def past_sqlalchemy(self) -> bool:
        """Whether statements go to psycopg itself."""
        return self.dialect.driver == "psycopg" and not self.dialect.is_async


def types(table: Table, *names: str, **more: TypeEngine[Any]) -> dict[str, TypeEngine[Any]]:
    """The types of a table's columns by name, and ``more`` that are not columns."""
    return {**{name: table.c[name].type for name in names}, **more}


def insert(table: str, columns: Iterable[str]) -> str:
    """The text that inserts all of ``r``."""
    names = ", ".join(columns)
    # Without `WHERE`, SQLite would take a following ON CONFLICT for the condition of a join.
    return f"INSERT INTO {{{table}}} ({names}) SELECT {names} FROM r WHERE true"  # noqa: S608 (our own text)


class _PostgresqlBulk:
    def __init__(self, body: str, rows: Types, readers: Sequence[Convert | None], dialect: Dialect) -> None:
        names = ", ".join(f'"{name}"' for name in rows)
        # The inner cast makes it a text parameter for every driver; the outer one is the array's own input function.
        arrays = ", ".join(
            f"CAST(CAST(:r{n} AS text) AS {type.compile(dialect)}[])" for n, type in enumerate(rows.values())
        )
        self._text = text(f"WITH r({names}) AS (SELECT * FROM unnest({arrays})) {body}")  # noqa: S608 (our own text)
        self._writers = [_literal_writer(type, dialect) for type in rows.values()]
        self._readers = readers

    def send(self, connection: Connection, rows: Sequence[Row]) -> None:
        self.count(connection, rows)

    def ask(self, connection: Connection, rows: Sequence[Row]) -> Answer:
        found = self.rows(connection, rows)
        return lambda: found

    def rows(self, connection: Connection, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        return read(self._execute(connection, rows).fetchall(), self._readers) if rows else []

    def count(self, connection: Connection, rows: Sequence[Row]) -> int:
        return self._execute(connection, rows).rowcount if rows else 0

    def _execute(self, connection: Connection, rows: Sequence[Row]) -> CursorResult[Any]:
        columns = zip(*rows, strict=True)
        arrays = {f"r{n}": write(column) for n, (write, column) in enumerate(zip(self._writers, columns, strict=True))}
        return connection.execute(self._text, arrays)


class _SqliteBulk:
    def __init__(self, body: str, rows: Types, readers: Sequence[Convert | None], dialect: Dialect) -> None:
        self._names = ", ".join(f'"{name}"' for name in rows)
        self._body = body
        self._binders = [type.dialect_impl(dialect).bind_processor(dialect) for type in rows.values()]
        self._readers = readers

    def send(self, connection: Connection, rows: Sequence[Row]) -> None:
        for _ in self._execute(connection, rows, self._body):
            pass

    def ask(self, connection: Connection, rows: Sequence[Row]) -> Answer:
        found = self.rows(connection, rows)
        return lambda: found

    def rows(self, connection: Connection, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        parts = self._execute(connection, rows, self._body)
        return [row for result in parts for row in read(result.fetchall(), self._readers)]

    def count(self, connection: Connection, rows: Sequence[Row]) -> int:
        # Python's sqlite3 has a `rowcount` only for what begins with INSERT, UPDATE or DELETE; this begins with WITH.
        return sum(len(result.all()) for result in self._execute(connection, rows, f"{self._body} RETURNING 1"))

    def _execute(self, connection: Connection, rows: Sequence[Row], body: str) -> Iterator[CursorResult[Any]]:
        size = SQLITE_PARAMETERS // len(self._binders)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            values = [
                value if bind is None else bind(value)
                for row in part
                for bind, value in zip(self._binders, row, strict=True)
            ]
            marks = _sqlite_values(len(part), len(self._binders))
            yield connection.exec_driver_sql(f"WITH r({self._names}) AS (VALUES {marks}) {body}", tuple(values))


class _NoStatement:
    """Stands for a statement where there is nothing to be said."""

    def ask(self, connection: Connection) -> Answer:  # noqa: ARG002 (others need it)
        return list


class _AnyPlain:
    def __init__(self, statement: str) -> None:
        self._text = text(statement)

    def ask(self, connection: Connection) -> Answer:
        found = [tuple(row) for row in connection.execute(self._text)]
        return lambda: found


@lru_cache(maxsize=1024)
def _sqlite_values(rows: int, columns: int) -> str:
    return ",".join([f"({','.join('?' * columns)})"] * rows)


# ---- values -------------------------------------------------------------------------------------------------------

Convert = Callable[[Any], Any]


def _reader(type: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    return type.dialect_impl(dialect).result_processor(dialect, None)


def read(found: Sequence[Sequence[Any]], readers: Sequence[Convert | None]) -> list[tuple[Any, ...]]:
    """Rows of a database's values as rows of ours."""
    if not any(readers):
        return [tuple(row) for row in found]
    return [
        tuple(value if read is None else read(value) for read, value in zip(readers, row, strict=True)) for row in found
    ]


def _literal_writer(type: TypeEngine[Any], dialect: Dialect) -> Callable[[Sequence[Any]], str]:
    """A function that writes values of one column as a PostgreSQL array literal."""
    bind = type.bind_processor(dialect) if type.python_type is datetime else None
    element = _ELEMENTS[type.python_type]

    def write(values: Sequence[Any]) -> str:
        bound = values if bind is None else [bind(value) for value in values]
        return f"{{{','.join(['NULL' if value is None else element(value) for value in bound])}}}"

    return write


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _hexadecimal(value: bytes) -> str:
    return f'"\\\\x{value.hex()}"'


def _time(value: datetime) -> str:
    return f'"{value.isoformat()}"'


_ELEMENTS: dict[type, Convert] = {
    UUID: attrgetter("hex"),
    int: str,
    str: _quoted,
    bytes: _hexadecimal,
    datetime: _time,
}
