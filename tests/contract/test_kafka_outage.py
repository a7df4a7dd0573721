"""Kafka goes away while messages are sent and read, and a producer is told that it can never send again."""

import logging

import pytest
from confluent_kafka import KafkaError, Producer

from kafkasaga.ports import TopicPartition
from tests.contract.kafka_kit import Broker, Member, Sender, unique, until
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
        broken: Producer = sender.producer._producer
        # librdkafka's own way in is not reachable from Python: this is what it calls.
        sender.producer._link.on_error(KafkaError(KafkaError._FATAL, "provoked", fatal=True))
        first, second = sender.finish()
        assert first is not None
        assert second is not None
        assert not first.permanent
        assert sender.producer._producer is not broken
    assert "provoked" in caplog.text


def test_a_replaced_producer_sends(broker: Broker) -> None:
    topic = broker.topic(1)
    with Sender(broker) as sender, Member(broker, unique("group"), [topic]) as member:
        broken = sender.producer._producer
        sender.producer._link.on_error(KafkaError(KafkaError._FATAL, "provoked", fatal=True))
        sender.poll()
        assert sender.producer._producer is not broken
        sender.send(topic, "k", b"1")
        assert sender.finish() == [None]
        assert [record.value for record in member.read(1)] == [b"1"]
