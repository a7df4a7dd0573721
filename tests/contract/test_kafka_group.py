"""What the Kafka consumer promises of groups, positions and offsets, on the embedded broker and on Apache Kafka."""

import logging
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from kafkasaga.errors import BrokerUnavailable, ConfigurationError, DatabaseUnavailable, TopicsError
from kafkasaga.kafka import KafkaConsumer, Topics, create_topics, missing_topics
from kafkasaga.messages import Record
from kafkasaga.ports import TopicPartition
from tests.contract.kafka_kit import WITHIN, Broker, Member, child, fill, unique, until


def test_messages_whose_offsets_were_not_stored_are_read_again(broker: Broker) -> None:
    topic, group = broker.topic(1), unique("group")
    fill(broker, topic, [b"1", b"2", b"3"])
    with Member(broker, group, [topic]) as member:
        member.read(3)
        member.consumer.store({TopicPartition(topic, 0): 2})
    with Member(broker, group, [topic]) as member:
        assert [record.value for record in member.read(1)] == [b"3"]


def test_messages_are_read_again_when_nothing_was_stored(broker: Broker) -> None:
    topic, group = broker.topic(1), unique("group")
    fill(broker, topic, [b"1", b"2"])
    for _ in range(2):
        with Member(broker, group, [topic]) as member:
            assert [record.value for record in member.read(2)] == [b"1", b"2"]


def test_who_gathers_takes_what_comes_behind_the_first_record(broker: Broker) -> None:
    topic = broker.topic(1)
    with Member(broker, unique("group"), [topic]) as member, ThreadPoolExecutor() as threads:
        member.joined()
        limit = 4  # two records, and the end of the partition before and between them, which counts like one

        def first() -> list[Record]:
            return member.consumer.poll(limit, WITHIN, WITHIN) or first()

        batch = threads.submit(first)
        for value in (b"1", b"2", b"3", b"4"):
            fill(broker, topic, [value])
        assert [record.value for record in batch.result(WITHIN)][:2] == [b"1", b"2"]


def test_positions_given_at_assignment_win_over_the_groups_offsets(broker: Broker) -> None:
    topic, group = broker.topic(1), unique("group")
    fill(broker, topic, [b"1", b"2", b"3"])
    with Member(broker, group, [topic]) as member:
        member.read(3)
        member.store_all()
    with Member(broker, group, [topic], {TopicPartition(topic, 0): 1}) as member:
        assert [record.value for record in member.read(2)] == [b"2", b"3"]


