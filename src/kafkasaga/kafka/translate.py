"""confluent-kafka's messages as records."""

from __future__ import annotations

from typing import Any, cast

from confluent_kafka import Message

from kafkasaga.messages import Record


def record_of(message: Message[Any, Any]) -> Record:
    """A message that carries no error, as a record.

    Of headers that repeat a name the last one counts; a header without a value is an empty one.
    """
    # The stub also allows the mapping and the text that are only ever written, never read.
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        headers={name: value or b"" for name, value in headers},
    )
