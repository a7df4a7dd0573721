"""Parked commands of sagas: replaced when they are sent again, dropped when their step was undone first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import Connection

from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierKey, InboxKey, Parked, ParkedKey
from kafkasaga.stores.bulk import Sql, types
from kafkasaga.stores.parked import parked_row

_ASKED: Final = ("saga_id", "step_path", "generation", "op")
_LANE: Final = ParkedKey._fields
_RECORD: Final = ("kafka_partition", "kafka_offset", "value", "headers", "message_id", "source")
"""What a command that was sent again brings; all else stays its predecessor's."""


class ParkedCommands:
    """Statements on parked messages by what a saga asks for.

    None of them waits: whoever tries a message holds its row and may be waiting for our claim of the barrier.
    """

    def __init__(self, sql: Sql) -> None:
        table = sql.tables.parked_message
        asked = types(table, *_ASKED)
        same = f"{_same('t', _LANE)} AND {_same('t', _ASKED)} AND t.status != 'dead-letter'"
        new = {f"new_{name}": type for name, type in types(table, *_RECORD).items()}
        self._replace = sql.bulk(
            f"""UPDATE {{parked_message}} AS p SET {", ".join(f"{name} = r.new_{name}" for name in _RECORD)} FROM r
            WHERE {_same("p", _LANE)} AND {_same("p", _ASKED)}
            AND p.id IN (SELECT t.id FROM r JOIN {{parked_message}} AS t ON {same} {{skip_locked}})
            RETURNING source, message_id""",  # noqa: S608 (our own text)
            types(table, *_LANE, *_ASKED, **new),
            returns=types(table, "source", "message_id"),
        )
        self._drop = sql.bulk(
            f"""DELETE FROM {{parked_message}} WHERE id IN (
                SELECT t.id FROM r JOIN {{parked_message}} AS t ON {_same("t", _ASKED)}
                WHERE t.status != 'dead-letter' {{skip_locked}}
            ) RETURNING {", ".join((*_LANE, *_ASKED))}""",  # noqa: S608 (our own text)
            asked,
            returns=types(table, *_LANE, *_ASKED),
        )
        self._promote = sql.bulk(
            f"""UPDATE {{parked_message}} AS p SET next_at = p.parked_at
            WHERE p.status = 'waiting' AND p.next_at IS NULL AND p.id IN (
                SELECT min(t.id) FROM r JOIN {{parked_message}} AS t ON {_same("t", _LANE)}
                WHERE t.status != 'dead-letter' GROUP BY t.consumer, t.topic, t.key
            )""",  # noqa: S608 (our own text)
            types(table, *_LANE),
        )

    def replace(self, connection: Connection, messages: Sequence[Parked]) -> set[InboxKey]:
        """Put commands in the places of parked ones of their lane that ask the same; those that had one."""
        rows = [parked_row(message) for message in messages]
        wanted = [tuple(row[name] for name in (*_LANE, *_ASKED, *_RECORD)) for row in rows]
        found = {(source, id) for source, id in self._replace.rows(connection, wanted)}
        keys = {InboxKey(message.consumer, message.source, message.message_id) for message in messages}
        return {key for key in keys if (key.source, key.message_id) in found}

    def drop(self, connection: Connection, actions: Collection[BarrierKey]) -> list[tuple[ParkedKey, BarrierKey]]:
        """Delete the commands that ask for these; the next of each lane becomes due. What is gone."""
        gone: list[tuple[ParkedKey, BarrierKey]] = []
        for consumer, topic, key, saga_id, step, generation, op in self._drop.rows(connection, sorted(actions)):
            lane = ParkedKey(consumer, topic, key or b"")
            gone.append((lane, BarrierKey(saga_id, step, generation, Operation(op))))
        self._promote.count(connection, sorted({lane for lane, _ in gone}))
        return gone


def _same(alias: str, columns: Sequence[str]) -> str:
    return " AND ".join(f"{alias}.{name} = r.{name}" for name in columns)
