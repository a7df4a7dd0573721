"""What only the embedded broker does, and does not."""

import json

import pytest

from kafkasaga.kafka import Topics
from kafkasaga.testing import embedded
from kafkasaga.testing.embedded import EmbeddedKafka, RecordsDropped
from tests.contract.kafka_kit import Broker, Member, child, fill, unique

pytestmark = pytest.mark.embedded


def test_dropped_records_are_an_error_at_the_end_of_the_block() -> None:
    def overflow() -> None:
        with EmbeddedKafka() as kafka:
            broker = Broker(kafka.bootstrap_servers, kafka.kafka, embedded=kafka)
            fill(broker, broker.topic(1), [b"x" * 500_000] * 12)

    with pytest.raises(RecordsDropped, match=r"about 5 MB a partition .*\[0\]: \d"):
        overflow()


def test_an_error_of_the_block_is_not_hidden_by_dropped_records() -> None:
    def overflow() -> None:
        with EmbeddedKafka() as kafka:
            broker = Broker(kafka.bootstrap_servers, kafka.kafka, embedded=kafka)
            fill(broker, broker.topic(1), [b"x" * 500_000] * 12)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        overflow()


def test_it_listens_on_the_loopback_interface_only() -> None:
    with EmbeddedKafka() as kafka:
        assert kafka.bootstrap_servers.startswith("127.0.0.1:")


OTHER_PROCESS = """
import json, sys
from tests.contract.kafka_kit import Broker, fill
fill(Broker(sys.argv[1], json.loads(sys.argv[2])), sys.argv[3], [b"from elsewhere"])
"""


def test_other_processes_can_use_it() -> None:
    with EmbeddedKafka() as kafka:
        broker = Broker(kafka.bootstrap_servers, kafka.kafka, embedded=kafka)
        topic = broker.topic()
        with child(OTHER_PROCESS, kafka.bootstrap_servers, json.dumps(kafka.kafka), topic) as process:
            assert process.wait(60) == 0
        with Member(broker, unique("group"), [topic]) as member:
            assert [record.value for record in member.read(1)] == [b"from elsewhere"]


def test_without_librdkafkas_own_functions_it_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded._TunedCluster, "possible", lambda: False)
    with EmbeddedKafka() as kafka:
        broker = Broker(kafka.bootstrap_servers, kafka.kafka, embedded=kafka)
        topic = broker.topic(4)
        assert Topics(kafka).existing() == {topic: 4}
        fill(broker, topic, [b"v"])
        with Member(broker, unique("group"), [topic]) as member:
            assert [record.value for record in member.read(1)] == [b"v"]
