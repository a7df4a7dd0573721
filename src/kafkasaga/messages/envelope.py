"""What travels: a message's bytes and its CloudEvents attributes, and how they lie in Kafka headers.

The wire is the CloudEvents Kafka protocol binding 1.0 in binary mode: one header ``ce_<attribute>`` each, values in
UTF-8, plus ``content-type`` and the W3C ``traceparent``. Our attributes are CloudEvents extensions, so their names are
lower-case letters and digits only. A participant in another language takes part by sending them back as it got them.

An incoming record may have been written by anything. ``parse`` therefore trusts no header: what cannot be read as an
attribute of ours is as good as absent, and a record without an id gets one from where it lies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final
from uuid import UUID

from kafkasaga.messages.ids import NAMESPACE, derived, id_text, read_id
from kafkasaga.values import value

LONGEST_NAME: Final = 250
"""Characters of a source or a step path that an incoming record may have: they become keys of tables."""
MOST_HEADERS: Final = 256
MOST_HEADER_BYTES: Final = 64 * 1024
"""Of a record, names and values together. Ours take half a kilobyte; tracing and routing may add a few."""
UNREADABLE: Final = "kafkasaga-unreadable"
"""Stands for all headers of a record if they could not be read; its value says why."""


class Operation(StrEnum):
    """What a command asks of a participant."""

    ACTION = "action"
    COMPENSATION = "compensation"

    __hash__ = str.__hash__  # an enumeration's own is written in Python


class Mark(StrEnum):
    """How a barrier answered without running the handler. Such a reply may have no body."""

    EMPTY = "empty"
    """A compensation without its action, or after an action that failed: there was nothing to undo."""
    REPEATED = "repeated"
    """The command had been carried out before: this is the first reply again."""
    SUPERSEDED = "superseded"
    """An action that came after its own compensation: it was not carried out and never will be."""


_OPERATIONS: Final = {operation.value: operation for operation in Operation}
_MARKS: Final = {mark.value: mark for mark in Mark}


@value(frozen=True, slots=True)
class SagaContext:
    """Which saga, step and attempt a command or a reply belongs to."""

    saga: str
    """The saga's name: another orchestrator's replies can be told apart on a shared topic."""
    saga_id: UUID
    step: str
    """The step path: the step's name, with its element under a fan-out (``ship[2]``)."""
    generation: int
    operation: Operation
    command_id: UUID | None = None
    """On a reply: the id of the command that it answers."""
    failures: tuple[str, ...] = ()
    """On a compensation: the reply types that mean that the action did nothing, so that the participant can tell."""
    mark: Mark | None = None


@value(frozen=True, slots=True)
class Envelope:
    """One message under way: attributes as values, the body as bytes."""

    topic: str
    key: str
    id: UUID
    source: str
    type: str
    time: datetime
    payload: bytes | None
    content_type: str = "application/json"
    saga: SagaContext | None = None
    traceparent: str | None = None


@value(frozen=True, slots=True)
class Record:
    """A Kafka record as it was read: nothing decoded, nothing trusted."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]
    """Of headers that repeat a name, the last one counts."""


@value(frozen=True, slots=True)
class Attributes:
    """What the headers of an incoming record say."""

    id: UUID
    source: str
    type: str
    content_type: str
    saga: SagaContext | None
    traceparent: str | None


time_text: Final = lru_cache(maxsize=64)(datetime.isoformat)
"""A time as it travels. What a batch sends has one, so it is written once. (An equal time of another zone may be
written for it: it is the same instant.)"""


def write_headers(envelope: Envelope) -> dict[str, str]:
    """The headers of an outgoing message, as text."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": id_text(envelope.id),
        "ce_source": envelope.source,
        "ce_type": envelope.type,
        "ce_time": time_text(envelope.time),
        "content-type": envelope.content_type,
    }
    if envelope.traceparent:
        headers["traceparent"] = envelope.traceparent
    if (saga := envelope.saga) is not None:
        headers["ce_saganame"] = saga.saga
        headers["ce_sagaid"] = id_text(saga.saga_id)
        headers["ce_sagastep"] = saga.step
        headers["ce_sagageneration"] = str(saga.generation)
        headers["ce_sagaoperation"] = saga.operation.value
        if saga.command_id is not None:
            headers["ce_sagacommandid"] = id_text(saga.command_id)
        if saga.failures:
            headers["ce_sagafailures"] = " ".join(saga.failures)
        if saga.mark is not None:
            headers["ce_sagamark"] = saga.mark.value
    return headers


