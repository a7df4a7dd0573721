from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from kafkasaga.messages import Envelope, Mark, Operation, Record, SagaContext, read_attributes, write_headers

ID, SAGA, COMMAND = UUID(int=1), UUID(int=2), UUID(int=3)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(headers: dict[str, bytes], offset: int = 7) -> Record:
    return Record("topic", 3, offset, b"key", b"{}", headers)


def saga_headers(**changed: bytes) -> dict[str, bytes]:
    headers = {"sagaid": str(SAGA).encode(), "sagastep": b"pay", "sagageneration": b"0", "sagaoperation": b"action"}
    return {f"ce_{name}": value for name, value in {**headers, **changed}.items()}


def test_headers_are_cloudevents_in_binary_mode() -> None:
    context = SagaContext("orders", SAGA, "ship[2]", 1, Operation.COMPENSATION, COMMAND, ("a", "b"), Mark.EMPTY)
    time = datetime(2030, 1, 1, tzinfo=UTC)
    envelope = Envelope("t", "k", ID, "inventory", "released", time, b"{}", saga=context, traceparent=TRACE)
    assert write_headers(envelope) == {
        "ce_specversion": "1.0",
        "ce_id": str(ID),
        "ce_source": "inventory",
        "ce_type": "released",
        "ce_time": "2030-01-01T00:00:00+00:00",
        "content-type": "application/json",
        "traceparent": TRACE,
        "ce_saganame": "orders",
        "ce_sagaid": str(SAGA),
        "ce_sagastep": "ship[2]",
        "ce_sagageneration": "1",
        "ce_sagaoperation": "compensation",
        "ce_sagacommandid": str(COMMAND),
        "ce_sagafailures": "a b",
        "ce_sagamark": "empty",
    }


def test_names_of_our_extensions_are_lower_case_letters_and_digits() -> None:
    context = SagaContext("s", SAGA, "pay", 0, Operation.ACTION, COMMAND, ("x",), Mark.EMPTY)
    names = write_headers(Envelope("t", "k", ID, "s", "t", datetime(2030, 1, 1, tzinfo=UTC), None, saga=context))
    assert all(name[3:].isalnum() and name[3:].islower() for name in names if name.startswith("ce_"))


def test_a_record_without_headers_is_known_by_its_place() -> None:
    read = read_attributes(record({}))
    assert read.type == "topic"
    assert (read.source, read.content_type, read.saga, read.traceparent) == ("", "application/json", None, None)
    assert read.id == read_attributes(record({})).id
    assert read.id != read_attributes(record({}, offset=8)).id
    assert read.id == read_attributes(record({"ce_id": b""})).id, "else all messages with an empty id would be one"


def test_an_id_that_is_no_uuid_becomes_one_by_name() -> None:
    one, two = (read_attributes(record({"ce_id": text})).id for text in (b"event-1", b"event-2"))
    assert one != two
    assert one == read_attributes(record({"ce_id": b"event-1"}, offset=9)).id


def test_names_of_headers_may_have_capitals_and_values_json_quotes() -> None:
    read = read_attributes(record({"CE_Type": b'"pay\\u0021"', "ce_source": b'"', "ce_id": str(ID).encode()}))
    assert (read.type, read.source, read.id) == ("pay!", '"', ID)


def test_what_a_database_cannot_hold_is_taken_out() -> None:
    read = read_attributes(record({"ce_source": b'"\\ud800a"', "ce_type": b"a\0b", "ce_id": b'"\\udc00"'}))
    assert (read.source, read.type) == ("?a", "ab")


def test_a_source_too_long_for_a_column_becomes_a_name() -> None:
    sources = {read_attributes(record({"ce_source": b"x" * n})).source for n in (250, 251, 252)}
    assert len(sources) == 3
    assert max(map(len, sources)) == 250
    assert "x" * 250 in sources, "the longest that fits is kept as it is"


@pytest.mark.parametrize(
    "broken",
    [
        {"sagaid": b"x"},
        {"sagastep": b""},
        {"sagastep": b"s" * 251},
        {"sagageneration": b"-1"},
        {"sagageneration": b"1.0"},
        {"sagageneration": "٣".encode()},
        {"sagageneration": b"9" * 10},
        {"sagaoperation": b"explode"},
        {"sagaoperation": b""},
    ],
)
def test_a_context_that_is_not_whole_is_none(broken: dict[str, bytes]) -> None:
    assert read_attributes(record(saga_headers())).saga is not None
    assert read_attributes(record(saga_headers(sagastep=b"s" * 250))).saga is not None, "the longest step that fits"
    assert read_attributes(record(saga_headers(**broken))).saga is None


def test_a_mark_or_command_id_that_cannot_be_read_is_none() -> None:
    saga = read_attributes(record(saga_headers(sagamark=b"odd", sagacommandid=b"odd"))).saga
    assert saga is not None
    assert (saga.mark, saga.command_id, saga.failures, saga.saga) == (None, None, (), "")


@pytest.mark.parametrize("text", [b"", b"00-1-2-3", TRACE.encode() + b"\n", TRACE.upper().encode()])
def test_a_traceparent_that_is_none_is_dropped(text: bytes) -> None:
    assert read_attributes(record({"traceparent": text})).traceparent is None
    assert read_attributes(record({"traceparent": TRACE.encode()})).traceparent == TRACE
