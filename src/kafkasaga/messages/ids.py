"""Ids: read from text, derived by name, and written as text.

All of it is done several times for each message, and the standard library's UUID class is written in Python. What is
here gives the same in a quarter of its time or less: pydantic's core does it.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final
from uuid import UUID

from pydantic_core import SchemaSerializer, SchemaValidator, ValidationError, core_schema

NAMESPACE: Final = UUID("6b616673-6167-5a00-8000-000000000001")
"""The root of every id that kafkasaga derives by name (RFC 4122, version 5)."""

_to_uuid = SchemaValidator(core_schema.uuid_schema()).validate_python
_to_json = SchemaSerializer(core_schema.uuid_schema()).to_python
_VARIANT: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""The digit behind the version, with the two bits that say which kind of UUID it is."""


def derived(namespace: UUID, name: str) -> UUID:
    """The id that ``name`` has in ``namespace``: what ``uuid.uuid5`` gives."""
    digest = sha1(namespace.bytes + name.encode()).hexdigest()  # noqa: S324 (as RFC 4122 wants it; keeps no secret)
    made: UUID = _to_uuid(f"{digest[:12]}5{digest[13:16]}{_VARIANT[digest[16]]}{digest[17:32]}")
    return made


def to_id(text: str) -> UUID:
    """The UUID that ``text`` is, in any of the spellings that ``uuid.UUID`` takes.

    Raises:
        ValueError: if it is none.
    """
    try:
        read: UUID = _to_uuid(text)
    except ValidationError:
        return UUID(text)
    return read


def id_text(id: UUID) -> str:
    """What ``str(id)`` gives."""
    text: str = _to_json(id, mode="json")
    return text


def read_id(text: str) -> UUID | None:
    """The same, or None."""
    try:
        return to_id(text)
    except ValueError:
        return None
