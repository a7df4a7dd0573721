"""What a database error means to us: the one table that says so.

Two kinds are ours. The database rolled a transaction back because of somebody else: run it again. Or it is not there:
wait. Anything else (a constraint of the user's, a syntax error) passes through as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from kafkasaga.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    Deadlock,
    KafkasagaError,
    SerializationConflict,
)

SQLSTATES: Final[dict[str, type[KafkasagaError]]] = {
    "40001": SerializationConflict,  # serialization_failure
    "40P01": Deadlock,  # deadlock_detected
    "55P03": SerializationConflict,  # lock_not_available: lock_timeout ran out
    "26000": SerializationConflict,  # invalid_sql_statement_name: after DISCARD ALL; it is prepared again
    "08": DatabaseUnavailable,  # connection exceptions
    "53": DatabaseUnavailable,  # out of disk, memory or connections
    "57P": DatabaseUnavailable,  # shut down, crashed, starting up, idle_session_timeout
    "25006": DatabaseUnavailable,  # read-only: we are still connected to what is a standby by now
    "25P03": DatabaseUnavailable,  # idle_in_transaction_session_timeout
}
"""SQLSTATEs, or what they begin with."""

UNIQUE_VIOLATION: Final = "23505"
WAITED_TOO_LONG: Final = ("55P03", "57014")
"""What ends a statement that waits: lock_timeout, and statement_timeout (or a person)."""

SQLITE_CODES: Final[dict[int, type[KafkasagaError]]] = {
    sqlite3.SQLITE_BUSY: SerializationConflict,
    sqlite3.SQLITE_LOCKED: SerializationConflict,
    sqlite3.SQLITE_IOERR: DatabaseUnavailable,
    sqlite3.SQLITE_FULL: DatabaseUnavailable,
    sqlite3.SQLITE_CANTOPEN: DatabaseUnavailable,
}
"""SQLite's primary result codes."""

REFUSALS: Final[Mapping[str, str]] = {
    "password authentication failed": "check the name and the password in KAFKASAGA_DATABASE_URL",
    "no password supplied": "add the password to KAFKASAGA_DATABASE_URL",
    "no pg_hba.conf entry": "let this user in (pg_hba.conf), or use TLS: sslmode=verify-full in KAFKASAGA_DATABASE_URL",
    "certificate verify failed": "set sslrootcert= in KAFKASAGA_DATABASE_URL to the authority that signed the server's",
    "does not match host name": "use a host in KAFKASAGA_DATABASE_URL that the server's certificate names",
    "root certificate file": "set sslrootcert= in KAFKASAGA_DATABASE_URL to a file that is there",
    "server does not support SSL": "switch TLS on at the server, or lower sslmode= in KAFKASAGA_DATABASE_URL",
}
"""What PostgreSQL or its client library says when no waiting helps, and the remedy.

There is no SQLSTATE before a connection stands, only text, and that of a server may be in its own language: what is not
recognised counts as a server that is away, with its text in the log.
"""

_PRIMARY: Final = 0xFF  # an extended result code holds its primary one in the low byte


class _Translated:
    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, PoolTimeout):
            raise DatabaseUnavailable(f"no connection came free: {error}") from error
        if isinstance(error, DBAPIError) and (kind := kind_of(error)) is not None:
            raise _ours(kind, error) from error


_TRANSLATED: Final = _Translated()


def translated() -> AbstractContextManager[None]:
    """Raise our errors in place of the database's, inside the block."""
    return _TRANSLATED


def is_taken(error: IntegrityError, table: Table) -> bool:
    """Whether the key of a row that was to be inserted is there: another transaction has written it meanwhile."""
    where = getattr(error.orig, "diag", None)
    return where is not None and where.sqlstate == UNIQUE_VIOLATION and where.table_name == table.name


def waited_too_long(error: DBAPIError) -> bool:
    """Whether a statement was ended because of its time."""
    return getattr(error.orig, "sqlstate", None) in WAITED_TOO_LONG


def kind_of(error: DBAPIError) -> type[KafkasagaError] | None:
    """What an error means to us; None if it is the user's own."""
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    if isinstance(state, str):
        found = next((kind for start, kind in SQLSTATES.items() if state.startswith(start)), None)
        if found is not None:
            return found
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(code, int) and (code & _PRIMARY) in SQLITE_CODES:
        return SQLITE_CODES[code & _PRIMARY]
    if error.connection_invalidated:
        return DatabaseUnavailable
    # PostgreSQL's drivers report a server that cannot be reached, or that hung up, without any SQLSTATE.
    lost = state is None and code is None and isinstance(error, OperationalError | InterfaceError)
    return DatabaseUnavailable if lost else None


def meant_for_us(error: BaseException) -> KafkasagaError | None:
    """What an error of the user's own statement is to us: the database is away, or in conflict; else None."""
    kind = kind_of(error) if isinstance(error, DBAPIError) else None
    return None if kind is None or not isinstance(error, DBAPIError) else _ours(kind, error)


def _ours(kind: type[KafkasagaError], error: DBAPIError) -> KafkasagaError:
    if kind is DatabaseUnavailable:
        # A host with several addresses has a line for each.
        for line in str(error.orig).splitlines():
            remedy = next((remedy for said, remedy in REFUSALS.items() if said in line), None)
            if remedy is not None:
                return DatabaseRefused(f"the database cannot be used: {line}; {remedy}")
    return kind(_first_line(error))


_MISSING_TABLE: Final = "42P01"
"""undefined_table"""


def says_missing_table(error: BaseException | None) -> bool:
    """Whether an error of the driver's says that a table is not there."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state == _MISSING_TABLE or (isinstance(error, sqlite3.OperationalError) and "no such table" in str(error))


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]
