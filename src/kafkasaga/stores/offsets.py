"""Where each consumer group reads on: written in the transaction of the batch (invariant I5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy import Connection

from kafkasaga.ports import Progress, TopicPartition
from kafkasaga.stores.bulk import Sql, types


class Offsets:
    """Statements on consumer offsets."""

    def __init__(self, sql: Sql) -> None:
        table = sql.tables.consumer_offset
        # A member that was away can commit an old batch after its partition has moved: that must not take back what
        # the new owner has read, or whoever waits for the end of the partition waits for ever.
        self._advance = sql.bulk(
            """INSERT INTO {consumer_offset} AS t (consumer, topic, "partition", "next")
            SELECT consumer, topic, "partition", "next" FROM r WHERE true
            ON CONFLICT (consumer, topic, "partition") DO UPDATE SET "next" = excluded."next"
            WHERE t."next" IS NULL OR t."next" < excluded."next" """,
            types(table, "consumer", "topic", "partition", "next"),
        )
        self._rewind = sql.bulk(
            """UPDATE {consumer_offset} AS t SET "next" = r."next", suspect_offset = NULL, suspect_attempts = 0 FROM r
            WHERE t.consumer = r.consumer AND t.topic = r.topic AND t."partition" = r."partition" """,
            types(table, "consumer", "topic", "partition", "next"),
        )
        self._read = sql.bulk(
            """SELECT t.topic, t."partition", t."next" FROM r JOIN {consumer_offset} AS t
            ON t.consumer = r.consumer AND t.topic = r.topic AND t."partition" = r."partition"
            WHERE t."next" IS NOT NULL""",
            types(table, "consumer", "topic", "partition"),
            returns=types(table, "topic", "partition", "next"),
        )
        owned = types(table, "consumer", "topic", "partition", "owner")
        self._progress = sql.bulk(
            """SELECT t.topic, t."partition", t."next", t.owner, t.suspect_offset, t.suspect_attempts
            FROM r JOIN {consumer_offset} AS t
            ON t.consumer = r.consumer AND t.topic = r.topic AND t."partition" = r."partition" {for_update}""",
            types(table, "consumer", "topic", "partition"),
            returns=types(table, "topic", "partition", "next", "owner", "suspect_offset", "suspect_attempts"),
        )
        self._own = sql.bulk(
            """INSERT INTO {consumer_offset} (consumer, topic, "partition", owner)
            SELECT consumer, topic, "partition", owner FROM r WHERE true
            ON CONFLICT (consumer, topic, "partition") DO UPDATE SET owner = excluded.owner""",
            owned,
        )
        self._give_up = sql.bulk(
            """UPDATE {consumer_offset} AS t SET owner = NULL FROM r WHERE t.consumer = r.consumer
            AND t.topic = r.topic AND t."partition" = r."partition" AND t.owner = r.owner""",
            owned,
        )
        # No attempt: a batch is tried, which ends before the offset.
        self._note_batch = sql.bulk(
            """INSERT INTO {consumer_offset} AS t (consumer, topic, "partition", suspect_offset, suspect_attempts)
            SELECT consumer, topic, "partition", suspect_offset, 0 FROM r WHERE true
            ON CONFLICT (consumer, topic, "partition") DO UPDATE SET
            suspect_offset = excluded.suspect_offset, suspect_attempts = 0""",
            types(table, "consumer", "topic", "partition", "suspect_offset"),
        )
        self._note = sql.bulk(
            """INSERT INTO {consumer_offset} AS t (consumer, topic, "partition", suspect_offset, suspect_attempts)
            SELECT consumer, topic, "partition", suspect_offset, 1 FROM r WHERE true
            ON CONFLICT (consumer, topic, "partition") DO UPDATE SET
            suspect_attempts = CASE WHEN t.suspect_offset = excluded.suspect_offset
            THEN t.suspect_attempts + 1 ELSE 1 END, suspect_offset = excluded.suspect_offset
            RETURNING suspect_attempts""",
            types(table, "consumer", "topic", "partition", "suspect_offset"),
            returns=types(table, "suspect_attempts"),
        )

    def advance(self, connection: Connection, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Remember the next offset of each partition, unless it is further already."""
        self._advance.send(connection, [(group, *place, offset) for place, offset in sorted(positions.items())])

    def rewind(self, connection: Connection, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Go back to these offsets, and suspect none of those that were noted."""
        self._rewind.count(connection, [(group, *place, offset) for place, offset in sorted(positions.items())])

    def read(
        self, connection: Connection, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """The next offset of each partition that was ever read."""
        found = self._read.rows(connection, [(group, *place) for place in sorted(set(partitions))])
        return {TopicPartition(topic, partition): offset for topic, partition, offset in found}

    def take_over(
        self, connection: Connection, group: str, owner: UUID, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, Progress]:
        """Note the new owner; what the partitions were before. An owner that is still there did not give them up."""
        places = sorted(set(partitions))
        found = {
            TopicPartition(topic, partition): Progress.of(offset, *suspect, given_up=before is None or before == owner)
            for topic, partition, offset, before, *suspect in self._progress.rows(
                connection, [(group, *p) for p in places]
            )
        }
        self._own.count(connection, [(group, *place, owner) for place in places])
        return found

    def give_up(self, connection: Connection, group: str, owner: UUID, partitions: Collection[TopicPartition]) -> None:
        """Forget the owner, unless it is another one by now."""
        self._give_up.count(connection, [(group, *place, owner) for place in sorted(set(partitions))])

    def note_batch(self, connection: Connection, group: str, ends: Mapping[TopicPartition, int]) -> None:
        """Note where the batch that is to be tried ends in each partition."""
        self._note_batch.count(connection, [(group, *place, end) for place, end in sorted(ends.items())])

    def note_attempt(self, connection: Connection, group: str, place: TopicPartition, offset: int) -> int:
        """Count an attempt at what is read next; returns how many there were."""
        (attempts,) = self._note.rows(connection, [(group, *place, offset)])[0]
        return int(attempts)
