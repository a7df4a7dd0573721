from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import BaseModel

from kafkasaga.errors import UndecodableMessage
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
