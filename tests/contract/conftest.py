"""The brokers of the Kafka contract: the embedded one and Apache Kafka."""

from collections.abc import Iterator

import pytest

from kafkasaga.testing.embedded import EmbeddedKafka
from tests.contract.kafka_kit import Broker
from tests.support import KafkaServer


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.embedded),
        pytest.param("kafka", marks=pytest.mark.kafka),
    ]
)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker as settings: once embedded, once Apache Kafka."""
    if request.param == "embedded":
        with EmbeddedKafka() as embedded:
            yield Broker(embedded.bootstrap_servers, embedded.kafka, embedded=embedded)
    else:
        server: KafkaServer = request.getfixturevalue("kafka")
        yield Broker(server.bootstrap_servers)
