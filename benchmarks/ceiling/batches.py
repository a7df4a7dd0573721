"""Reading batches by hand: what is there is taken, offsets lie in the database, at most ``LIMIT`` messages at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from benchmarks.ceiling.connections import consumer

OFFSETS = """
CREATE TABLE consumer_offset (
    consumer text, topic text, partition int, next bigint NOT NULL, PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 50)
"""
MOVE_OFFSETS = """
    moved AS (
        INSERT INTO consumer_offset (consumer, topic, partition, next)
        SELECT %(consumer)s, t, p, n
        FROM unnest(string_to_array(%(topics)s, ','), %(partitions)s::int[], %(nexts)s::bigint[]) AS o(t, p, n)
        ON CONFLICT (consumer, topic, partition) DO UPDATE SET next = excluded.next
    )
"""
LIMIT = 500
POLL_SECONDS = 0.2


class Batches:
    """Batches of one consumer group, beginning where the database says."""

    def __init__(self, bootstrap_servers: str, group: str, topics: list[str], database: psycopg.Connection) -> None:
        self._group, self._database = group, database
        self._consumer: Consumer = consumer(bootstrap_servers, group)
        self._consumer.subscribe(topics, on_assign=self._on_assign)

    def read(self, stopping: threading.Event, *, limit: int = LIMIT) -> Iterator[list[Message]]:
        """Every batch; one that is asked for after it has been committed."""
        while not stopping.is_set():
            first = self._consumer.poll(POLL_SECONDS)
            if first is None:
                continue
            batch = [first, *self._consumer.consume(limit - 1, 0)]
            if broken := next((m.error() for m in batch if m.error()), None):
                raise KafkaException(broken)
            yield batch
            for message in _last_of_each(batch).values():
                self._consumer.store_offsets(message)
        self._consumer.close()

    def positions(self, batch: list[Message]) -> dict[str, str]:
        """The parameters of ``MOVE_OFFSETS``."""
        last = _last_of_each(batch)
        return {
            "consumer": self._group,
            "topics": ",".join(topic for topic, _ in last),
            "partitions": "{" + ",".join(str(partition) for _, partition in last) + "}",
            "nexts": "{" + ",".join(str((message.offset() or 0) + 1) for message in last.values()) + "}",
        }

    def _on_assign(self, reader: Consumer, places: list[TopicPartition]) -> None:
        query = "SELECT next FROM consumer_offset WHERE consumer = %s AND topic = %s AND partition = %s"
        for place in places:
            known = self._database.execute(query, (self._group, place.topic, place.partition)).fetchone()
            if known is not None:
                place.offset = known[0]
        reader.assign(places)


def headers_of(message: Message[Any, Any]) -> dict[str, bytes]:
    """The stub also allows what is only ever written."""
    return dict(cast("list[tuple[str, bytes]]", message.headers() or []))


def _last_of_each(batch: list[Message]) -> dict[tuple[str, int], Message]:
    return {(message.topic() or "", message.partition() or 0): message for message in batch}
