"""The outbox as a table: appending to it in bulk, and asking what is still in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from uuid import UUID

from sqlalchemy import Connection

from kafkasaga.messages import Envelope, id_text, time_text
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
        self._add.send(connection, [_row(envelope) for envelope in envelopes])

    def unsent(self, connection: Connection, ids: Collection[UUID]) -> set[UUID]:
        """Those message ids that are still in the outbox."""
        return {id for (id,) in self._unsent.rows(connection, [(id,) for id in sorted(set(ids))])}


def headers_as_text(envelope: Envelope) -> str:
    """The headers of a message as they lie in the outbox: what ``write_headers`` gives, as a JSON object."""
    text = (
        f'{{{_fixed_headers(envelope.source, envelope.type, envelope.content_type)},"ce_id":"{id_text(envelope.id)}",'
        f'"ce_time":"{time_text(envelope.time)}"'
    )
    if envelope.traceparent:
        text += f',"traceparent":{_quoted(envelope.traceparent)}'
    if (saga := envelope.saga) is not None:
        text += (
            f',"ce_saganame":{_quoted(saga.saga)},"ce_sagaid":"{id_text(saga.saga_id)}","ce_sagastep":{_quoted(saga.step)},'
            f'"ce_sagageneration":"{saga.generation}","ce_sagaoperation":"{saga.operation}"'
        )
        if saga.command_id is not None:
            text += f',"ce_sagacommandid":"{id_text(saga.command_id)}"'
        if saga.failures:
            text += f',"ce_sagafailures":{_quoted(" ".join(saga.failures))}'
        if saga.mark is not None:
            text += f',"ce_sagamark":"{saga.mark}"'
    return text + "}"


@lru_cache(maxsize=1024)
def _fixed_headers(source: str, type: str, content_type: str) -> str:
    return (
        f'"ce_specversion":"1.0","ce_source":{_quoted(source)},"ce_type":{_quoted(type)},'
        f'"content-type":{_quoted(content_type)}'
    )


def _row(envelope: Envelope) -> tuple[object, ...]:
    headers = headers_as_text(envelope)
    return envelope.id, envelope.topic, envelope.key, envelope.payload, headers, envelope.time
