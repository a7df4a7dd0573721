"""The inbox: which messages each consumer has handled (invariant I3)."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import Connection

from kafkasaga.ports import InboxKey
from kafkasaga.stores.bulk import Sql, types


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

    def claim(self, connection: Connection, keys: Collection[InboxKey]) -> set[InboxKey]:
        """Insert the keys; return those that were not there."""
        return self.ask(connection, keys)()

    def ask(self, connection: Connection, keys: Collection[InboxKey]) -> Callable[[], set[InboxKey]]:
        """The same, answered later.

        Sorted, so that two batches that share keys wait for each other instead of dead-locking.
        """
        wanted = set(keys)
        ordered: list[InboxKey] = sorted(wanted, key=_order)
        answer = self._claim.ask(connection, ordered)

        def fresh() -> set[InboxKey]:
            found = {InboxKey(*row) for row in answer()}
            return wanted - found if self._tells_known else found

        return fresh


def _order(key: InboxKey) -> tuple[str, str, int]:
    return key.consumer, key.source, key.message_id.int  # UUIDs are compared by Python
