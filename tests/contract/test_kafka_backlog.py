"""A consumer in front of a large backlog, and one whose offsets Kafka has forgotten."""

from __future__ import annotations

import json
import logging
import time

import pytest
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from kafkasaga.kafka.config import CONSUMER_DEFAULTS
from tests.contract.consumer_kit import Noted, bodies
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
