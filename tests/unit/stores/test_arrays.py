"""Columns as PostgreSQL's binary arrays; that it reads them as they were is in the contract of the stores."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import BigInteger, Integer, LargeBinary, Text, Uuid
from sqlalchemy.types import TypeEngine

from kafkasaga.stores.arrays import _Texts, array_of_one, array_writer
from kafkasaga.stores.types import UtcDateTime

NULL = b"\xff\xff\xff\xff"
SECOND = datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC)
MICROSECONDS = (1_000_000).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("type", "values", "oid", "elements"),
    [
        (Text(), ["a", "", None, "NULL", "a"], 25, [b"a", b"", None, b"NULL", b"a"]),
        (Text(), ["ü\n", '"', "x" * 300], 25, ["ü\n".encode(), b'"', b"x" * 300]),
        (Text(), ["same", "same", "same"], 25, [b"same"] * 3),
        (Text(), [None, None], 25, [None, None]),
        (BigInteger(), [7, 7], 20, [(7).to_bytes(8, "big")] * 2),
        (UtcDateTime(), [SECOND, SECOND, None, SECOND], 1184, [MICROSECONDS, MICROSECONDS, None, MICROSECONDS]),
        (Uuid(), [UUID(int=1), UUID(int=1)], 2950, [bytes(15) + b"\1"] * 2),
        (Integer(), [1, -2, None], 23, [b"\0\0\0\1", b"\xff\xff\xff\xfe", None]),
        (BigInteger(), [2**40, None], 20, [(2**40).to_bytes(8, "big"), None]),
        (LargeBinary(), [b"\x00\xff", b"", None], 17, [b"\x00\xff", b"", None]),
        (Uuid(), [UUID(int=1), None], 2950, [bytes(15) + b"\1", None]),
        (UtcDateTime(), [SECOND, None], 1184, [MICROSECONDS, None]),
        (UtcDateTime(), [SECOND.astimezone(timezone(timedelta(hours=2)))], 1184, [MICROSECONDS]),
        (
            UtcDateTime(),
            [datetime(1999, 12, 31, tzinfo=UTC)],
            1184,
            [(-86_400 * 10**6).to_bytes(8, "big", signed=True)],
        ),
        (Text(), [], 25, []),
    ],
)
def test_values_become_an_array(
    type: TypeEngine[Any], values: list[Any], oid: int, elements: list[bytes | None]
) -> None:
    head = b"".join(number.to_bytes(4, "big") for number in (1, 1, oid, len(values), 1))
    body = b"".join(NULL if e is None else len(e).to_bytes(4, "big") + e for e in elements)
    write = array_writer(type)
    assert write(values) == head + body
    assert write(values) == head + body, "also from what was kept"
    begin, element = array_of_one(type)
    for value, bytes_of_it in zip(values, elements, strict=True):
        assert begin + element(value) == write([value])
        assert element(value)[4:] == (bytes_of_it or b"")


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a time zone"):
        array_writer(UtcDateTime())([datetime(2026, 1, 1)])  # noqa: DTZ001
    with pytest.raises(ValueError, match="without a time zone"):
        array_of_one(UtcDateTime())[1](datetime(2026, 1, 1))  # noqa: DTZ001


def test_i14_not_every_text_is_kept() -> None:
    texts = _Texts()
    for n in range(3000):
        assert texts[f"text {n}"].endswith(b" %d" % n)
        assert texts["x" * 1000].endswith(b"x")
    assert len(texts) == 1024
    assert max(len(text or "") for text in texts) < 36
