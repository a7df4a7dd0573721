"""A consumer in front of a large backlog, and one whose offsets Kafka has forgotten."""

from __future__ import annotations

import json
import logging
import time
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from kafkasaga import Outbox, Service
from kafkasaga.clock import SystemClock
from kafkasaga.kafka import KafkaConsumer
from kafkasaga.kafka.config import CONSUMER_DEFAULTS
from kafkasaga.messages import Message
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.stores import Session, create_store
from tests.contract.kafka_kit import Broker, Member, fill, unique, until
from tests.contract.kafka_kit import Sender as Filler
from tests.support import KafkaServer

pytestmark = pytest.mark.kafka
BODY = 20_000
BACKLOG = 4_000


@pytest.fixture
def real(kafka: KafkaServer) -> Broker:
    return Broker(kafka.bootstrap_servers)


def test_i14_a_consumer_reads_ahead_no_more_than_its_bytes(real: Broker) -> None:
    """Eighty megabytes wait, and the database is slow: one record at a time is taken."""
    topic, held = real.topic(1), [0]

    def on_statistics(text: str) -> None:
        partitions = json.loads(text)["topics"].get(topic, {}).get("partitions", {})
        held.append(partitions.get("0", {}).get("fetchq_size", 0))

    with Filler(real) as filler:
        for _ in range(BACKLOG):
            filler.send(topic, "k", b"x" * BODY)
        assert filler.finish() == [None] * BACKLOG
    settings = Broker(real.bootstrap_servers, {"statistics.interval.ms": 100, "stats_cb": on_statistics})
    with Member(settings, unique("group"), [topic]) as member:

        def rests() -> bool:
            member.consumer.poll(1, 0.1)
            time.sleep(0.02)  # the slow database
            return len(held) > 20 and 0 < max(held[-10:]) <= max(held[:-10])

        until(rests, "a consumer that reads ahead no further")
    queue = int(CONSUMER_DEFAULTS["queued.max.messages.kbytes"]) * 1024
    assert max(held) > queue // 2, "there was enough to read ahead"
    assert max(held) <= queue + int(CONSUMER_DEFAULTS["fetch.max.bytes"]), "one fetch may come on top"
    assert max(held) < BODY * BACKLOG


class Noted:
    """A service that notes what it has handled, on a database that outlives its consumers."""

    def __init__(self, settings: Broker, topic: str) -> None:
        self.settings, self.topic, self.metadata = settings, topic, MetaData()
        self.done = Table("done", self.metadata, Column("n", Integer, primary_key=True), Column("id", String))
        self.service = Service(unique("svc"), outbox=Outbox(self.metadata))
        command = type(
            "Command", (Message,), {"__module__": __name__, "__annotations__": {"id": str}}, topic=topic, key="id"
        )

        def note(command: Message, session: Session) -> None:
            session.execute(insert(self.done).values(id=command.id))  # type: ignore[attr-defined]

        note.__annotations__["command"] = command
        self.service.handler(note)
        self.store = create_store("sqlite://", self.service.outbox.tables)
        self.metadata.create_all(self.store.engine)

    def handled(self) -> list[int]:
        with self.store.engine.connect() as connection:
            return [int(row.id) for row in connection.execute(self.done.select().order_by(self.done.c.n))]

    def run_until(self, count: int) -> None:
        """Another life of the service: until it has handled so many messages in all."""
        service = self.service
        batches = BatchRunner(
            service.name,
            self.store,
            service.router(),
            {},
            Sender(service.name, service.codec, SystemClock()),
            service.parking,
        )
        with closing(KafkaConsumer(self.settings, service.name)) as consumer:
            loop = ConsumerLoop(service.name, consumer, self.store, batches, [self.topic], batch_size=100)
            consumer.subscribe([self.topic], loop._assigned, loop._revoked)
            until(lambda: loop.step(0.1) is not None and len(self.handled()) >= count, f"{count} messages")


def bodies(numbers: range) -> list[bytes]:
    return [b'{"id": "%d"}' % n for n in numbers]


def test_i02_what_is_left_is_read_when_kafka_has_forgotten_the_offsets_and_what_is_gone_is_told(
    real: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that was away for longer than offsets are kept, and then than records are."""
    topic = real.topic(1)
    noted, admin = Noted(real, topic), AdminClient({"bootstrap.servers": real.bootstrap_servers, "log_level": 0})

    def forget_offsets() -> None:
        admin.delete_consumer_groups([noted.service.name])[noted.service.name].result()
        groups = admin.list_consumer_groups().result().valid
        assert noted.service.name not in [group.group_id for group in groups], "the fault was reached"

    fill(real, topic, bodies(range(10)))
    noted.run_until(10)
    forget_offsets()
    fill(real, topic, bodies(range(10, 20)))
    with caplog.at_level(logging.ERROR):
        noted.run_until(20)
    assert noted.handled() == list(range(20)), "by the database it is known where to read on"
    assert "lost" not in caplog.text
    forget_offsets()
    fill(real, topic, bodies(range(20, 25)))
    admin.delete_records([Place(topic, 0, 23)])[Place(topic, 0)].result()
    with caplog.at_level(logging.ERROR):
        noted.run_until(22)
    assert noted.handled() == [*range(20), 23, 24]
    assert f"{topic} partition 0: messages 20 to 22 are lost" in caplog.text
    noted.store.close()
