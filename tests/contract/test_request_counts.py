"""Kafka requests of a batch, however large it is: counted by the broker, and independent of the machine.

What is not counted: Fetch, which a consumer sends whenever the last one was answered, and that is with what has arrived
by then, or after ``fetch.wait.max.ms`` (how many messages share one depends on the time between them); and Heartbeat,
Metadata and the like, which go by the clock and not by messages.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kafkasaga.kafka import config
from kafkasaga.testing import EmbeddedKafka
from tests.contract.kafka_kit import Broker, Member, fill, unique
from tests.contract.mock_kit import Api, Mock
from tests.contract.relay_kit import Relaying, relaying

SIZES = (1, 10, 100)
PARTITIONS = 4
NEVER_MS = 100_000
"""Longer than a test takes."""

pytestmark = pytest.mark.embedded


@pytest.fixture
def broker(embedded_kafka: EmbeddedKafka) -> Broker:
    return Broker(embedded_kafka.bootstrap_servers, embedded_kafka.kafka, embedded=embedded_kafka)


@pytest.fixture
def mock(embedded_kafka: EmbeddedKafka) -> Mock:
    return Mock(embedded_kafka)


@pytest.fixture
def relay(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relaying]:
    """Requests leave when the relay waits for them, and not when 5 or 50 ms are over on a machine that stood still."""
    for defaults in ("STREAM_DEFAULTS", "PRODUCER_DEFAULTS"):
        monkeypatch.setattr(config, defaults, {**getattr(config, defaults), config.LINGER: NEVER_MS})
    with relaying(broker) as relay:
        yield relay


def publish(relay: Relaying, topic: str, *keys: str) -> None:
    relay.put((topic, key, b"1") for key in keys)
    relay.step_until(lambda: relay.waiting() == 0, "an empty outbox")


def trusted(relay: Relaying, broker: Broker, partitions: int = 1) -> str:
    """A topic whose rows are streamed."""
    topic = broker.topic(partitions)
    publish(relay, topic, "first")
    publish(relay, topic, "second")
    return topic


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_rows_is_one_produce_request(relay: Relaying, broker: Broker, mock: Mock, size: int) -> None:
    topic = trusted(relay, broker)
    mock.count_requests()
    publish(relay, topic, *(f"key {n}" for n in range(size)))
    assert mock.counted()[Api.PRODUCE] == 1


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_rows_is_one_produce_request_for_each_partition(
    relay: Relaying, broker: Broker, mock: Mock, size: int
) -> None:
    topic = trusted(relay, broker, PARTITIONS)
    mock.count_requests()
    for _ in range(2):
        publish(relay, topic, *(f"key {n % 20}" for n in range(20 * size)))
    first_of_each_key, what_waited_for_them, all_of_the_second = PARTITIONS, PARTITIONS if size > 1 else 0, PARTITIONS
    assert mock.counted()[Api.PRODUCE] == first_of_each_key + what_waited_for_them + all_of_the_second


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_rows_of_one_key_is_one_produce_request(
    relay: Relaying, broker: Broker, mock: Mock, size: int
) -> None:
    topic = trusted(relay, broker)
    mock.count_requests()
    publish(relay, topic, *["second"] * size)
    assert mock.counted()[Api.PRODUCE] == 1


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_a_topic_that_is_not_trusted_yet_are_one_produce_request_for_all_keys(
    relay: Relaying, broker: Broker, mock: Mock, size: int
) -> None:
    trusted(relay, broker)  # the client is connected
    topic = broker.topic(1)
    mock.count_requests()
    publish(relay, topic, *(f"key {n}" for n in range(size)))
    assert mock.counted()[Api.PRODUCE] == 1


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_that_is_read_commits_no_offsets_by_itself(broker: Broker, mock: Mock, size: int) -> None:
    """They are committed once in a while, and when the consumer ends, however many messages it has read."""
    topic = broker.topic(1)
    mock.count_requests()
    with Member(broker.having(auto_commit_interval_ms=NEVER_MS), unique("group"), [topic]) as member:
        member.joined()
        for batch in range(1, 4):
            fill(broker, topic, [b"1"] * size)
            member.read(batch * size)
            member.store_all()
        assert mock.counted()[Api.OFFSET_COMMIT] == 0
    assert mock.counted()[Api.OFFSET_COMMIT] == 1
