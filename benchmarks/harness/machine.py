"""PostgreSQL and Kafka for a run: started here, durable, and gone afterwards."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.harness.warmth import PARTITIONS, TOPIC, warm
from tests.support import KafkaServer, PostgresServer

DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",  # otherwise checkpoints fall into some rounds and not into others
    "checkpoint_timeout": "30min",
}
TRIES = 60
"""Of a question that Kafka cannot answer at the moment, half a second apart."""
KAFKA = {
    "transaction.max.timeout.ms": "900000",
    "log.retention.hours": "24",
    "message.max.bytes": "4194304",
    "log.segment.bytes": "268435456",
    "broker.session.timeout.ms": "60000",  # nobody kills it here, and a busy machine must not have it thrown out
}


@dataclass
class Machine:
    """The servers, and what every workload asks of them."""

    postgres: PostgresServer
    kafka: KafkaServer
    folder: Path
    """For the logs of the processes."""
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _topics: set[str] = field(default_factory=set[str])

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka.bootstrap_servers

    @contextmanager
    def database(self, name: str = "bench") -> Generator[str]:
        """A new database for one run; its SQLAlchemy URL."""
        url = self.postgres.create_database(f"{name}_{next(self._numbers)}")
        try:
            yield url
        finally:
            self.postgres.drop_database(url)

    def settle(self) -> None:
        """Write out what earlier runs left dirty, so that no run pays for another."""
        with connect(self.postgres.url()) as connection:
            connection.execute("CHECKPOINT")

    def topics(self, *names: str, partitions: int = 6) -> None:
        """Make sure that they exist. Runs share them: each begins at the end of what is there."""
        new = [name for name in names if name not in self._topics]
        if new:
            self.kafka.create_topics(new, partitions=partitions)
            self._topics |= set(new)
            self.ends(*new)  # once they have leaders

    def ends(self, *topics: str) -> dict[tuple[str, int], int]:
        """The end of every partition of these topics."""
        consumer = self.observer()
        try:
            return read_ends(consumer, topics)
        finally:
            consumer.close()

    def members(self, group: str) -> int:
        """How many members of a settled consumer group have partitions; 0 while it is not settled."""
        admin: Any = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 3})
        found = admin.describe_consumer_groups([group])[group].result(10)
        settled = found.state == ConsumerGroupState.STABLE
        return sum(bool(member.assignment.topic_partitions) for member in found.members) if settled else 0

    def observer(self) -> Consumer:
        """A consumer that reads what the workloads wrote, and commits nothing."""
        settings = {
            "bootstrap.servers": self.bootstrap_servers,
            "group.id": "bench-observer",
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",  # to see where a load ends that is written but not yet published
            "fetch.wait.max.ms": 20,
            "log_level": 3,
        }
        return Consumer(settings)

    def settings(self) -> SimpleNamespace:
        """What ``kafkasaga.kafka`` takes for settings."""
        return SimpleNamespace(bootstrap_servers=self.bootstrap_servers, kafka={}, instance_id=None)


def read_ends(consumer: Consumer, topics: tuple[str, ...]) -> dict[tuple[str, int], int]:
    ends: dict[tuple[str, int], int] = {}
    for topic in topics:
        for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            ends[topic, number] = _end(consumer, TopicPartition(topic, number))
    return ends


def _end(consumer: Consumer, place: TopicPartition) -> int:
    """On a crowded machine the broker may be taken for dead for a moment, and lead nothing until it is seen again."""
    for _ in range(TRIES):
        with suppress(KafkaException):
            return consumer.get_watermark_offsets(place, timeout=10)[1]
        time.sleep(0.5)
    return consumer.get_watermark_offsets(place, timeout=10)[1]


def read_from(
    consumer: Consumer, starts: dict[tuple[str, int], int], ends: dict[tuple[str, int], int]
) -> Iterator[Message]:
    """Every record between two sets of offsets, partition by partition in order."""
    left = {place: ends[place] for place in starts if ends[place] > starts[place]}
    consumer.assign([TopicPartition(*place, starts[place]) for place in left])
    while left:
        for message in consumer.consume(5000, 0.5):
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (librdkafka's own name)
                    continue
                raise KafkaException(error)
            yield message
        positions = consumer.position([TopicPartition(*place) for place in left])
        for place in positions:
            if place.offset >= left[place.topic, place.partition]:
                del left[place.topic, place.partition]
    with suppress(KafkaException):
        consumer.unassign()


@contextmanager
def machine(folder: Path, *, decoding: bool = False) -> Generator[Machine]:
    """Both servers, the broker warm; with logical decoding for everybody if somebody needs it. They end with it."""
    settings = {**DURABLE, "wal_level": "logical" if decoding else "replica"}
    with PostgresServer(fsync=True, settings=settings) as postgres, KafkaServer(settings=KAFKA, heap="1g") as kafka:
        kafka.create_topics([TOPIC], partitions=PARTITIONS)
        warm(kafka.bootstrap_servers)
        yield Machine(postgres, kafka, folder)


def connect(url: str) -> psycopg.Connection:
    """A plain connection that commits each statement, from a SQLAlchemy URL."""
    return psycopg.connect(dsn(url), autocommit=True)


def dsn(url: str) -> str:
    """A SQLAlchemy URL as libpq writes it."""
    return url.replace("postgresql+psycopg://", "postgresql://")
