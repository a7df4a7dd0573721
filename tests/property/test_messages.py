"""Laws of the wire."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from kafkasaga.messages import Envelope, Record, read_attributes, write_headers
from tests.property.strategies import envelopes, headers


@given(envelopes)
def test_headers_read_back_as_what_was_written(envelope: Envelope) -> None:
    written = {name: value.encode() for name, value in write_headers(envelope).items()}
    read = read_attributes(Record(envelope.topic, 0, 0, None, envelope.payload, written))
    assert (read.id, read.source, read.type) == (envelope.id, envelope.source, envelope.type)
    assert (read.content_type, read.traceparent) == (envelope.content_type, envelope.traceparent)
    assert read.saga == envelope.saga


@given(headers, st.text(max_size=20), st.integers(0), st.integers(0))
def test_any_headers_can_be_read(given: dict[str, bytes], topic: str, partition: int, offset: int) -> None:
    read = read_attributes(Record(topic, partition, offset, None, None, given))
    assert isinstance(read.id, UUID)
    for text in (read.source, read.type if "ce_type" in given else "", read.content_type, read.traceparent or ""):
        assert "\0" not in text
        text.encode()
    if read.saga is not None:
        assert 0 < len(read.saga.step) <= 250
        assert 0 <= read.saga.generation < 2**31


@given(headers)
def test_a_record_read_twice_has_one_identity(given: dict[str, bytes]) -> None:
    record = Record("topic", 1, 2, None, None, given)
    assert read_attributes(record) == read_attributes(record)
