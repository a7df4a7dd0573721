"""The inbox: which messages each consumer has handled (invariant I3).

Nearly every message is new. So keys are inserted in the hope that all are, and where one was there, which its primary
key says, they are claimed once more in the way that tells which. After that there may be more of them (a replay, a
consumer that has died), and for a while nobody hopes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from kafkasaga.ports import InboxKey
from kafkasaga.stores.bulk import Sql, insert, types
from kafkasaga.stores.failures import is_taken

Fresh = Callable[[], set[InboxKey]]
"""The keys that were not there, once that is known."""
WITHOUT_HOPE: Final = 100
"""Claims, after one that met a key that was there."""


class Inbox:
    """Statements on the inbox."""

    def __init__(self, sql: Sql) -> None:
        key = types(sql.tables.inbox, *InboxKey._fields)
        inserted = """INSERT INTO {inbox} (consumer, source, message_id)
            SELECT consumer, source, message_id FROM r WHERE true
            ON CONFLICT DO NOTHING RETURNING consumer, source, message_id"""
        # Nearly every message is new. PostgreSQL tells the others apart; SQLite has no INSERT inside a statement.
        self._tells_known = sql.postgresql
        if self._tells_known:
            inserted = f""", inserted AS ({inserted}) SELECT consumer, source, message_id FROM r
            EXCEPT ALL SELECT consumer, source, message_id FROM inserted"""  # noqa: S608 (our own text)
        self._claim = sql.bulk(inserted, key, returns=key)
        self._insert = sql.bulk(insert("inbox", key), key)
        self._table = sql.tables.inbox
        self._without_hope = 0 if sql.past_sqlalchemy else None
        """How many claims more; None where a refused one cannot be made again in one round trip."""

    def claim(self, connection: Connection, keys: Collection[InboxKey]) -> set[InboxKey]:
        """Insert the keys; return those that were not there."""
        return self.ask(connection, keys)()

    def hope(self) -> bool:
        """Whether to hope that all keys of the next claim are new."""
        if self._without_hope:
            self._without_hope -= 1
        return self._without_hope == 0

    def insert(self, connection: Connection, keys: Collection[InboxKey]) -> Fresh:
        """Insert keys, all of them new."""
        wanted = set(keys)
        self._insert.send(connection, _in_order(wanted))
        return lambda: wanted

    def refused(self, error: IntegrityError) -> bool:
        """Whether an error says that a key was there."""
        was_there = is_taken(error, self._table)
        if was_there:
            self._without_hope = WITHOUT_HOPE
        return was_there

    def ask(self, connection: Connection, keys: Collection[InboxKey]) -> Fresh:
        """The same, answered later."""
        wanted = set(keys)
        answer = self._claim.ask(connection, _in_order(wanted))

        def fresh() -> set[InboxKey]:
            found = {InboxKey(*row) for row in answer()}
            return wanted - found if self._tells_known else found

        return fresh


def _in_order(keys: Collection[InboxKey]) -> list[InboxKey]:
    """So that two batches that share keys wait for each other instead of deadlocking."""
    return sorted(keys, key=_order)


def _order(key: InboxKey) -> tuple[str, str, int]:
    return key.consumer, key.source, key.message_id.int  # UUIDs are compared by Python
