"""Bytes and back. JSON by default; another codec is an object with the same two methods and a content type."""

from __future__ import annotations

from typing import Protocol, TypeVar

from pydantic import ValidationError

from kafkasaga.errors import UndecodableMessage
from kafkasaga.messages.message import Message

M = TypeVar("M", bound=Message)


class Codec(Protocol):
    """How a message's body is written and read; ``content_type`` travels beside it."""

    @property
    def content_type(self) -> str: ...

    def encode(self, message: Message) -> bytes: ...

    def decode(self, type: type[M], body: bytes) -> M:
        """Raises UndecodableMessage if ``body`` is not a ``type``."""
        ...


class JsonCodec:
    """JSON by pydantic. Reading ignores unknown fields, so additive changes are accepted; building forbids them."""

    content_type = "application/json"

    def encode(self, message: Message) -> bytes:
        return message.__pydantic_serializer__.to_json(message)

    def decode(self, type: type[M], body: bytes) -> M:
        try:
            return type.model_validate_json(body, extra="ignore")
        except ValidationError as error:
            raise UndecodableMessage(f"not a {type.__name__}: {summary(error)}") from None


def summary(error: ValidationError) -> str:
    """What pydantic found, on one line, without the input (it may be secret, and it may be large)."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in found[:5])