def read_attributes(record: Record) -> Attributes:
    """The attributes of an incoming record, with defaults for whatever it does not say.

    The id of a record without ``ce_id`` is derived from its place in Kafka; an id that is not a UUID (CloudEvents
    allows any text) becomes one by name, so that the inbox has one kind of key; so does a source too long for a column.
    The type of a record without ``ce_type`` is its topic. Headers that we do not know are not looked at.
    """
    headers = _in_lower_case(record.headers)
    source = _word(headers.get("ce_source", b""))
    if len(source) > LONGEST_NAME:
        source = f"urn:uuid:{derived(NAMESPACE, source)}"
    given = _text(headers.get("ce_id", b""))
    if not given:
        identity = derived(NAMESPACE, f"{record.topic}/{record.partition}/{record.offset}")
    else:
        identity = read_id(given) or derived(NAMESPACE, given)
    type, content_type = headers.get("ce_type"), headers.get("content-type")
    return Attributes(
        identity,
        source,
        record.topic if type is None else _word(type),
        "application/json" if content_type is None else _word(content_type),
        _saga(headers),
        _traceparent(headers.get("traceparent")),
    )


def _in_lower_case(headers: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Headers by names in lower case, as nearly everybody writes them. Of two that become one, the last one counts."""
    names = "".join(headers)
    if names == names.lower():
        return headers
    return {name.lower(): value for name, value in headers.items()}


def fault_of_headers(record: Record) -> str | None:
    """Why a record's headers are not taken for a message's; None for sane ones."""
    if (reason := record.headers.get(UNREADABLE)) is not None:
        return f"its headers cannot be read: {_text(reason)}"
    count = len(record.headers)
    if count > MOST_HEADERS:
        return f"it has {count:,} headers, more than {MOST_HEADERS}"
    size = sum(map(len, record.headers)) + sum(map(len, record.headers.values()))
    if size > MOST_HEADER_BYTES:
        return f"its headers take {size:,} bytes, more than {MOST_HEADER_BYTES:,}"
    return None


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]{0,200})?")


def _traceparent(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = _text(value)
    return text if _TRACEPARENT.fullmatch(text) else None


_GENERATION = re.compile(r"[0-9]{1,9}")


def _saga(headers: Mapping[str, bytes]) -> SagaContext | None:
    find = headers.get
    given = find("ce_sagaid")
    saga_id = None if given is None else read_id(_text(given))
    if saga_id is None:
        return None
    texts = (
        find("ce_saganame", b""),
        find("ce_sagastep", b""),
        find("ce_sagageneration", b""),
        find("ce_sagaoperation", b""),
        find("ce_sagafailures", b""),
        find("ce_sagamark", b""),
    )
    place = (_remembered_place if sum(map(len, texts)) <= 2 * LONGEST_NAME else _place)(*texts)
    if place is None:
        return None
    saga, step, generation, operation, failures, mark = place
    command = find("ce_sagacommandid")
    command_id = None if command is None else read_id(_text(command))
    return SagaContext(saga, saga_id, step, generation, operation, command_id, failures, mark)


def _place(
    name: bytes, step_path: bytes, number: bytes, asked: bytes, failures: bytes, mark: bytes
) -> tuple[str, str, int, Operation, tuple[str, ...], Mark | None] | None:
    """What the messages of one step have in common; None if it is no step of a saga."""
    step, generation, operation = _text(step_path), _text(number), _OPERATIONS.get(_text(asked))
    if operation is None or not 0 < len(step) <= LONGEST_NAME or not _GENERATION.fullmatch(generation):
        return None
    return _text(name), step, int(generation), operation, tuple(_text(failures).split()), _MARKS.get(_text(mark))


_remembered_place = lru_cache(maxsize=1024)(_place)


def _text(value: bytes) -> str:
    """A header's text, fit for a database. Debezium Server writes it as a JSON string, everybody else as bare text."""
    if value.isascii() and value[:1] != b'"' and b"\0" not in value:  # nearly all of them
        return value.decode("ascii")
    text = _unquoted(value.decode("utf-8", "replace"))
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


_remembered = lru_cache(maxsize=256)(_text)


def _word(value: bytes) -> str:
    """The text of a header whose value comes again and again, unlike that of an id. Long ones are not remembered."""
    return _remembered(value) if len(value) <= LONGEST_NAME else _text(value)


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            unquoted = json.loads(text)
        except ValueError:
            return text
        return unquoted if isinstance(unquoted, str) else text
    return text
