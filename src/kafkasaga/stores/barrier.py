"""The barrier: what each participant has done for each step of each saga (invariant I9)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierEntry, BarrierKey, Outcome
from kafkasaga.stores.bulk import Sql, insert, types
from kafkasaga.stores.failures import is_taken

_KEY = ("saga_id", "step_path", "generation", "op")
_ENTRY = ("outcome", "reply_topic", "reply_type", "reply_body", "reply_key")


class Barrier:
    """Statements on the barrier."""

    def __init__(self, sql: Sql) -> None:
        barrier = sql.tables.barrier
        key = types(barrier, *_KEY)
        both = types(barrier, *_KEY, *_ENTRY)
        self._table = barrier
        self._read = sql.bulk(_read(lateral=sql.postgresql), key, returns=both)
        self._settle = sql.bulk(insert("barrier", both.keys()), both)
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

    def ask(self, connection: Connection, keys: Collection[BarrierKey]) -> Callable[[], dict[BarrierKey, BarrierEntry]]:
        """The entries of those keys that have one, answered later."""
        wanted: list[BarrierKey] = sorted(keys, key=_order)
        answer = self._read.ask(connection, wanted)
        return lambda: {_key(row): _entry(row[4:]) for row in answer()}

    def settle(self, connection: Connection, entries: Mapping[BarrierKey, BarrierEntry]) -> None:
        """Insert entries, sorted, so that two transactions wait for each other instead of dead-locking."""
        rows = [
            (*key, e.outcome.value, e.reply_topic, e.reply_type, e.reply_body, e.reply_key)
            for key, e in sorted(entries.items(), key=lambda item: _order(item[0]))
        ]
        self._settle.send(connection, rows)

    def refused(self, error: IntegrityError) -> bool:
        """Whether an error says that another transaction has written an entry since it was looked for."""
        return is_taken(error, self._table)


def _read(*, lateral: bool) -> str:
    """Of a join, PostgreSQL may make a scan of the whole table; so it is told to look into the index for each key."""
    same = "t.saga_id = r.saga_id AND t.step_path = r.step_path AND t.generation = r.generation AND t.op = r.op"
    columns = ", ".join(f"t.{name}" for name in (*_KEY, *_ENTRY))
    found = f"SELECT {columns} FROM {{barrier}} AS t"  # noqa: S608 (our own text)
    if lateral:
        # Held until the end, so that nobody forgets what this transaction builds on. Readers do not wait for readers.
        return f"SELECT t.* FROM r, LATERAL ({found} WHERE {same} OFFSET 0 FOR KEY SHARE OF t) AS t"  # noqa: S608 (our own text)
    return f"SELECT {columns} FROM r JOIN {{barrier}} AS t ON {same}"  # noqa: S608 (our own text)


def _order(key: BarrierKey) -> tuple[int, str, int, str]:
    return key.saga_id.int, key.step, key.generation, key.operation  # UUIDs are compared by Python


def _key(row: tuple[Any, ...]) -> BarrierKey:
    saga_id, step, generation, op = row[:4]
    return BarrierKey(saga_id, step, generation, Operation(op))


def _entry(row: tuple[Any, ...]) -> BarrierEntry:
    outcome, topic, type, body, reply_key = row
    return BarrierEntry(Outcome(outcome), topic, type, body, reply_key)
