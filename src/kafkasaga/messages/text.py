"""JSON as text, for what the library itself keeps in the database: by pydantic's core, which knows ids and times.

Its one gap is what UTF-8 cannot hold (half of a surrogate pair, from a command line, say): the standard library writes
and reads that, as escapes.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import PydanticSerializationError
from pydantic_core import from_json as _read
from pydantic_core import to_json as _write


def to_text(value: object) -> str:
    """``value`` as JSON without white space; ids and times in their usual spelling."""
    try:
        return _write(value).decode()
    except PydanticSerializationError:
        return _escaping(value)


def from_text(text: str) -> Any:
    """What ``to_text`` wrote, ids and times as text.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return _read(text)
    except ValueError:
        return json.loads(text)


def _plain(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            raise TypeError(f"not a part of what is kept: {value!r}")


_escaping = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
