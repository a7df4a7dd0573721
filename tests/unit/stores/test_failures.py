"""What database errors become."""

import sqlite3

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from kafkasaga.errors import DatabaseUnavailable, Deadlock, KafkasagaError, SerializationConflict
from kafkasaga.stores.failures import kind_of, translated


class DriverError(Exception):
    sqlstate: str | None = None
    sqlite_errorcode: int | None = None


def failed(kind: type[DBAPIError] = DBAPIError, *, state: str | None = None, code: int | None = None) -> DBAPIError:
    error = DriverError("the first line\nthe rest")
    error.sqlstate, error.sqlite_errorcode = state, code
    return kind("SELECT 1", None, error)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40001", SerializationConflict),
        ("40P01", Deadlock),
        ("55P03", SerializationConflict),
        ("08006", DatabaseUnavailable),
        ("53300", DatabaseUnavailable),
        ("57P01", DatabaseUnavailable),
        ("57P05", DatabaseUnavailable),
        ("25P03", DatabaseUnavailable),
        ("25006", DatabaseUnavailable),
        ("23505", None),
        ("25P02", None),
        ("42601", None),
        ("57014", None),
    ],
)
def test_sqlstates(state: str, kind: type[KafkasagaError] | None) -> None:
    assert kind_of(failed(OperationalError, state=state)) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, SerializationConflict),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, SerializationConflict),
        (sqlite3.SQLITE_LOCKED_SHAREDCACHE, SerializationConflict),
        (sqlite3.SQLITE_IOERR_FSYNC, DatabaseUnavailable),
        (sqlite3.SQLITE_FULL, DatabaseUnavailable),
        (sqlite3.SQLITE_CANTOPEN, DatabaseUnavailable),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, None),
        (sqlite3.SQLITE_ERROR, None),
    ],
)
def test_sqlite_codes(code: int, kind: type[KafkasagaError] | None) -> None:
    assert kind_of(failed(OperationalError, code=code)) is kind


def test_a_server_that_says_nothing_is_away() -> None:
    assert kind_of(failed(OperationalError)) is DatabaseUnavailable
    assert kind_of(failed(InterfaceError)) is DatabaseUnavailable
    assert kind_of(failed(IntegrityError)) is None


def test_an_invalidated_connection_is_lost_whatever_the_state() -> None:
    error = failed(OperationalError, state="XX000")
    error.connection_invalidated = True
    assert kind_of(error) is DatabaseUnavailable


def test_our_error_has_one_line_and_the_cause() -> None:
    cause = failed(state="40001")
    with pytest.raises(SerializationConflict, match=r"^the first line$") as raised, translated():
        raise cause
    assert raised.value.__cause__ is cause


def test_an_exhausted_pool_is_a_database_that_does_not_answer() -> None:
    with pytest.raises(DatabaseUnavailable), translated():
        raise PoolTimeout


def test_other_errors_pass_through() -> None:
    with pytest.raises(IntegrityError), translated():
        raise failed(IntegrityError, state="23505")
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError
