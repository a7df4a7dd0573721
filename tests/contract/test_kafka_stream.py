"""What is streamed leaves no gaps (ADR 19): nothing of a key arrives behind a message that did not, on Apache Kafka."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub exports some of them only
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from sqlalchemy import MetaData

from kafkasaga.clock import SystemClock
from kafkasaga.kafka import KafkaProducer
from kafkasaga.messages import Envelope
from kafkasaga.ports import Failures, OutboxRow
from kafkasaga.runtime.relay import Relay
from kafkasaga.stores import SqlStore, create_store
from kafkasaga.stores.schema import Tables
from tests.contract.kafka_kit import Broker, Member, Sender, unique, until
from tests.support import KafkaServer

LIMIT = 20_000
"""What a topic of these tests takes, in bytes; less than what librdkafka takes."""
LARGE = b"x" * 50_000


@pytest.fixture
def apache(kafka: KafkaServer) -> Broker:
    return Broker(kafka.bootstrap_servers)


def narrow_topic(broker: Broker, partitions: int = 1) -> str:
    name = unique("topic")
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    topic = NewTopic(name, partitions, 1, config={"max.message.bytes": str(LIMIT)})
    admin.create_topics([topic])[name].result()
    return name


def widen(broker: Broker, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    entry = ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result()


def row(number: int, topic: str, key: str, value: bytes) -> OutboxRow:
    return OutboxRow(number, uuid4().bytes, topic, key, value, "{}")


@contextmanager
def producing(broker: Broker) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(broker)
    try:
        yield producer
    finally:
        producer.close(0)


def outcome(producer: KafkaProducer) -> Failures:
    found: list[Failures] = []

    def known() -> bool:
        producer.poll(0)
        failures = producer.streamed(0.1)
        found.extend([] if failures is None else [failures])
        return bool(found)

    until(known, "what became of the stream")
    return found[0]


def values(broker: Broker, topic: str, count: int, key: str | None = None) -> list[int]:
    """The numbers in a topic, once so many different ones are there."""
    with Member(broker, unique("group"), [topic]) as member:
        member.has(lambda: len({(r.key, r.value) for r in member.records}) >= count, f"{count} messages")
        return [int((r.value or b"")[:6]) for r in member.records if key is None or r.key == key.encode()]


def number(n: int) -> bytes:
    return b"%06d" % n


@pytest.mark.kafka
@pytest.mark.parametrize("large", [0, 1, 17, 39])
def test_a09_nothing_of_a_key_arrives_behind_a_message_that_the_broker_refused(apache: Broker, large: int) -> None:
    topic = narrow_topic(apache)
    with producing(apache.having(batch_num_messages=5)) as producer:
        rows = [row(n, topic, "k", number(n) + (LARGE if n == large else b"")) for n in range(40)]
        producer.stream(rows)
        failed = {failure.position for failure, _ in outcome(producer)}
        arrived = [n for n in range(40) if n not in failed]
        assert arrived == list(range(len(arrived)))
        assert large in failed
        producer.stream([row(99, topic, "k", number(99))])
        assert outcome(producer) == [], "another one has taken its place"
    assert values(apache, topic, len(arrived) + 1) == [*arrived, 99]


@pytest.mark.kafka
@pytest.mark.parametrize("known", [False, True])
def test_a09_a_broker_that_knows_nothing_of_the_producer_yet_is_not_sent_what_comes_behind_a_refused_batch(
    private_kafka: KafkaServer, known: bool
) -> None:
    """It would accept it, having no sequence number to compare with. It is frozen while the batches queue up."""
    broker = Broker(private_kafka.bootstrap_servers)
    topic = narrow_topic(broker, partitions=4)
    with producing(broker.having(batch_num_messages=1, linger_ms=0)) as producer:
        producer.stream([row(0, topic, "21" if known else "abc", number(0))])  # connects; the two are in two partitions
        assert outcome(producer) == []
        private_kafka.pause()
        producer.stream([row(n, topic, "21", number(n) + (LARGE if n == 1 else b"")) for n in range(1, 20)])
        assert producer.streamed(1.0) is None
        private_kafka.resume()
        assert sorted(failure.position for failure, _ in outcome(producer)) == list(range(1, 20))
        producer.stream([row(99, topic, "21", number(99))])
        assert outcome(producer) == []
    assert values(broker, topic, 2, "21") == ([0, 99] if known else [99])


@pytest.mark.kafka
def test_a09_behind_a_message_that_is_refused_at_once_its_key_is_not_sent_and_others_are(apache: Broker) -> None:
    topic = apache.topic(1)
    with producing(apache) as producer:
        rows = [row(n, topic, f"k{n % 2}", number(n) + (b"x" * 2_000_000 if n == 4 else b"")) for n in range(10)]
        producer.stream(rows)
        assert [failure.position for failure, _ in outcome(producer)] == [4, 6, 8]
    assert values(apache, topic, 7) == [0, 1, 2, 3, 5, 7, 9]


@pytest.mark.kafka
def test_what_is_given_up_is_told_of_and_the_next_stream_works(private_kafka: KafkaServer) -> None:
    broker = Broker(private_kafka.bootstrap_servers)
    topic = broker.topic(1)
    with producing(broker) as producer:
        producer.stream([row(0, topic, "k", number(0))])
        assert outcome(producer) == []
        private_kafka.pause()
        producer.stream([row(n, topic, "k", number(n)) for n in range(1, 10)])
        assert producer.streamed(0.5) is None
        assert [failure.position for failure, _ in producer.give_up()] == list(range(1, 10))
        private_kafka.resume()
        producer.stream([row(10, topic, "k", number(10))])
        assert outcome(producer) == []


def test_i02_what_a_dropped_client_has_not_answered_for_was_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process stands still while librdkafka gives back what it was told to drop."""
    monkeypatch.setattr("kafkasaga.kafka.sending.PURGE_SECONDS", 0.0)
    with producing(Broker("127.0.0.1:1")) as producer:
        producer.stream([row(n, "topic", f"key {n}", number(n)) for n in range(5)])
        assert producer.streamed(0.1) is None
        assert sorted(failure.position for failure, _ in producer.give_up()) == list(range(5))


