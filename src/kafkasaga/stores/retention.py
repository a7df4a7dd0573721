"""Forgetting what is old (A35): in small pieces, waiting for nobody, by any number of processes at once.

Each piece first locks the rows it will delete, and leaves out those that somebody else holds. A transaction that waits
for no lock is part of no dead-lock. A plain ``DELETE … WHERE ended_at < …`` takes locks in the order in which it
finds rows, and dead-locks with a batch that locks sagas in the order of their ids, or with another one of its kind.

What belongs together goes together: all of a saga's barrier, all incarnations of a key. A piece takes such a group only
if it holds every row of it, so no limit and no lock of somebody else cuts through one.

Everything has one clock, the database's: it says what time it is, and it stamped every row that is deleted by its age.
A process whose clock leaps can make nothing look old (invariant I12).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from kafkasaga.ports import Prunable
from kafkasaga.saga.instance import forgotten, from_snapshot, to_snapshot
from kafkasaga.stores.bulk import Sql, types

# A message that is parked is tried again, maybe by hand; until then its copies must be recognised.
_INBOX: Final = """t.claimed_at <= {cut}
    AND NOT EXISTS (SELECT 1 FROM {parked_message} AS p WHERE p.message_id = t.message_id AND p.source = t.source)"""
# Were an action's row forgotten before that of its compensation, it would run when it came again, and hang (A2); were
# the compensation's forgotten first, it would run twice.
_OLD_BARRIER: Final = """t.claimed_at <= {cut}
    AND NOT EXISTS (SELECT 1 FROM {barrier} AS o WHERE o.saga_id = t.saga_id AND o.claimed_at > {cut})
    AND NOT EXISTS (SELECT 1 FROM {parked_message} AS p WHERE p.saga_id = t.saga_id)
    AND NOT EXISTS (SELECT 1 FROM {saga} AS s WHERE s.saga_id = t.saga_id AND s.ended_at IS NULL)"""
_BARRIER: Final = """WITH old AS (SELECT t.saga_id FROM {barrier} AS t WHERE {old} LIMIT :limit),
    held AS (SELECT t.{place} AS place, t.saga_id FROM {barrier} AS t
        WHERE t.saga_id IN (SELECT saga_id FROM old) {skip_locked}),
    whole AS (SELECT h.saga_id FROM held AS h GROUP BY h.saga_id
        HAVING count(*) = (SELECT count(*) FROM {barrier} AS o WHERE o.saga_id = h.saga_id))
    SELECT held.place FROM held WHERE held.saga_id IN (SELECT saga_id FROM whole)"""
_DEAD_LETTERS: Final = "t.status = 'dead-letter' AND t.dead_at <= {cut}"
_SAGAS: Final = """SELECT t.saga_id, t.snapshot FROM {saga} AS t WHERE t.logged_since <= {cut}
    ORDER BY t.logged_since LIMIT :limit {skip_locked}"""
# Were a key's newest incarnation gone, a message by its key would be taken for an older one's. And a saga that begins
# under a key that was used before has the ids of the old one: whatever this database remembers of that must be gone.
# A participant may have carried out its last command after it had ended, and remembers that from then on. Its reply
# says so: hence a key is as old as the last message for it.
_OLD_KEYS: Final = """t.ended_at <= {cut} AND t.heard_at <= {cut}
    AND NOT EXISTS (SELECT 1 FROM {saga} AS o
        WHERE o.name = t.name AND o.key = t.key AND (o.heard_at IS NULL OR o.heard_at > {cut} OR EXISTS (
            SELECT 1 FROM {barrier} AS b WHERE b.saga_id = o.saga_id)))"""
_KEYS: Final = """WITH old AS (SELECT t.name, t.key FROM {saga} AS t WHERE {old} ORDER BY t.ended_at LIMIT :limit),
    held AS (SELECT t.saga_id, t.name, t.key FROM {saga} AS t
        WHERE (t.name, t.key) IN (SELECT name, key FROM old) {skip_locked}),
    whole AS (SELECT h.name, h.key FROM held AS h GROUP BY h.name, h.key
        HAVING count(*) = (SELECT count(*) FROM {saga} AS o WHERE o.name = h.name AND o.key = h.key))
    SELECT held.saga_id FROM held WHERE (held.name, held.key) IN (SELECT name, key FROM whole)"""


class Retention:
    """Statements that forget."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        saga = sql.tables.saga
        id = types(saga, "saga_id")
        self._old_sagas, self._old_keys = self._text(_SAGAS), self._text(_KEYS.replace("{old}", _OLD_KEYS))
        self._delete_logs = sql.bulk("DELETE FROM {saga_log} WHERE saga_id IN (SELECT r.saga_id FROM r)", id)
        self._delete_sagas = sql.bulk("DELETE FROM {saga} WHERE saga_id IN (SELECT r.saga_id FROM r)", id)
        self._strip = sql.bulk(
            """UPDATE {saga} AS t SET snapshot = r.snapshot, pruned_at = r.pruned_at, logged_since = NULL FROM r
            WHERE t.saga_id = r.saga_id""",
            types(saga, "saga_id", "snapshot", "pruned_at"),
        )
        inbox, letters = self._delete_old("inbox", _INBOX), self._delete_old("parked_message", _DEAD_LETTERS)
        barrier = self._delete("barrier", _BARRIER.replace("{old}", _OLD_BARRIER))
        self._pruners: Final[dict[Prunable, Callable[[Connection, dict[str, Any]], int]]] = {
            Prunable.INBOX: lambda connection, given: connection.execute(inbox, given).rowcount,
            Prunable.BARRIER: lambda connection, given: connection.execute(barrier, given).rowcount,
            Prunable.DEAD_LETTERS: lambda connection, given: connection.execute(letters, given).rowcount,
            Prunable.SAGAS: self._sagas,
            Prunable.SAGA_KEYS: self._keys,
        }

    def prune(self, connection: Connection, what: Prunable, keep: timedelta, limit: int) -> int:
        """Forget about ``limit`` of what is older than ``keep``; how many rows that were."""
        return self._pruners[what](connection, {"keep": keep.total_seconds(), "limit": limit})

    def _sagas(self, connection: Connection, given: dict[str, Any]) -> int:
        found = [(_uuid(id), snapshot) for id, snapshot in connection.execute(self._old_sagas, given)]
        now = datetime.now(UTC)  # for people to read; nothing is decided by it
        left = sorted((id, to_snapshot(forgotten(from_snapshot(snapshot))), now) for id, snapshot in found)
        self._strip.count(connection, left)
        self._delete_logs.count(connection, [(id,) for id, _, _ in left])
        return len(found)

    def _keys(self, connection: Connection, given: dict[str, Any]) -> int:
        ids = _sorted([_uuid(id) for (id,) in connection.execute(self._old_keys, given)])
        self._delete_logs.count(connection, ids)
        self._delete_sagas.count(connection, ids)
        return len(ids)

    def _delete_old(self, table: str, old: str) -> TextClause:
        rows = f"SELECT t.{{place}} FROM {{{table}}} AS t WHERE {old} LIMIT :limit {{skip_locked}}"  # noqa: S608 (ours)
        return self._delete(table, rows)

    def _delete(self, table: str, rows: str) -> TextClause:
        """Deletes rows by where they lie: locked rows do not move."""
        place, among = ("ctid", "= ANY(ARRAY({}))") if self._sql.postgresql else ("rowid", "IN ({})")
        places = among.replace("{}", rows.replace("{place}", place))
        return self._text(f"DELETE FROM {{{table}}} WHERE {place} {places}")  # noqa: S608 (our own text)

    def _text(self, statement: str) -> TextClause:
        if self._sql.postgresql:
            cut = "CURRENT_TIMESTAMP - make_interval(secs => :keep)"
        else:
            cut = "datetime('now', '-' || :keep || ' seconds')"
        return text(self._sql.named(statement.replace("{cut}", cut)))


def _sorted(ids: Sequence[UUID]) -> list[tuple[UUID]]:
    return [(id,) for id in sorted(ids)]


def _uuid(value: Any) -> UUID:
    """PostgreSQL's driver gives a UUID, SQLite's its 32 digits."""
    return value if isinstance(value, UUID) else UUID(value)
