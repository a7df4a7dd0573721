"""Bytes and back. JSON by default; another codec is an object with the same two methods and a content type."""

from __future__ import annotations

import re
from typing import Final, Protocol, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from kafkasaga.errors import ConfigurationError, UndecodableMessage, UnencodableMessage
from kafkasaga.messages.message import Message

M = TypeVar("M", bound=Message)

MAX_BYTES: Final = 1_000_000
"""Of a body: a little below what a broker takes by default (``message.max.bytes``, 1,048,588), headers included."""
MAX_DEPTH: Final = 64
"""Of objects and lists within each other. What is read becomes part of a saga's state, which lies some levels deeper in
its log; the JSON parser gives up at 200, and what was taken must be readable ever after."""

LONGEST_PLACE: Final = 200
"""Characters of a field's place in an error."""

_TEXTS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS: Final = re.compile(rb"[\[\]{}]")


class Codec(Protocol):
    """How a message's body is written and read; ``content_type`` travels beside it."""

    @property
    def content_type(self) -> str: ...

    def encode(self, message: Message) -> bytes:
        """Raises UnencodableMessage if it cannot be written, or must not."""
        ...

    def decode(self, type: type[M], body: bytes) -> M:
        """Raises UndecodableMessage if ``body`` is not a ``type``."""
        ...


class JsonCodec:
    """JSON by pydantic. Reading ignores unknown fields, so additive changes are accepted; building forbids them.

    Args:
        max_bytes: the largest body that is written or read. Brokers and topics have limits of their own.
        max_depth: how deep objects and lists may lie within each other.
    """

    content_type = "application/json"

    def __init__(self, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> None:
        if max_bytes < 1 or not 1 <= max_depth <= MAX_DEPTH:
            raise ConfigurationError(f"JsonCodec: max_bytes is at least 1, max_depth 1 to {MAX_DEPTH}")
        self._max_bytes, self._max_depth = max_bytes, max_depth

    def encode(self, message: Message) -> bytes:
        try:
            body = message.__pydantic_serializer__.to_json(message)
        except PydanticSerializationError as error:
            raise UnencodableMessage(f"a {type(message).__name__} cannot be written: {error}") from None
        if not self._is_plain(body) and (excess := self._excess(body)):
            name = type(message).__name__
            raise UnencodableMessage(f"a {name} is {excess}; send a reference to what is large, or raise the limit")
        return body

    def decode(self, type: type[M], body: bytes) -> M:
        if len(body) > self._max_bytes:
            raise UndecodableMessage(f"a {type.__name__} of {self._excess(body)}")
        try:
            message: M = type.__pydantic_validator__.validate_json(body, extra="ignore")
        except ValidationError as error:
            raise UndecodableMessage(f"not a {type.__name__}: {summary(error)}") from None
        if not self._is_plain(body) and (excess := self._excess(body)):
            raise UndecodableMessage(f"a {type.__name__} {excess}")
        return message

    def _is_plain(self, body: bytes) -> bool:
        """Whether a body is within the limits whatever its texts hold, as nearly all are."""
        return len(body) <= self._max_bytes and body.count(b"{") + body.count(b"[") <= self._max_depth

    def _excess(self, body: bytes) -> str | None:
        """By what a body exceeds the limits; of its depth only when it is JSON."""
        if len(body) > self._max_bytes:
            return f"{len(body):,} bytes, more than JsonCodec(max_bytes={self._max_bytes})"
        if _is_deeper(body, self._max_depth):
            return f"nested deeper than JsonCodec(max_depth={self._max_depth})"
        return None


def _is_deeper(body: bytes, most: int) -> bool:
    depth = 0
    for bracket in _BRACKETS.findall(_TEXTS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > most:
            return True
    return False


def summary(error: ValidationError) -> str:
    """What pydantic found, on one line, without the input (it may be secret, and it may be large)."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{_place(e['loc'])}: {e['msg']}" for e in found[:5])


def _place(location: tuple[int | str, ...]) -> str:
    """Where in a body. A dictionary's key is part of it, and may be anything."""
    text = ".".join(map(str, location)) or "body"
    return text if len(text) <= LONGEST_PLACE else f"{text[:LONGEST_PLACE]}…"
