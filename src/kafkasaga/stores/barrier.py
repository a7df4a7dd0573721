"""The barrier: what each participant has done for each step of each saga (invariant I9)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection

from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierEntry, BarrierKey, Outcome
from kafkasaga.stores.bulk import Sql, types

_KEY = ("saga_id", "step_path", "generation", "op")
_ENTRY = ("outcome", "reply_topic", "reply_type", "reply_body", "reply_key")


class Barrier:
    """Statements on the barrier."""

    def __init__(self, sql: Sql) -> None:
        barrier = sql.tables.barrier
        key = types(barrier, *_KEY)
        both = types(barrier, *_KEY, *_ENTRY)
        self._claim = sql.bulk(
            """INSERT INTO {barrier} (saga_id, step_path, generation, op)
            SELECT saga_id, step_path, generation, op FROM r WHERE true
            ON CONFLICT DO NOTHING RETURNING saga_id, step_path, generation, op""",
            key,
            returns=key,
        )
        # Held until the end, so that nobody forgets what this transaction builds on. Readers do not wait for readers.
        held = "FOR KEY SHARE OF t" if sql.postgresql else ""
        self._read = sql.bulk(
            f"""SELECT t.saga_id, t.step_path, t.generation, t.op,
            t.outcome, t.reply_topic, t.reply_type, t.reply_body, t.reply_key FROM r JOIN {{barrier}} AS t
            ON t.saga_id = r.saga_id AND t.step_path = r.step_path AND t.generation = r.generation AND t.op = r.op
            {held}""",  # noqa: S608 (our own text)
            key,
            returns=both,
        )
        self._settle = sql.bulk(
            """UPDATE {barrier} AS t SET outcome = r.outcome, reply_topic = r.reply_topic,
            reply_type = r.reply_type, reply_body = r.reply_body, reply_key = r.reply_key FROM r
            WHERE t.saga_id = r.saga_id AND t.step_path = r.step_path
            AND t.generation = r.generation AND t.op = r.op""",
            both,
        )

        self._done = sql.bulk(
            """SELECT t.saga_id, t.step_path, t.generation, t.op FROM r JOIN {barrier} AS t
            ON t.saga_id = r.saga_id AND t.step_path = r.step_path AND t.generation = r.generation AND t.op = r.op
            WHERE t.outcome = 'done'""",
            key,
            returns=key,
        )

    def carried_out(self, connection: Connection, keys: Collection[BarrierKey]) -> set[BarrierKey]:
        """Those whose handlers have run."""
        return {_key(row) for row in self._done.rows(connection, sorted(keys))}

    def claim(self, connection: Connection, keys: Collection[BarrierKey]) -> dict[BarrierKey, BarrierEntry]:
        """Insert the keys, sorted (no dead-locks); return the entries of those that were there.

        The insert has waited for transactions that held a key. What they left is read by a second statement, since
        under READ COMMITTED only that one sees it. What was there at the first and is not at the second was just
        forgotten, because of its age: then it is claimed like any other.
        """
        wanted, found = sorted(set(keys)), dict[BarrierKey, BarrierEntry]()
        while wanted:
            claimed = {_key(row) for row in self._claim.rows(connection, wanted)}
            taken = [key for key in wanted if key not in claimed]
            found |= {_key(row): _entry(_key(row), row[4:]) for row in self._read.rows(connection, taken)}
            wanted = [key for key in taken if key not in found]
        return found

    def settle(self, connection: Connection, entries: Mapping[BarrierKey, BarrierEntry]) -> None:
        """Write what became of claimed keys."""
        self._settle.count(
            connection,
            [
                (*key, e.outcome.value, e.reply_topic, e.reply_type, e.reply_body, e.reply_key)
                for key, e in sorted(entries.items(), key=lambda item: item[0])
            ],
        )


def _key(row: tuple[Any, ...]) -> BarrierKey:
    saga_id, step, generation, op = row[:4]
    return BarrierKey(saga_id, step, generation, Operation(op))


def _entry(key: BarrierKey, row: tuple[Any, ...]) -> BarrierEntry:
    outcome, topic, type, body, reply_key = row
    if outcome is None:
        raise RuntimeError(f"{key} was claimed and not settled in its transaction")
    return BarrierEntry(Outcome(outcome), topic, type, body, reply_key)
