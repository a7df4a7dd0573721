"""The relay and a broker: hot keys, refused records in the middle, old rows."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from datetime import UTC, datetime

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import MetaData, select

from kafkasaga.clock import SystemClock
from kafkasaga.kafka import KafkaProducer
from kafkasaga.runtime.relay import Relay
from kafkasaga.stores import Tables, create_store
from tests.contract.kafka_kit import WITHIN, Broker, Member, unique
from tests.contract.relay_kit import put, relaying


def read_by_key(settings: Broker, topic: str, count: int) -> dict[str, list[int]]:
    """The numbers in a topic, by key, each where it comes first."""
    found: dict[str, list[int]] = defaultdict(list)
    with Member(settings, unique("group"), [topic]) as member:
        member.has(lambda: len({(record.key, record.value) for record in member.records}) >= count, f"{count} records")
        for record in member.records:
            numbers = found[(record.key or b"").decode()]
            if (number := int((record.value or b"").split()[0])) not in numbers:
                numbers.append(number)
    return found


def test_a17_a_row_that_waited_for_years_is_as_young_as_its_send(broker: Broker) -> None:
    """A topic's retention goes by the time stamp of the record: an old one would be deleted at once."""
    topic, began = broker.topic(1), time.time()
    with relaying(broker) as relay:
        relay.put([(topic, "k", b"1")], datetime(2001, 1, 1, tzinfo=UTC))
        relay.step_until(lambda: relay.waiting() == 0, "an empty outbox")
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": unique("group"), "log_level": 0})
    consumer.assign([Place(topic, 0, 0)])
    (found,) = consumer.consume(1, WITHIN)
    consumer.close()
    _, milliseconds = found.timestamp()
    assert milliseconds >= (began - 1) * 1000


def test_i04_a_hot_key_keeps_its_order_and_the_others_do_not_wait_for_it(broker: Broker) -> None:
    topic = broker.topic(3)
    rows = [("hot", n) for n in range(600)] + [(f"k{n % 30}", n) for n in range(150)]
    left: list[int] = []
    with relaying(broker) as relay:
        relay.put((topic, key, b"%d" % n) for key, n in rows)

        def is_empty() -> bool:
            left.append(relay.waiting())
            return left[-1] == 0

        relay.step_until(is_empty, "an empty outbox", 150)
    assert len(left) < 200, "neither waits for a round trip for each row of the hot key, which is before the others"
    found = read_by_key(broker, topic, len(rows))
    assert found["hot"] == list(range(600))
    assert {key: numbers for key, numbers in found.items() if key != "hot"} == {
        f"k{k}": list(range(k, 150, 30)) for k in range(30)
    }


@pytest.mark.kafka
def test_a09_a_record_that_the_broker_refuses_blocks_its_key_and_nothing_that_was_sent_with_it(broker: Broker) -> None:
    """Kafka refuses whole batches, librdkafka reports that for each record in them."""
    if broker.embedded:
        pytest.skip("the mock cluster takes any size")
    topic = unique("small")
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic(topic, 1, 1, config={"max.message.bytes": "20000"})])[topic].result()
    rows = [(f"k{n % 100}", b"%d " % n + b"x" * 200) for n in range(300)]
    rows.insert(150, ("k7", b"1000 " + b"x" * 50_000))
    with relaying(broker) as relay:
        ids = relay.put((topic, key, body) for key, body in rows)
        relay.step_until(lambda: relay.waiting() <= 2, "all but what waits behind the large one", 120)
        blocks = relay.store.tables.outbox_block
        with relay.store.engine.connect() as connection:
            assert connection.execute(select(blocks.c.message_id)).scalars().all() == [ids[150]]
    found = read_by_key(broker, topic, 299)
    assert found.pop("k7") == [7, 107]
    assert found == {f"k{k}": list(range(k, 300, 100)) for k in range(100) if k != 7}


def test_i04_relays_that_share_the_keys_keep_the_order_of_each(broker: Broker, postgres_url: str) -> None:
    """Three relays in one process, each with its own client of Kafka, and rows that come meanwhile."""
    topic, tables = broker.topic(3), Tables(MetaData())
    store = create_store(postgres_url, tables)
    tables.metadata.create_all(store.engine)
    relays = [
        Relay(queue, lambda: KafkaProducer(broker), SystemClock(), poll_interval=0.02)
        for queue in store.relay_queues(3)
    ]
    threads = [threading.Thread(target=relay.run) for relay in relays]
    for thread in threads:
        thread.start()
    for begin in range(0, 600, 60):
        put(store, [(topic, f"k{n % 30}", b"%d" % n) for n in range(begin, begin + 60)])
    found = read_by_key(broker, topic, 600)
    assert all(relay.active for relay in relays), "each had some of the keys"
    for relay in relays:
        relay.stop()
    for thread in threads:
        thread.join(WITHIN)
    assert found == {f"k{k}": list(range(k, 600, 30)) for k in range(30)}
    assert store.queries().counts().outbox == 0
    store.close()
