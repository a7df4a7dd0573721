"""The shop, over both brokers and both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkasaga.testing import EmbeddedKafka
from tests.integration.runtime_kit import Broker, Shop, shop_on
from tests.support import KafkaServer


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.embedded),
        pytest.param("kafka", marks=pytest.mark.kafka),
    ]
)
def shop(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Shop]:
    """On the embedded broker and on Apache Kafka, on SQLite and on PostgreSQL."""
    fault = tmp_path / "fault"
    if request.param == "embedded":
        broker: EmbeddedKafka = request.getfixturevalue("embedded_kafka")
        with shop_on(database_url, broker, fault, broker.create_topics) as shop:
            yield shop
    else:
        server: KafkaServer = request.getfixturevalue("kafka")
        with shop_on(database_url, Broker(server.bootstrap_servers), fault) as shop:
            yield shop


@pytest.fixture
def real_shop(kafka: KafkaServer, postgres_url: str, tmp_path: Path) -> Iterator[Shop]:
    """On Apache Kafka and PostgreSQL."""
    with shop_on(postgres_url, Broker(kafka.bootstrap_servers), tmp_path / "fault") as shop:
        yield shop