def test_a17_what_is_streamed_is_given_up_after_the_users_message_timeout() -> None:
    with producing(Broker("127.0.0.1:1").having(message_timeout_ms=300)) as producer:
        producer.stream([row(n, "topic", f"key {n}", number(n)) for n in range(5)])
        assert producer.streamed(0) is None
        assert sorted(failure.position for failure, _ in outcome(producer)) == list(range(5))


def test_a17_what_arrived_with_too_old_a_time_stamp_is_not_called_delivered(broker: Broker) -> None:
    """As where the process was frozen between the call and the answer: the topic may have deleted it at once."""
    topic = broker.topic(1)
    with producing(broker.having(delivery_timeout_ms=1, linger_ms=0)) as producer:
        producer.stream([row(n, topic, f"key {n}", number(n)) for n in range(5)])
        assert values(broker, topic, 5) == list(range(5))
        failures = producer.streamed(1.0)
        assert failures is not None
        assert sorted(failure.position for failure, _ in failures) == list(range(5))
        assert not any(error.permanent for _, error in failures)
    with producing(broker) as producer:
        producer.stream([row(9, topic, "key", number(9))])
        assert outcome(producer) == []


def test_i02_of_equal_messages_none_is_called_delivered_that_was_not() -> None:
    """A report names no row: which one it is follows from topic, key and value."""
    with producing(Broker("127.0.0.1:1")) as producer:
        producer.stream([])
        assert producer._stream is not None
        producer._stream._known.add(("topic", "k"))  # they need not wait for the first one's answer
        producer.stream([row(n, "topic", "k", b"the same") for n in range(5)])
        assert producer.streamed(0.1) is None
        assert sorted(failure.position for failure, _ in producer.give_up()) == list(range(5))


