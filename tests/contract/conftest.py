"""The brokers of the Kafka contract: the embedded one and Apache Kafka."""

import pytest

from kafkasaga.testing import EmbeddedKafka
from tests.contract.kafka_kit import Broker
from tests.support import KafkaServer


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.embedded),
        pytest.param("kafka", marks=pytest.mark.kafka),
    ]
)
def broker(request: pytest.FixtureRequest) -> Broker:
    """A broker as settings: once embedded, once Apache Kafka."""
    if request.param == "embedded":
        embedded: EmbeddedKafka = request.getfixturevalue("embedded_kafka")
        return Broker(embedded.bootstrap_servers, embedded.kafka, embedded=embedded)
    server: KafkaServer = request.getfixturevalue("kafka")
    return Broker(server.bootstrap_servers)
