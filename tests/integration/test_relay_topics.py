"""The relay and real Kafka: a topic that does not exist, and is created later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import MetaData

from kafkasaga.clock import SystemClock
from kafkasaga.kafka import KafkaProducer, Topics
from kafkasaga.messages import Envelope
from kafkasaga.runtime.relay import Relay
from kafkasaga.stores import Tables, create_store
from tests.contract.kafka_kit import Broker, Member, unique, until
from tests.support import KafkaServer


@pytest.mark.kafka
def test_a10_a_topic_that_is_created_later_gets_everything_in_key_order(kafka: KafkaServer) -> None:
    settings = Broker(kafka.bootstrap_servers, {"topic.metadata.propagation.max.ms": "1000"})
    later, alive = unique("later"), settings.topic()
    tables = Tables(MetaData())
    store = create_store("sqlite://", tables)
    tables.metadata.create_all(store.engine)
    now = datetime.now(UTC)
    with store.begin() as uow:
        uow.add_outbox([Envelope(later, f"k{n % 300}", uuid4(), "t", "T", now, b"%d" % n) for n in range(900)])
        uow.add_outbox([Envelope(alive, f"k{n}", uuid4(), "t", "T", now, b"%d" % n) for n in range(50)])
    relay = Relay(store.relay_queue(), lambda: KafkaProducer(settings), SystemClock(), poll_interval=0.02, window=400)

    def stepped(condition: Callable[[], object]) -> None:
        def done() -> object:
            relay.step()
            return condition()

        until(done, "the relay's work", 60)

    queries = store.queries()
    stepped(lambda: queries.counts().outbox == 900)
    stepped(lambda: queries.counts().blocked == 1)
    Topics(settings).create([later], partitions=3)
    stepped(lambda: queries.counts().outbox == 0)
    assert queries.counts().blocked == 0
    with Member(settings, unique("g"), [later]) as member:
        records = member.read(900)
    for k in range(300):
        seen = [int(record.value or b"") for record in records if record.key == f"k{k}".encode()]
        assert list(dict.fromkeys(seen)) == [k, k + 300, k + 600]
    relay._queue.close()
    store.close()