@pytest.mark.kafka
def test_what_does_not_fit_into_the_clients_queue_waits_for_room(apache: Broker) -> None:
    topic = apache.topic(1)
    with producing(apache.having(queue_buffering_max_messages=10)) as producer:
        producer.stream([row(n, topic, f"key {n % 3}", number(n)) for n in range(100)])
        assert outcome(producer) == []
    for key in range(3):
        assert values(apache, topic, 100, f"key {key}") == list(range(key, 100, 3))


def test_what_never_finds_room_can_be_given_up() -> None:
    with producing(Broker("127.0.0.1:1").having(queue_buffering_max_messages=2)) as producer:
        producer.stream([row(n, "topic", f"key {n}", number(n)) for n in range(5)])
        assert producer.streamed(0.1) is None
        assert sorted(failure.position for failure, _ in producer.give_up()) == list(range(5))


@pytest.mark.kafka
def test_small_messages_that_make_a_batch_too_large_for_their_topic_arrive(apache: Broker) -> None:
    topic = narrow_topic(apache)
    with Sender(apache.having(linger_ms=50)) as sender:
        for n in range(200):
            sender.send(topic, f"k{n}", number(n) + b"x" * 1000)
        sender.send(topic, "large", LARGE)
        *small, large = sender.finish()
    assert small == [None] * 200
    assert large is not None
    assert large.permanent
    assert sorted(values(apache, topic, 200)) == list(range(200))


class Shop:
    """A relay on Apache Kafka, and rows for it."""

    def __init__(self, broker: Broker) -> None:
        tables = Tables(MetaData())
        self.store: SqlStore = create_store("sqlite://", tables)
        tables.metadata.create_all(self.store.engine)
        self.relay = Relay(self.store.relay_queue(), lambda: KafkaProducer(broker), SystemClock(), poll_interval=0.02)

    def put(self, topic: str, *rows: tuple[str, bytes]) -> None:
        with self.store.begin() as uow:
            now = datetime.now(UTC)
            uow.add_outbox([Envelope(topic, key, uuid4(), "t", "T", now, value) for key, value in rows])

    def left(self) -> int:
        return self.store.queries().counts().outbox

    def publish(self, left: int = 0) -> None:
        def step() -> bool:
            self.relay.step()
            return self.left() == left

        until(step, f"{left} rows in the outbox")

    def close(self) -> None:
        self.relay.stop()
        self.relay.run()
        self.store.close()


@pytest.fixture
def shop(apache: Broker) -> Iterator[Shop]:
    shop = Shop(apache)
    yield shop
    shop.close()


@pytest.mark.kafka
def test_a09_a_row_that_the_broker_refuses_among_streamed_ones_holds_back_its_key_only(
    apache: Broker, shop: Shop
) -> None:
    topic = narrow_topic(apache)
    shop.put(topic, ("k0", number(0)))
    shop.publish()  # it is trusted now
    rows = [(f"k{n % 3}", number(n) + (LARGE if n == 300 else b"")) for n in range(1, 600)]
    shop.put(topic, *rows)
    shop.publish(left=100)
    assert shop.store.queries().counts().blocked == 1
    assert list(dict.fromkeys(values(apache, topic, 500, "k0"))) == list(range(0, 300, 3))
    widen(apache, topic)
    shop.publish()
    for k in range(3):
        assert list(dict.fromkeys(values(apache, topic, 600, f"k{k}"))) == list(range(k, 600, 3))


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_i02_i04_a_hot_key_keeps_its_order_when_kafka_is_killed_and_comes_back(private_kafka: KafkaServer) -> None:
    broker = Broker(private_kafka.bootstrap_servers)
    topic, count = broker.topic(2), 20_000
    shop = Shop(broker)
    shop.put(topic, *[("k", number(n)) for n in range(count)])
    killed = threading.Event()

    def step() -> bool:
        shop.relay.step()
        if not killed.is_set() and 0 < shop.left() < count - 2_000:
            killed.set()
            private_kafka.kill()
            threading.Thread(target=private_kafka.start).start()
        return shop.left() == 0

    until(step, "an empty outbox", within=300)
    assert killed.is_set(), "it was killed with rows under way"
    assert list(dict.fromkeys(values(broker, topic, count))) == list(range(count))
    shop.close()
