"""Kafka or the database is away, at the start and in between: services wait, lose nothing, and go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import TopicPartition as Place

from tests.integration.runtime_kit import Broker, Shop, shop_on, until
from tests.support import KafkaServer, PostgresServer


@pytest.fixture
def shop(private_kafka: KafkaServer, private_postgres: PostgresServer, tmp_path: Path) -> Iterator[Shop]:
    url = private_postgres.create_database()
    with shop_on(url, Broker(private_kafka.bootstrap_servers), tmp_path / "fault") as shop:
        yield shop


def test_services_outlive_their_broker_and_their_database(
    shop: Shop, private_kafka: KafkaServer, private_postgres: PostgresServer
) -> None:
    private_kafka.stop()
    with shop.process("stock") as stock, shop.process("orders") as orders:
        shop.place("before")
        for program in (stock, orders):
            until(lambda program=program: "waiting for what is away" in program.output(), "it waits for the broker")  # type: ignore[misc]
        private_kafka.start()
        until(lambda: shop.ended() == {"before": "completed"}, "what was published without a broker goes through")

        private_kafka.kill()
        shop.place("meanwhile")
        private_kafka.start()
        until(lambda: "meanwhile" in shop.ended(), "it goes on after the broker was killed")

        for number, away in enumerate((private_postgres.stop, private_postgres.kill)):
            shop.place(*(f"{number}/{n}" for n in range(20)))
            away()
            private_postgres.start()
            shop.engine.dispose()
            shop.store("orders").engine.dispose()
            until(lambda number=number: len(shop.ended()) == 2 + 20 * (number + 1), "it goes on with the database")  # type: ignore[misc]
        shop.check()
        assert set(map(tuple, shop.movements().values())) == {("reserve", "pay")}
        for program in (stock, orders):
            status, output = program.terminate()
            assert status == 0, output
            assert "Traceback" not in output
            assert "waiting for what is away" in output


def test_i05_while_the_database_is_away_the_groups_offsets_stay(shop: Shop, private_postgres: PostgresServer) -> None:
    def committed() -> int:
        consumer = Consumer({"bootstrap.servers": shop.bootstrap_servers, "group.id": "orders"})
        try:
            places = consumer.committed([Place(f"{shop.topics}.placed", n) for n in range(4)], timeout=10)
            return sum(max(place.offset, 0) for place in places)
        except KafkaException:  # the group has no coordinator yet
            return 0
        finally:
            consumer.close()

    with shop.process("orders") as orders:
        shop.place("first")
        until(lambda: committed() == 1, "the offset follows the commit")
        private_postgres.stop()
        producer = Producer({"bootstrap.servers": shop.bootstrap_servers, "log_level": 0})
        for n in range(10):
            producer.produce(f"{shop.topics}.placed", f'{{"order":"{n}"}}'.encode(), str(n))
        producer.flush(30)
        assert committed() == 1
        private_postgres.start()
        until(lambda: committed() == 11, "they are read when it is back")
        status, output = orders.terminate()
        assert (status, "Traceback" in output) == (0, False), output
    shop.engine.dispose()
    shop.store("orders").engine.dispose()
    assert shop.store("orders").queries().counts().sagas
