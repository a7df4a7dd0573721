"""Kafka goes away while messages are sent and read, and a producer is told that it can never send again."""

import logging
import math
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient
from sqlalchemy import MetaData

from kafkasaga.clock import SystemClock
from kafkasaga.errors import BrokerUnavailable
from kafkasaga.kafka import KafkaConfig, KafkaConsumer, KafkaProducer, Topics, consumer, silence
from kafkasaga.kafka.sending import Sending
from kafkasaga.messages import Envelope
from kafkasaga.ports import TopicPartition
from kafkasaga.runtime.relay import Relay
from kafkasaga.stores import Tables, create_store
from kafkasaga.testing import EmbeddedKafka
from tests.contract.kafka_kit import WITHIN, Broker, Member, Sender, fill, unique, until
from tests.contract.mock_kit import Api, Mock
from tests.support import KafkaServer


def test_everything_is_delivered_in_order_though_kafka_was_away_and_it_is_said_once(
    private_kafka: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(private_kafka.bootstrap_servers)
    topic = broker.topic(1)
    values = [b"%d" % number for number in range(300)]
    caplog.set_level(logging.INFO, "kafkasaga.kafka")
    with Sender(broker) as sender, Member(broker, unique("group"), [topic]) as member:
        for value in values[:100]:
            sender.send(topic, "k", value)
        member.has(lambda: sender.poll() and len(member.records) > 50, "the first messages")
        private_kafka.stop()
        for value in values[100:]:
            sender.send(topic, "k", value)
        member.has(lambda: sender.poll() and "consumer" in _lost(caplog), "the consumer's loss of Kafka")
        until(lambda: sender.poll(0.1) and "producer" in _lost(caplog), "the producer's loss of Kafka")
        assert None not in [sender.outcomes.get(number, "open") for number in range(100, 300)]
        private_kafka.start()
        member.has(lambda: sender.poll() and len(_back(caplog)) == 2, "the return of Kafka")
        assert sender.finish() == [None] * 300
        # A member that was away for longer than its session reads again what it has not stored: look at the log.
        member.has(lambda: len({record.offset for record in member.records}) == 300, "all messages")
        assert list(dict(sorted((r.offset, r.value) for r in member.records)).values()) == values
        assert member.consumer.ends([topic]) == {TopicPartition(topic, 0): 300}
    assert sorted(_lost(caplog)) == sorted(_back(caplog)) == ["consumer", "producer"]


def test_a_static_member_that_an_outage_has_fenced_joins_anew(
    private_kafka: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    """How it is fenced does not matter: here another client takes its instance id for a moment."""
    broker = Broker(private_kafka.bootstrap_servers).having(instance_id="replica-0", session_timeout_ms=6_000)
    topic, group = broker.topic(2), unique("group")
    caplog.set_level(logging.WARNING, "kafkasaga.kafka")
    with Member(broker, group, [topic]) as member:
        member.has(lambda: len(member.partitions) == 2, "all partitions")
        fill(broker, topic, [b"before"])
        member.read(1)
        member.store_all()
        private_kafka.stop()
        member.has(lambda: "no broker at" in caplog.text, "the loss of Kafka")
        private_kafka.start()
        member.has(lambda: "answers again" in caplog.text, "the return of Kafka")
        fill(broker, topic, [b"between"])
        member.has(lambda: b"between" in [record.value for record in member.records], "what came then")
        fenced = member.consumer._consumer
        with Member(broker, group, [topic]) as usurper:
            usurper.joined()
            member.revoked.clear()
            member.has(lambda: member.consumer._consumer is not fenced, "a new client")
        assert member.revoked == {TopicPartition(topic, 0), TopicPartition(topic, 1)}, "whoever owned them hears of it"
        assert f"the consumer of group {group} joins anew after an outage" in caplog.text
        member.has(lambda: len(member.partitions) == 2, "all partitions again")
        fill(broker, topic, [b"after"])
        member.has(lambda: b"after" in [record.value for record in member.records], "what came after")


def test_a_static_member_that_is_fenced_after_its_broker_was_frozen_joins_anew(
    private_kafka: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(private_kafka.bootstrap_servers).having(instance_id="replica-0", session_timeout_ms=6_000)
    topic, group = broker.topic(1), unique("group")
    caplog.set_level(logging.DEBUG, "kafkasaga.kafka")
    with Member(broker, group, [topic]) as member:
        member.joined()
        private_kafka.pause()
        member.has(lambda: "session timed out" in caplog.text, "the end of the session")
        private_kafka.resume()
        member.joined()
        fenced = member.consumer._consumer
        with Member(broker, group, [topic]) as usurper:
            usurper.joined()
            member.has(lambda: member.consumer._consumer is not fenced, "a new client")
        fill(broker, topic, [b"after"])
        assert [record.value for record in member.read(1)] == [b"after"]


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(silence, "ANSWER_SECONDS", 1.0)


NOBODY = Broker("127.0.0.1:1")
"""A client of these settings finds no broker, as one that librdkafka has let forget all of them."""


class Stuck(Consumer):
    """As librdkafka's consumer is without any broker: whoever closes it waits for ever."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.closing = threading.Event()

    def close(self) -> None:
        self.closing.set()
        threading.Event().wait()


@pytest.mark.usefixtures("_soon")
def test_a_consumer_that_finds_no_broker_though_there_is_one_is_replaced(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = broker.topic(1), unique("group")
    fill(broker, topic, [b"1"])
    with Member(broker, group, [topic]) as member:
        member.consumer._consumer.close()
        member.consumer._consumer = deaf = Stuck(KafkaConfig.of(NOBODY).consumer(group))
        assert [record.value for record in member.read(1)] == [b"1"]
        assert member.consumer._consumer is not deaf
        assert "it finds no broker any more, though there is one" in caplog.text
        healthy = member.consumer._consumer
        with Member(broker, group, [topic]) as idle:  # one of them has nothing to do, and hears the broker
            for _ in range(20):
                idle.poll()
                member.poll()
            assert member.consumer._consumer is healthy
    assert caplog.text.count("joins anew") == 1


def test_closing_a_consumer_that_librdkafka_does_not_close_comes_to_an_end(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "CLOSE_SECONDS", 0.1)
    member = KafkaConsumer(broker, unique("group"))
    member._consumer.close()
    member._consumer = stuck = Stuck(KafkaConfig.of(NOBODY).consumer("group"))
    member.close()
    assert stuck.closing.wait(WITHIN), "and it has come back, though its client never does"


@pytest.mark.usefixtures("_soon")
def test_a_producer_that_finds_no_broker_though_there_is_one_is_replaced(broker: Broker) -> None:
    topic = broker.topic(1)
    with Sender(broker) as sender:
        sender.producer._sending._producer = deaf = Producer(KafkaConfig.of(NOBODY).producer())
        sender.send(topic, "k", b"lost")
        until(lambda: sender.poll(0.1) and len(sender.outcomes) == 1, "an answer")
        error = sender.outcomes[0]
        assert error is not None
        assert not error.permanent, "the relay sends it again"
        assert sender.producer._sending._producer is not deaf
        healthy = sender.producer._sending._producer
        sender.send(topic, "k", b"again")
        assert sender.finish()[-1] is None
        assert sender.producer._sending._producer is healthy


@pytest.mark.usefixtures("_soon")
def test_a_producer_of_single_messages_that_finds_no_broker_though_there_is_one_is_replaced(broker: Broker) -> None:
    topic = broker.topic(1)
    with Sender(broker) as sender:
        lone = lone_producer(sender, topic)
        lone._producer = deaf = Producer(KafkaConfig.of(NOBODY).lone())
        sender.send(topic, "k", b"lost")
        until(lambda: sender.poll(0.1) and 1 in sender.outcomes, "an answer")
        assert sender.outcomes[1] is not None
        assert lone._producer is not deaf
        sender.send(topic, "k", b"again")
        assert sender.finish()[-1] is None


def lone_producer(sender: Sender, topic: str) -> Sending:
    """The one that sends what its topic refuses in batches; it has sent a first message."""
    sender.producer._narrow.add(topic)
    sender.producer._narrow_until = math.inf
    sender.send(topic, "k", b"first")
    assert sender.finish() == [None]
    assert sender.producer._lone is not None
    return sender.producer._lone


def test_a_topic_that_refused_a_batch_is_tried_with_whole_ones_again_once_nothing_is_under_way(broker: Broker) -> None:
    topic = broker.topic(1)
    with Sender(broker) as sender:
        lone = lone_producer(sender, topic)
        lone._producer = Producer(KafkaConfig.of(NOBODY).lone())
        sender.send(topic, "k", b"under way")
        sender.producer._narrow_until = 0.0
        sender.poll()
        assert topic in sender.producer._narrow, "what comes next would overtake it"
        lone.replace("the test has seen enough")
        sender.poll()
        assert sender.producer._narrow == set()
        assert sender.producer._lone is None, "a client is not kept for nothing"
        sender.send(topic, "k", b"again")
        assert sender.finish()[-1] is None


@pytest.mark.usefixtures("_soon")
def test_a_producer_whose_broker_takes_its_time_is_not_replaced(embedded_kafka: EmbeddedKafka) -> None:
    """Its connection is busy, so it learns nothing there; another client is answered meanwhile."""
    broker = Broker(embedded_kafka.bootstrap_servers, embedded_kafka.kafka, embedded=embedded_kafka)
    topic = broker.topic(1)
    with Sender(broker) as sender:
        sender.send(topic, "k", b"0")
        assert sender.finish() == [None]
        healthy, asked = sender.producer._sending._producer, []
        Mock(embedded_kafka).hold_next_answer(Api.PRODUCE, 4_000)
        sender.send(topic, "k", b"1")

        def answered() -> bool:
            sender.producer._sending._silence._since = -math.inf
            sender.poll(0.1)
            asked.append(sender.outcomes.get(1, "open"))
            return 1 in sender.outcomes

        until(answered, "the answer that was held")
        assert asked[0] == "open", "it was asked while it waited"
        assert sender.outcomes[1] is None
        assert sender.producer._sending._producer is healthy


@pytest.mark.usefixtures("_soon")
def test_while_nobody_answers_no_client_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with Sender(NOBODY) as sender:
        lonely = sender.producer._sending._producer
        sender.send("topic", "k", b"1")
        for _ in range(3):
            sender.producer._sending._silence._since = -math.inf
            sender.poll(0.1)
        assert sender.producer._sending._producer is lonely
    assert "a new client takes its place" not in caplog.text


def test_topics_are_asked_by_a_new_client_after_one_that_got_no_answer(broker: Broker) -> None:
    topics = Topics(broker, timeout=1.0)
    topics._client = AdminClient(KafkaConfig.of(NOBODY).admin())
    with pytest.raises(BrokerUnavailable):
        topics.existing()
    assert topics.missing([broker.topic(1)]) == []


LEADERLESS = (
    "%s [%s] %s",
    "METADATAUPDATE",
    "rdkafka#producer-1",
    "[thrd:main]: t [0]: new leader-1 not found",
)
"""What librdkafka logs when its producer has lost a partition's leader for good."""


def lose_a_leader(producer: KafkaProducer) -> None:
    producer._sending._link.voice.log(logging.DEBUG, *LEADERLESS)


def test_a_producer_that_lost_a_leader_is_replaced_and_tells_of_everything_it_held(broker: Broker) -> None:
    topic = broker.topic(1)
    slow = broker.having(linger_ms=60_000)  # nothing leaves by itself
    with Sender(slow) as sender, Member(broker, unique("group"), [topic]) as member:
        stuck = sender.producer._sending._producer
        for number in range(100):
            sender.send(topic, "k", b"%d" % number)
        lose_a_leader(sender.producer)
        until(lambda: sender.poll(0.1) and len(sender.outcomes) == 100, "an answer for each")
        assert sender.producer._sending._producer is not stuck
        errors = [sender.outcomes[number] for number in range(100)]
        assert [error is not None and not error.permanent for error in errors] == [True] * 100
        healthy = sender.producer._sending._producer
        sender.send(topic, "k", b"again")
        sender.producer._sending._producer.flush(30)
        assert sender.finish()[-1] is None
        assert sender.producer._sending._producer is healthy, "once is enough"
        assert [record.value for record in member.read(1)] == [b"again"]


def test_what_a_producer_says_of_other_leaders_is_no_reason_to_replace_it(broker: Broker) -> None:
    with Sender(broker) as sender:
        before = sender.producer._sending._producer
        form, facility, name, _ = LEADERLESS
        voice = sender.producer._sending._link.voice
        voice.log(logging.DEBUG, form, facility, name, "[thrd:main]: t [0]: leader 1 found")
        voice.log(logging.DEBUG, form, "LEADER", name, LEADERLESS[-1])
        sender.poll()
        assert sender.producer._sending._producer is before


def test_i02_i04_the_relay_sends_again_what_a_replaced_producer_held(broker: Broker) -> None:
    topic = broker.topic(3)
    tables = Tables(MetaData())
    store = create_store("sqlite://", tables)
    tables.metadata.create_all(store.engine)
    keys, now = [f"k{n}" for n in range(20)], datetime.now(UTC)
    with store.begin() as uow:
        uow.add_outbox([Envelope(topic, keys[n % 20], uuid4(), "t", "T", now, b"%d" % n) for n in range(400)])
    producers: list[KafkaProducer] = []

    def connect() -> KafkaProducer:
        producers.append(KafkaProducer(broker))
        return producers[-1]

    relay = Relay(store.relay_queue(), connect, SystemClock(), poll_interval=0.02)
    clients = set[Producer]()

    def step() -> bool:
        relay.step()
        if len(clients) < 6:  # again and again, with rows under way
            lose_a_leader(producers[0])
        clients.add(producers[0]._sending._producer)
        return store.queries().counts().outbox == 0

    until(step, "an empty outbox")
    assert len(clients) >= 3
    assert store.queries().counts().blocked == 0
    with Member(broker, unique("group"), [topic]) as member:
        member.has(lambda: len({record.value for record in member.records}) == 400, "everything")
        for key in keys:
            seen = [int(record.value or b"") for record in member.records if record.key == key.encode()]
            assert list(dict.fromkeys(seen)) == sorted(set(seen)), "what comes twice does not overtake"
    relay._queue.close()
    producers[0].close(0)
    store.close()


def _lost(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage().split()[0].rstrip(":") for r in caplog.records if "no broker at" in r.getMessage()]


def _back(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage().split()[0].rstrip(":") for r in caplog.records if "answers again" in r.getMessage()]


def test_producer_is_replaced_after_a_fatal_error_and_nothing_is_called_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = Broker("127.0.0.1:1")
    with Sender(away) as sender:
        for value in (b"1", b"2"):
            sender.send("topic", "k", value)
        broken: Producer = sender.producer._sending._producer
        # librdkafka's own way in is not reachable from Python: this is what it calls.
        sender.producer._sending._link.on_error(KafkaError(KafkaError._FATAL, "provoked", fatal=True))
        first, second = sender.finish()
        assert first is not None
        assert second is not None
        assert not first.permanent
        assert sender.producer._sending._producer is not broken
    assert "provoked" in caplog.text


def test_a_replaced_producer_sends(broker: Broker) -> None:
    topic = broker.topic(1)
    with Sender(broker) as sender, Member(broker, unique("group"), [topic]) as member:
        broken = sender.producer._sending._producer
        sender.producer._sending._link.on_error(KafkaError(KafkaError._FATAL, "provoked", fatal=True))
        sender.poll()
        assert sender.producer._sending._producer is not broken
        sender.send(topic, "k", b"1")
        assert sender.finish() == [None]
        assert [record.value for record in member.read(1)] == [b"1"]
