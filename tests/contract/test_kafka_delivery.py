"""What the Kafka adapters promise of messages, on the embedded broker and on Apache Kafka."""

import time

import pytest
from confluent_kafka import Producer

from kafkasaga.messages import Record
from kafkasaga.ports import TopicPartition
from tests.contract.kafka_kit import Broker, Member, Sender, fill, unique

JAVA_HASHES = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}
"""The vectors of Apache Kafka's own test, `UtilsTest.testMurmur2`."""


def test_record_travels_unchanged(broker: Broker) -> None:
    topic = broker.topic()
    with Sender(broker) as sender, Member(broker, unique("group"), [topic]) as member:
        sender.send(topic, "kéy", b"\x00value", {"ce_id": "1", "naïve": "ü"})
        sender.send(topic, "kéy", None, {"none": ""})
        assert sender.finish() == [None, None]
        first, second = member.read(2)
    assert first == Record(
        topic, first.partition, 0, "kéy".encode(), b"\x00value", {"ce_id": b"1", "naïve": "ü".encode()}
    )
    assert second == Record(topic, first.partition, 1, "kéy".encode(), None, {"none": b""})


def test_last_header_of_a_name_counts_and_one_without_a_value_is_empty(broker: Broker) -> None:
    topic = broker.topic()
    foreign = Producer({"bootstrap.servers": broker.bootstrap_servers})
    foreign.produce(topic, b"v", headers=[("a", b"1"), ("b", None), ("a", b"2")])
    foreign.flush()
    with Member(broker, unique("group"), [topic]) as member:
        (record,) = member.read(1)
    assert record.headers == {"a": b"2", "b": b""}
    assert record.key is None


def test_poll_returns_what_is_there_without_waiting_for_a_full_batch(broker: Broker) -> None:
    topic = broker.topic()
    fill(broker, topic, [b"%d" % n for n in range(50)])
    with Member(broker, unique("group"), [topic]) as member:
        member.joined()
        begun = time.monotonic()
        batches = [member.consumer.poll(100, 30)]
        while sum(map(len, batches)) < 50:
            batches.append(member.consumer.poll(100, 30))
        assert time.monotonic() - begun < 30
    assert [record.value for batch in batches for record in batch] == [b"%d" % n for n in range(50)]


def test_poll_returns_no_more_than_its_limit(broker: Broker) -> None:
    topic = broker.topic()
    fill(broker, topic, [b"x"] * 20)
    with Member(broker, unique("group"), [topic]) as member:
        read: list[int] = []
        while sum(read) < 20:
            read.append(len(member.consumer.poll(7, 0.1)))
    assert max(read) <= 7


def test_too_large_message_fails_for_good_and_the_others_of_its_topic_go_on(broker: Broker) -> None:
    topic = broker.topic(1)
    with Sender(broker) as sender, Member(broker, unique("group"), [topic]) as member:
        sender.send(topic, "k", b"before")
        sender.send(topic, "k", b"x" * 2_000_000)
        sender.send(topic, "k", b"after")
        before, large, after = sender.finish()
        assert before is None
        assert large is not None
        assert large.permanent
        assert topic in large.reason
        assert after is None
        assert [record.value for record in member.read(2)] == [b"before", b"after"]


def test_message_to_an_invalid_topic_fails_for_good(broker: Broker) -> None:
    if broker.embedded:
        pytest.skip("the mock cluster accepts any name")
    with Sender(broker) as sender:
        sender.send("not a topic!", "k", b"v")
        (error,) = sender.finish()
    assert error is not None
    assert error.permanent


def test_done_is_never_called_from_send_even_when_the_queue_is_full(broker: Broker) -> None:
    topic = broker.topic()
    with Sender(broker.having(queue_buffering_max_messages=10)) as sender:
        for number in range(100):
            sender.send(topic, str(number), b"v")
            assert not sender.outcomes
        assert sender.finish() == [None] * 100


def test_message_larger_than_the_whole_queue_fails_instead_of_waiting_for_ever(broker: Broker) -> None:
    topic = broker.topic()
    with Sender(broker.having(queue_buffering_max_kbytes=1)) as sender:
        sender.send(topic, "k", b"x" * 5_000)
        (error,) = sender.finish()
    assert error is not None
    assert error.permanent
    assert "queue.buffering.max.kbytes" in error.reason


def test_close_reports_what_was_not_delivered(broker: Broker) -> None:
    sender = Sender(Broker("127.0.0.1:1"))
    sender.send("topic", "k", b"v")
    sender.producer.close(0.1)
    (error,) = sender.outcomes.values()
    assert error is not None
    assert not error.permanent


def test_keys_go_to_the_partitions_that_java_chooses(broker: Broker) -> None:
    topic = broker.topic(7)
    with Sender(broker) as sender, Member(broker, unique("group"), [topic]) as member:
        for key in JAVA_HASHES:
            sender.send(topic, key, b"v")
        sender.finish()
        records = member.read(len(JAVA_HASHES))
    chosen = {(record.key or b"").decode(): record.partition for record in records}
    assert chosen == {key: (hash & 0x7FFFFFFF) % 7 for key, hash in JAVA_HASHES.items()}


def test_ends_are_behind_the_last_record(broker: Broker) -> None:
    topic = broker.topic(2)
    fill(broker, topic, [b"1", b"2", b"3"])
    with Member(broker, unique("group"), [topic]) as member:
        member.joined()  # a client that is closed in the middle of its first assignment may never come back
        ends = member.consumer.ends([topic])
    assert set(ends) == {TopicPartition(topic, 0), TopicPartition(topic, 1)}
    assert sorted(ends.values()) == [0, 3]


def test_positions_reach_the_ends_also_behind_a_transaction_marker(broker: Broker) -> None:
    topic = broker.topic(1)
    foreign = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": unique("tx")})
    foreign.init_transactions()
    foreign.begin_transaction()
    foreign.produce(topic, b"v")
    foreign.commit_transaction()
    with Member(broker, unique("group"), [topic]) as member:
        member.read(1)
        ends = member.consumer.ends([topic])
        member.has(lambda: member.consumer.positions() == ends, "the end")
        if not broker.embedded:  # the mock cluster writes no markers
            assert ends[TopicPartition(topic, 0)] == 2
