"""The texts that bulk statements are made of."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Integer, LargeBinary, MetaData, Text, Uuid
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeEngine

from kafkasaga.errors import ConfigurationError
from kafkasaga.stores import Tables
from kafkasaga.stores.bulk import Sql, _literal_writer, insert
from kafkasaga.stores.types import UtcDateTime

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("type", "values", "literal"),
    [
        (Text(), ["a", "", None, "NULL"], '{"a","",NULL,"NULL"}'),
        (Text(), ['"', "\\", "{", ",", "\n"], '{"\\"","\\\\","{",",","\n"}'),
        (Integer(), [1, -2, None], "{1,-2,NULL}"),
        (LargeBinary(), [b"\x00\xff", b"", None], '{"\\\\x00ff","\\\\x",NULL}'),
        (Uuid(), [UUID(int=1)], "{00000000000000000000000000000001}"),
        (UtcDateTime(), [NOON, None], '{"2026-11-22T12:00:00+00:00",NULL}'),
        (UtcDateTime(), [NOON.astimezone(timezone(timedelta(hours=2)))], '{"2026-11-22T12:00:00+00:00"}'),
        (Text(), [], "{}"),
    ],
)
def test_values_become_an_array_literal(type: TypeEngine[Any], values: list[Any], literal: str) -> None:
    assert _literal_writer(type, DIALECT)(values) == literal


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a time zone"):
        _literal_writer(UtcDateTime(), DIALECT)([datetime(2026, 1, 1)])  # noqa: DTZ001


def test_an_insert_names_its_columns() -> None:
    assert insert("inbox", ["a", "b"]) == "INSERT INTO {inbox} (a, b) SELECT a, b FROM r WHERE true"


def test_another_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="PostgreSQL or SQLite, not in 'mysql'"):
        Sql(Tables(MetaData()), mysql.dialect())
