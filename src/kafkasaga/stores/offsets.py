"""Where each consumer group reads on: written in the transaction of the batch (invariant I5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection

from kafkasaga.ports import TopicPartition
from kafkasaga.stores.bulk import Sql, types


class Offsets:
    """Statements on consumer offsets."""

    def __init__(self, sql: Sql) -> None:
        table = sql.tables.consumer_offset
        # The last writer wins, even with a lower offset: a topic that was made anew begins at 0 again, and reading a
        # message twice is harmless (the inbox knows it), leaving one out is not.
        self._advance = sql.bulk(
            """INSERT INTO {consumer_offset} (consumer, topic, "partition", "next")
            SELECT consumer, topic, "partition", "next" FROM r WHERE true
            ON CONFLICT (consumer, topic, "partition") DO UPDATE SET "next" = excluded."next" """,
            types(table, "consumer", "topic", "partition", "next"),
        )
        self._read = sql.bulk(
            """SELECT t.topic, t."partition", t."next" FROM r JOIN {consumer_offset} AS t
            ON t.consumer = r.consumer AND t.topic = r.topic AND t."partition" = r."partition" """,
            types(table, "consumer", "topic", "partition"),
            returns=types(table, "topic", "partition", "next"),
        )

    def advance(self, connection: Connection, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Remember the next offset of each partition."""
        self._advance.count(connection, [(group, *place, offset) for place, offset in sorted(positions.items())])

    def read(
        self, connection: Connection, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """The next offset of each partition that was ever read."""
        found = self._read.rows(connection, [(group, *place) for place in sorted(set(partitions))])
        return {TopicPartition(topic, partition): offset for topic, partition, offset in found}
