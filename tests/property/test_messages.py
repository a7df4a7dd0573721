"""Laws of the wire."""

from __future__ import annotations

import json
from random import Random
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from kafkasaga.messages import Envelope, Record, derived, read_attributes, read_id, write_headers
from kafkasaga.ports import read_headers
from kafkasaga.stores.outbox_rows import headers_as_text
from tests.property.strategies import envelopes, headers


@given(envelopes)
def test_headers_read_back_as_what_was_written(envelope: Envelope) -> None:
    written = {name: value.encode() for name, value in write_headers(envelope).items()}
    read = read_attributes(Record(envelope.topic, 0, 0, None, envelope.payload, written))
    assert (read.id, read.source, read.type) == (envelope.id, envelope.source, envelope.type)
    assert (read.content_type, read.traceparent) == (envelope.content_type, envelope.traceparent)
    assert read.saga == envelope.saga


@given(envelopes)
def test_headers_lie_in_the_outbox_as_they_are_written(envelope: Envelope) -> None:
    assert json.loads(headers_as_text(envelope)) == write_headers(envelope)
    assert read_headers(headers_as_text(envelope)) == write_headers(envelope)


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


@given(headers, st.randoms(use_true_random=False))
def test_capitals_in_names_and_unknown_headers_change_nothing(given: dict[str, bytes], random: Random) -> None:
    odd = {"".join(random.choice((c.lower(), c.upper())) for c in name): value for name, value in given.items()}
    plain = {name.lower(): value for name, value in odd.items()}
    read = read_attributes(Record("topic", 1, 2, None, None, plain))
    assert read_attributes(Record("topic", 1, 2, None, None, odd | {"X-Other": b"1"})) == read
    assert read_attributes(Record("topic", 1, 2, None, None, {"x-other": b"1", **plain})) == read


@given(st.uuids(), st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300))
def test_a_derived_id_is_the_uuid_of_version_5(namespace: UUID, name: str) -> None:
    assert derived(namespace, name) == uuid5(namespace, name)


@given(st.uuids().map(str) | st.text(max_size=40), st.sampled_from(["{}", "{{{}}}", "urn:uuid:{}", "{}\n", " {}"]))
def test_an_id_is_read_as_the_standard_library_reads_it(text: str, spelling: str) -> None:
    for spelt in (text, text.upper(), text.replace("-", ""), spelling.format(text)):
        try:
            expected = UUID(spelt)
        except ValueError:
            expected = None
        assert read_id(spelt) == expected
