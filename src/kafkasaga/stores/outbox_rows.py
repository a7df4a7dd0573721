"""The outbox as a table: appending to it in bulk, and asking what is still in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final
from uuid import UUID

from pydantic_core import from_json
from sqlalchemy import Connection

from kafkasaga.messages import Envelope, write_headers
from kafkasaga.stores.bulk import Sql, insert, types

_COLUMNS = ("message_id", "topic", "key", "payload", "headers", "created_at")


class OutboxRows:
    """Statements on the outbox, as its writers need them."""

    def __init__(self, sql: Sql) -> None:
        outbox = sql.tables.outbox
        # Rows get their ids in the order in which `r` delivers them, which is that of the parameters.
        self._add = sql.bulk(insert("outbox", _COLUMNS), types(outbox, *_COLUMNS))
        self._unsent = sql.bulk(
            "SELECT t.message_id FROM {outbox} AS t WHERE t.message_id IN (SELECT r.message_id FROM r)",
            types(outbox, "message_id"),
            returns=types(outbox, "message_id"),
        )

    def add(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
        """Append messages, in this order."""
        self._add.count(connection, [_row(envelope) for envelope in envelopes])

    def unsent(self, connection: Connection, ids: Collection[UUID]) -> set[UUID]:
        """Those message ids that are still in the outbox."""
        return {id for (id,) in self._unsent.rows(connection, [(id,) for id in sorted(set(ids))])}


def headers_to_text(headers: Mapping[str, str]) -> str:
    """Headers as they lie in the outbox: a JSON object."""
    return json.dumps(headers, ensure_ascii=False, separators=(",", ":"))


headers_from_text: Final[Callable[[str], dict[str, str]]] = from_json
"""Headers as they were before that."""


def _row(envelope: Envelope) -> tuple[object, ...]:
    headers = headers_to_text(write_headers(envelope))
    return envelope.id, envelope.topic, envelope.key, envelope.payload, headers, envelope.time