def test_position_before_the_first_record_is_told_as_a_loss(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    if broker.embedded:
        pytest.skip("the mock cluster has no DeleteRecords")
    topic = broker.topic(1)
    fill(broker, topic, [b"1", b"2", b"3", b"4"])
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    for future in admin.delete_records([Place(topic, 0, 3)]).values():
        future.result()
    with caplog.at_level(logging.ERROR), Member(broker, unique("group"), [topic], {TopicPartition(topic, 0): 1}) as m:
        assert [record.value for record in m.read(1)] == [b"4"]
    assert f"{topic} partition 0: messages 1 to 2 are lost" in caplog.text


def test_position_behind_the_end_is_told_and_the_topic_is_read_again(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = broker.topic(1)
    fill(broker, topic, [b"1", b"2"])
    with caplog.at_level(logging.ERROR), Member(broker, unique("group"), [topic], {TopicPartition(topic, 0): 9}) as m:
        assert [record.value for record in m.read(2)] == [b"1", b"2"]
    assert f"{topic} partition 0: offset 9 is not there" in caplog.text


def test_a_first_start_at_the_beginning_is_not_told_as_a_loss(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    topic = broker.topic(1)
    fill(broker, topic, [b"1"])
    with caplog.at_level(logging.WARNING), Member(broker, unique("group"), [topic]) as member:
        member.read(1)
    assert caplog.text == ""


def test_failure_of_the_callback_is_raised_by_the_next_poll_and_nothing_is_read_until_it_succeeds(
    broker: Broker,
) -> None:
    topic = broker.topic(1)
    fill(broker, topic, [b"1", b"2"])
    calls: list[int] = []

    def assigned(_: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        calls.append(1)
        if len(calls) < 3:
            raise DatabaseUnavailable("away")
        return {TopicPartition(topic, 0): 1}

    consumer = KafkaConsumer(broker, unique("group"))
    consumer.subscribe([topic], assigned, lambda _: None)
    until(lambda: consumer.poll(10, 0.1) or calls, "an assignment")
    with pytest.raises(DatabaseUnavailable):
        consumer.poll(10, 0.1)
    values: list[bytes | None] = []
    while not values:
        values += [record.value for record in consumer.poll(10, 0.1)]
    consumer.close()
    assert values == [b"2"]
    assert len(calls) == 3


class Refusing:
    """A client of librdkafka whose second call fails."""

    def __init__(self, client: Any) -> None:
        self._client, self.calls = client, 0

    def consume(self, limit: int, timeout: float) -> list[Message]:
        self.calls += 1
        if self.calls == 2:
            raise KafkaException(KafkaError(KafkaError._FAIL))
        found: list[Message] = self._client.consume(limit, timeout)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_a_failure_to_fetch_loses_nothing_that_was_fetched(broker: Broker) -> None:
    topic = broker.topic(1)
    fill(broker, topic, [b"1", b"2"])
    with Member(broker, unique("group"), [topic]) as member:
        member.joined()
        consumer = member.consumer
        client = consumer._consumer = Refusing(consumer._consumer)  # type: ignore[assignment]
        client.calls = 2
        found = consumer.poll(1, WITHIN)
        client.calls = 0
        found += consumer.poll(2, WITHIN)
        with pytest.raises(BrokerUnavailable, match="records were to be fetched"):
            consumer.poll(2, WITHIN)
        assert [record.value for record in found] == [b"1", b"2"]


class Rebalancing(Refusing):
    """Another member takes the partition between the first record of a poll and the others."""

    def __init__(self, client: Any, consumer: KafkaConsumer, place: Place, back_at: int | None = None) -> None:
        super().__init__(client)
        self._consumer, self._place, self._back_at = consumer, place, back_at

    def consume(self, limit: int, timeout: float) -> list[Message]:
        self.calls += 1
        if self.calls == 2:
            itself: Any = self  # of a client that was replaced it would not count
            self._consumer._on_revoke(itself, [self._place])
            if self._back_at is not None:
                self._consumer._reading[TopicPartition(self._place.topic, self._place.partition)] = self._back_at
            return []
        found: list[Message] = self._client.consume(limit, timeout)
        return found


def test_a20_a_record_of_a_partition_that_was_taken_away_meanwhile_is_dropped(broker: Broker) -> None:
    topic = broker.topic(1)
    with Member(broker, unique("group"), [topic]) as member:
        member.has(member.consumer.positions, "the end of what is empty yet")  # so that the record is what comes next
        fill(broker, topic, [b"1"])
        consumer = member.consumer
        client = Rebalancing(consumer._consumer, consumer, Place(topic, 0))
        consumer._consumer = client  # type: ignore[assignment]
        assert consumer.poll(10, WITHIN) == []
        assert client.calls == 2, "a record had been taken from the queue"
        assert consumer.positions() == {}


def test_a20_a_record_of_a_partition_that_went_and_came_back_meanwhile_is_dropped(broker: Broker) -> None:
    """Whoever had it has read on, and this one begins there: the record before it is none of its own."""
    topic = broker.topic(1)
    with Member(broker, unique("group"), [topic]) as member:
        member.has(member.consumer.positions, "the end of what is empty yet")
        fill(broker, topic, [b"1"])
        consumer = member.consumer
        consumer._consumer = Rebalancing(consumer._consumer, consumer, Place(topic, 0), back_at=5)  # type: ignore[assignment]
        assert consumer.poll(10, WITHIN) == []
        assert consumer.positions() == {TopicPartition(topic, 0): 5}


def test_partitions_that_could_not_begin_can_be_given_up(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    topic, revoked = broker.topic(1), list[TopicPartition]()

    def assigned(_: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        raise DatabaseUnavailable("away")

    consumer = KafkaConsumer(broker, unique("group"))
    consumer.subscribe([topic], assigned, revoked.extend)
    with pytest.raises(DatabaseUnavailable):
        until(lambda: consumer.poll(10, 0.1), "an assignment")
    consumer.close()
    assert not revoked
    assert not caplog.records


def test_two_members_share_the_partitions_and_the_one_that_stays_gets_all(broker: Broker) -> None:
    topic, group = broker.topic(4), unique("group")
    everything = {TopicPartition(topic, partition) for partition in range(4)}
    with Member(broker, group, [topic]) as stays:
        stays.has(lambda: stays.partitions == everything, "all partitions")
        with Member(broker, group, [topic]) as leaves:
            leaves.has(lambda: stays.poll() or (len(leaves.partitions), len(stays.partitions)) == (2, 2), "halves")
            assert stays.partitions | leaves.partitions == everything
        stays.has(lambda: stays.partitions == everything, "all partitions again")


@pytest.mark.parametrize("starts_at", [None, 0])
def test_pause_holds_for_partitions_that_come_while_paused(broker: Broker, starts_at: int | None) -> None:
    topic, group = broker.topic(2), unique("group")
    starts = {} if starts_at is None else {TopicPartition(topic, partition): starts_at for partition in range(2)}
    with Member(broker, group, [topic], starts) as stays:
        with Member(broker, group, [topic]) as leaves:
            leaves.has(lambda: stays.poll() or (len(leaves.partitions), len(stays.partitions)) == (1, 1), "halves")
            stays.consumer.pause()
            for key in ("0", "1", "2", "3", "4", "5", "6", "7"):
                fill(broker, topic, [b"v"], key=key)
            assert all(Topics(broker).ends([topic]).values())
        stays.has(lambda: len(stays.partitions) == 2, "all partitions")
        for _ in range(10):
            stays.poll()
        assert stays.records == []
        stays.consumer.resume()
        assert len(stays.read(8)) == 8


def test_partitions_that_are_paused_by_name_wait_and_the_others_go_on(broker: Broker) -> None:
    topic = broker.topic(2)
    held, free = "6", "7"

    def send_to_each(value: bytes) -> None:
        for key in (held, free):
            fill(broker, topic, [value], key=key)

    def keys_from(number: int, to: int) -> list[bytes | None]:
        return [record.key for record in member.read(to)[number:]]

    with Member(broker, unique("group"), [topic]) as member:
        send_to_each(b"before")
        places = {record.key: TopicPartition(topic, record.partition) for record in member.read(2)}
        assert len(set(places.values())) == 2, "the keys are to lie in two partitions"
        member.consumer.pause([places[held.encode()]])
        for _ in range(3):
            send_to_each(b"meanwhile")
        assert keys_from(2, to=5) == [free.encode()] * 3
        member.consumer.pause()
        member.consumer.resume()
        fill(broker, topic, [b"later"], key=free)
        assert keys_from(5, to=6) == [free.encode()], "to resume all is not to resume what was paused by name"
        member.consumer.resume([places[held.encode()]])
        assert keys_from(6, to=9) == [held.encode()] * 3


def test_a_partition_that_is_paused_by_name_is_paused_when_it_comes_again(broker: Broker) -> None:
    topic, group = broker.topic(2), unique("group")
    places = {TopicPartition(topic, partition) for partition in range(2)}
    with Member(broker, group, [topic]) as stays:
        stays.has(lambda: stays.partitions == places, "all partitions")
        with Member(broker, group, [topic]) as leaves:
            leaves.has(lambda: stays.poll() or (len(leaves.partitions), len(stays.partitions)) == (1, 1), "halves")
            stays.consumer.pause(places)  # one of them is not its own now
        stays.has(lambda: stays.partitions == places, "all partitions again")
        for key in "01234567":
            fill(broker, topic, [b"v"], key=key)
        assert all(Topics(broker).ends([topic]).values())
        for _ in range(10):
            stays.poll()
        assert stays.records == []
        stays.consumer.resume(places)
        assert len(stays.read(8)) == 8


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_i14_what_is_paused_stays_so_when_a_partition_begins_again(broker: Broker, strategy: str) -> None:
    """Librdkafka forgets the pause of what it is assigned anew: without cooperation, of every partition."""
    topic = broker.topic(2)
    places = [TopicPartition(topic, partition) for partition in range(2)]
    for key in ("6", "7"):
        fill(broker, topic, [b"v"], key=key)
    # Begun where it says: where the group's offset is asked for, a partition that has none would begin again by itself.
    starts = dict.fromkeys(places, 0)
    with Member(broker.having(partition_assignment_strategy=strategy), unique("group"), [topic], starts) as member:
        assert {record.partition for record in member.read(2)} == {0, 1}
        member.consumer.pause(places)
        for key in ("6", "7"):
            fill(broker, topic, [b"w"], key=key)
        member.consumer._begin_again(places[0], None, KafkaError(KafkaError.OFFSET_OUT_OF_RANGE))
        for _ in range(10):
            member.poll()
        assert len(member.records) == 2
        member.consumer.resume(places)
        values = [record.value for record in member.read(5)[2:] if record.partition == 0]
        assert values == [b"v", b"w"]


STATIC_MEMBER = """
import sys
from tests.contract.kafka_kit import Broker, Member
broker = Broker(sys.argv[1], eval(sys.argv[4])).having(instance_id="replica-0")
member = Member(broker, sys.argv[2], [sys.argv[3]])
member.joined()
print("joined", flush=True)
member.has(lambda: False, "the kill")
"""


def test_static_member_takes_over_at_once_after_a_kill(broker: Broker) -> None:
    if broker.embedded:
        pytest.skip("the mock cluster waits for the session to end")
    topic, group = broker.topic(4), unique("group")
    patient = broker.having(session_timeout_ms=int(WITHIN * 1_000 * 2))  # longer than this test would wait
    with child(STATIC_MEMBER, patient.bootstrap_servers, group, topic, repr(dict(patient.kafka))) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "joined\n"
        process.kill()
    with Member(patient.having(instance_id="replica-0"), group, [topic]) as member:
        member.has(lambda: len(member.partitions) == 4, "all partitions")


def test_second_process_with_the_same_instance_id_stops_the_first_with_a_clear_error(broker: Broker) -> None:
    if broker.embedded:
        pytest.skip("the mock cluster does not fence")
    topic, group = broker.topic(1), unique("group")
    mine = broker.having(instance_id="replica-0")
    with Member(mine, group, [topic]) as first:
        first.joined()
        with Member(mine, group, [topic]) as second:
            second.joined()
            with pytest.raises(ConfigurationError, match=r"instance id 'replica-0'.*KAFKASAGA_INSTANCE_ID"):
                first.has(lambda: False, "the fence")


def test_eager_assignment_works_too(broker: Broker) -> None:
    topic, group = broker.topic(2), unique("group")
    fill(broker, topic, [b"1", b"2"])
    eager = broker.having(partition_assignment_strategy="range")
    with Member(eager, group, [topic]) as member:
        assert [record.value for record in member.read(2)] == [b"1", b"2"]
        member.store_all()
    with Member(eager, group, [topic]) as member:
        fill(broker, topic, [b"3"])
        assert [record.value for record in member.read(1)] == [b"3"]


def test_topics_are_made_once_and_then_not_missing(broker: Broker) -> None:
    old, new = unique("topic"), unique("topic")
    assert create_topics(broker, [old], partitions=4) == [old]
    assert missing_topics(broker, [old, new]) == [new]
    assert create_topics(broker, [old, new], partitions=4) == [new]
    assert create_topics(broker, [old, new], partitions=4) == []
    assert Topics(broker).existing()[new] == 4


def test_ends_of_a_topic_that_does_not_exist_are_an_error_that_names_it(broker: Broker) -> None:
    topic = unique("topic")
    with pytest.raises(TopicsError, match=topic):
        Topics(broker).ends([topic])
    assert missing_topics(broker, [topic]) == [topic]


def test_refused_topic_is_named_with_the_reason(broker: Broker) -> None:
    if broker.embedded:
        pytest.skip("the mock cluster accepts any name")
    with pytest.raises(TopicsError, match=r"not a topic!: .*invalid"):
        create_topics(broker, ["not a topic!"])


def test_nobody_at_the_address_is_an_error_that_names_it() -> None:
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1 did not answer"):
        Topics(Broker("127.0.0.1:1"), timeout=0.5).existing()


class Closing(Refusing):
    """Tells what was called last."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.told: list[str] = []

    def consume(self, limit: int, timeout: float) -> list[Message]:
        self.told.append("consume")
        found: list[Message] = self._client.consume(limit, timeout)
        return found

    def close(self) -> None:
        self.told.append("close")
        self._client.close()


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_who_is_closed_before_it_heard_of_its_partitions_hears_of_them_first(broker: Broker, strategy: str) -> None:
    """Otherwise librdkafka tells of assignment and loss at once, and may leave the binding waiting with the GIL."""
    topic, told = broker.topic(1), list[TopicPartition]()
    fill(broker, topic, [b"1"])

    def assigned(places: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        told.extend(places)
        return {}

    consumer = KafkaConsumer(broker.having(partition_assignment_strategy=strategy), unique("group"))
    consumer.subscribe([topic], assigned, told.extend)
    member, waiting = consumer._consumer, threading.Event()
    client = consumer._consumer = Closing(member)  # type: ignore[assignment]
    until(lambda: member.memberid() or waiting.wait(0.01), "a member id")
    consumer.close()
    assert client.told[-2:] == ["consume", "close"]
    assert not told, "nobody takes what would be assigned now"
