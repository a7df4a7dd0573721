"""Columns of values as PostgreSQL's binary arrays.

The server copies a binary array where it would have to read a literal twice, character by character, and ``bytea`` is
not blown up to twice its size. It is built here and not by psycopg, whose adaptation of lists takes 2 to 20 times as
long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import repeat
from struct import Struct
from typing import Any, Final
from uuid import UUID

from sqlalchemy.types import BigInteger, TypeEngine

_HEADER: Final = Struct("!iIIii").pack
"""One dimension; that there may be NULLs; the elements' type; how many; the first one's number."""
_LENGTH: Final = Struct("!I").pack
_INT4: Final = Struct("!Ii").pack
_INT8: Final = Struct("!Iq").pack
_OF_UUID: Final = _LENGTH(16)
_NULL: Final = b"\xff\xff\xff\xff"
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_KEPT: Final = 1024
"""So many short texts of a column are kept as bytes: most columns repeat a few names."""
_SHORT: Final = 36
"""Characters; an id has as many, and hardly ever comes again."""


class _Texts(dict[str | None, bytes]):
    """Texts with their lengths before them."""

    def __init__(self) -> None:
        super().__init__({None: _NULL})

    def __missing__(self, text: str) -> bytes:
        encoded = text.encode()
        element = _LENGTH(len(encoded)) + encoded
        if len(self) < _KEPT and len(text) < _SHORT:
            self[text] = element
        return element


# Each type has two functions: one writes an element, the other those of a whole column, where a call for each value
# would take longer than what it does.


def _column_of_texts() -> Callable[[Sequence[str | None]], Iterable[bytes]]:
    kept = _Texts()

    def write(values: Sequence[str | None]) -> Iterable[bytes]:
        return [
            kept[text] if text is None or len(text) < _SHORT else _LENGTH(len(long := text.encode())) + long
            for text in values
        ]

    return write


def _bytes(value: bytes | None) -> bytes:
    return _NULL if value is None else _LENGTH(len(value)) + value


def _column_of_bytes(values: Sequence[bytes | None]) -> Iterable[bytes]:
    return [_NULL if value is None else _LENGTH(len(value)) + value for value in values]


def _uuid(value: UUID | None) -> bytes:
    return _NULL if value is None else _OF_UUID + value.int.to_bytes(16, "big")


def _column_of_uuids(values: Sequence[UUID | None]) -> Iterable[bytes]:
    return [_NULL if value is None else _OF_UUID + value.int.to_bytes(16, "big") for value in values]


def _int4(value: int | None) -> bytes:
    return _NULL if value is None else _INT4(4, value)


def _column_of_int4s(values: Sequence[int | None]) -> Iterable[bytes]:
    return [_NULL if value is None else _INT4(4, value) for value in values]


def _int8(value: int | None) -> bytes:
    return _NULL if value is None else _INT8(8, value)


def _column_of_int8s(values: Sequence[int | None]) -> Iterable[bytes]:
    return [_NULL if value is None else _INT8(8, value) for value in values]


def _time(value: datetime | None) -> bytes:
    if value is None:
        return _NULL
    if value.tzinfo is None:
        raise ValueError(f"a time without a time zone: {value!r}; use datetime.now(UTC)")
    since = value - _EPOCH
    return _INT8(8, (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


def _column_of_times(values: Sequence[datetime | None]) -> Iterable[bytes]:
    last, element = None, _NULL
    for value in values:
        if value is not last:  # what a batch writes has one time, nearly always
            last, element = value, _time(value)
        yield element


def uuids(values: Iterable[bytes], count: int) -> bytes:
    """An array of ids that are bytes already."""
    return _HEADER(1, 0, 2950, count, 1) + _OF_UUID.join((b"", *values))


def bigints(values: Iterable[int], count: int) -> bytes:
    """An array of positions."""
    return _HEADER(1, 0, 20, count, 1) + b"".join(map(_INT8, repeat(8), values))


_Element = Callable[[Any], bytes]
_Column = Callable[[Sequence[Any]], Iterable[bytes]]

_TYPES: Final[dict[type, tuple[int, _Element, _Column]]] = {
    UUID: (2950, _uuid, _column_of_uuids),
    bytes: (17, _bytes, _column_of_bytes),
    int: (23, _int4, _column_of_int4s),
    datetime: (1184, _time, _column_of_times),
}
"""What PostgreSQL calls a type (its oid), and what writes values of it."""


def array_writer(type: TypeEngine[Any]) -> Callable[[Sequence[Any]], bytes]:
    """A function that writes the values of a column of this type as an array."""
    oid, _, elements = _known(type)
    cheap_to_compare = type.python_type in (str, int)

    def write(values: Sequence[Any]) -> bytes:
        header = _HEADER(1, 1, oid, len(values), 1)
        if cheap_to_compare and values and values.count(values[0]) == len(values):
            return header + b"".join(elements(values[:1])) * len(values)
        return b"".join((header, *elements(values)))

    return write


def array_of_one(type: TypeEngine[Any]) -> tuple[bytes, Callable[[Any], bytes]]:
    """What an array with a single value of this type begins with, and a function that writes the value.

    Most batches at a low rate have one row for each table, and a call for each column is what they cost.
    """
    oid, element, _ = _known(type)
    return _HEADER(1, 1, oid, 1, 1), element


def _known(type: TypeEngine[Any]) -> tuple[int, _Element, _Column]:
    if type.python_type is str:
        return 25, _Texts().__getitem__, _column_of_texts()
    return (20, _int8, _column_of_int8s) if isinstance(type, BigInteger) else _TYPES[type.python_type]
