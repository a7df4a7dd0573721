"""The inbox: which messages each consumer has handled (invariant I3)."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from kafkasaga.ports import InboxKey
from kafkasaga.stores.bulk import Sql, types


class Inbox:
    """Statements on the inbox."""

    def __init__(self, sql: Sql) -> None:
        key = types(sql.tables.inbox, *InboxKey._fields)
        self._claim = sql.bulk(
            """INSERT INTO {inbox} (consumer, source, message_id)
            SELECT consumer, source, message_id FROM r WHERE true
            ON CONFLICT DO NOTHING RETURNING consumer, source, message_id""",
            key,
            returns=key,
        )

    def claim(self, connection: Connection, keys: Collection[InboxKey]) -> set[InboxKey]:
        """Insert the keys; return those that were not there.

        Sorted, so that two batches that share keys wait for each other instead of dead-locking.
        """
        return {InboxKey(*row) for row in self._claim.rows(connection, sorted(set(keys)))}
