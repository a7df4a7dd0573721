"""confluent-kafka's messages as records."""

from __future__ import annotations

from operator import methodcaller
from typing import Any, Final, cast

from confluent_kafka import Message

from kafkasaga.messages import UNREADABLE, Record

NOT_TEXT: Final = b"a name is not UTF-8"
_read_headers: Final = methodcaller("headers")
"""Where a name is not UTF-8, the binding (2.16) returns a list with holes *and* leaves an exception behind. The
interpreter sees that where a function is called by another one in C; a plain ``message.headers()`` it may have
specialised by then, and goes on: the holes end the process. Never ask a message twice: the list is kept."""


def record_of(message: Message[Any, Any]) -> Record:
    """A message that carries no error, as a record.

    Of headers that repeat a name the last one counts; a header without a value is an empty one.
    """
    topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
    return Record(topic, partition, offset, message.key(), message.value(), _headers(message))


def _headers(message: Message[Any, Any]) -> dict[str, bytes]:
    try:
        # The stub also allows the mapping and the text that are only ever written, never read.
        found = cast("list[tuple[str, bytes | None]]", _read_headers(message) or [])
    except (SystemError, UnicodeDecodeError):
        return {UNREADABLE: NOT_TEXT}
    headers = dict(found)
    if None in headers.values():
        return {name: value or b"" for name, value in found}
    return cast("dict[str, bytes]", headers)
