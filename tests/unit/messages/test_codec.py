from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import BaseModel

from kafkasaga.errors import ConfigurationError, UndecodableMessage, UnencodableMessage
from kafkasaga.messages import JsonCodec, Message


class Line(BaseModel, frozen=True, extra="forbid"):
    sku: str


class Order(Message, topic="order", key="id"):
    id: str
    lines: tuple[Line, ...] = ()
    total: Decimal = Decimal(0)
    raw: bytes = b""


CODEC = JsonCodec()


def test_a_message_reads_back_as_what_was_written() -> None:
    order = Order(id="1", lines=(Line(sku="A"),), total=Decimal("9.90"), raw=b"\xff\0")
    assert CODEC.decode(Order, CODEC.encode(order)) == order


def test_fields_that_a_newer_version_added_are_ignored() -> None:
    assert CODEC.decode(Order, b'{"id":"1","colour":"red","lines":[{"sku":"A"}]}').lines == (Line(sku="A"),)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"id":1}', b'{"lines":[]}', b"[" * 100_000])
def test_what_is_not_the_message_is_undecodable(body: bytes) -> None:
    with pytest.raises(UndecodableMessage, match="not a Order: "):
        CODEC.decode(Order, body)


def test_the_error_names_the_field_and_keeps_the_input_to_itself() -> None:
    with pytest.raises(UndecodableMessage) as caught:
        CODEC.decode(Order, b'{"id":"1","lines":[{"sku":{"secret":"hunter2"}}]}')
    assert "lines.0.sku" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_content_type_is_json() -> None:
    assert CODEC.content_type == "application/json"


class Loose(Message, topic="loose", key="id"):
    id: str
    more: object = None


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_a_body_of_the_largest_size_travels_and_one_byte_more_does_not() -> None:
    codec = JsonCodec(max_bytes=100)
    fixed = len(codec.encode(Order(id="")))
    largest = codec.encode(Order(id="x" * (100 - fixed)))
    assert len(largest) == 100
    assert codec.decode(Order, largest).id
    with pytest.raises(UnencodableMessage, match=r"a Order is 101 bytes, more than JsonCodec\(max_bytes=100\); send a"):
        codec.encode(Order(id="x" * (101 - fixed)))
    with pytest.raises(UndecodableMessage, match="101 bytes"):
        codec.decode(Order, largest + b" ")


def test_what_is_nested_to_the_limit_travels_and_one_level_more_does_not() -> None:
    codec = JsonCodec(max_depth=5)
    deepest = codec.encode(Loose(id="[[[[[[[[{{{{{{{{", more=nested(4)))
    assert codec.decode(Loose, deepest).more == nested(4)
    wide = codec.encode(Loose(id="x", more=[[], [], [], [], [], []]))
    assert codec.decode(Loose, wide).more == [[], [], [], [], [], []], "beside each other is not within each other"
    with pytest.raises(UnencodableMessage, match=r"nested deeper than JsonCodec\(max_depth=5\)"):
        codec.encode(Loose(id="x", more=nested(5)))
    with pytest.raises(UndecodableMessage, match="nested deeper"):
        codec.decode(Loose, JsonCodec().encode(Loose(id="x", more=nested(5))))


@pytest.mark.parametrize("more", [nested(500), "\ud800", object()], ids=["too deep", "no text", "no JSON"])
def test_what_cannot_be_written_is_one_clear_error(more: object) -> None:
    with pytest.raises(UnencodableMessage, match="a Loose cannot be written: "):
        CODEC.encode(Loose(id="x", more=more))


def test_quotes_without_end_cost_no_time() -> None:
    with pytest.raises(UndecodableMessage):
        CODEC.decode(Loose, b'{"id": "' + b'\\"[' * 300_000)


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_depth": 0}, {"max_depth": 65}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="max_depth 1 to 64"):
        JsonCodec(**limits)
