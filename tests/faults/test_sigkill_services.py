"""SIGKILL at random moments, on PostgreSQL and Apache Kafka: nothing lost, doubled or reordered.

Both services run as processes and are killed and started again while orders come in. Afterwards the topics and the
databases are read from outside and compared with the orders that were placed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.integration.runtime_kit import Broker, Program, Shop, shop_on, until
from tests.support import KafkaServer

ORDERS = 200
KILLS = 5


@pytest.fixture
def shop(kafka: KafkaServer, postgres_url: str, tmp_path: Path) -> Iterator[Shop]:
    with shop_on(postgres_url, Broker(kafka.bootstrap_servers), tmp_path / "fault") as shop:
        yield shop


class Fleet:
    """The shop's two processes, which are killed and started again."""

    def __init__(self, shop: Shop, stack: ExitStack) -> None:
        self._shop, self._stack = shop, stack
        self._running: dict[str, Program] = {}
        for service in ("stock", "orders"):
            self.start(service)

    def start(self, service: str) -> None:
        # A stable instance id: the successor takes its predecessor's partitions over at once.
        process = self._shop.process(service, KAFKASAGA_INSTANCE_ID=f"{service}-0")
        self._running[service] = self._stack.enter_context(process)

    def kill(self, service: str) -> None:
        self._running[service].kill()
        self.start(service)

    def stop(self) -> list[tuple[int, str]]:
        return [program.terminate() for program in self._running.values()]


def read(shop: Shop, topic: str) -> dict[bytes, list[bytes]]:
    """The ids of a topic's records by key, in order."""
    consumer = Consumer(
        {"bootstrap.servers": shop.bootstrap_servers, "group.id": "checker", "enable.auto.commit": False}
    )
    found: dict[bytes, list[bytes]] = defaultdict(list)
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        for partition in partitions:
            place = TopicPartition(topic, partition, 0)
            _, end = consumer.get_watermark_offsets(place, timeout=30)
            consumer.assign([place])
            offset = 0
            while offset < end:
                message = consumer.poll(30)
                assert message is not None
                assert message.error() is None
                offset = (message.offset() or 0) + 1
                headers = dict(message.headers() or [])
                found[message.key() or b""].append(headers["ce_id"] or b"")  # type: ignore[arg-type]
    finally:
        consumer.close()
    return found


def test_i02_i03_i04_services_that_are_killed_lose_double_and_reorder_nothing(shop: Shop) -> None:
    random = Random(20261122)
    orders = [f"declined{n}" if n % 10 == 0 else f"good{n}" for n in range(ORDERS)]
    waiting = list(orders)
    with ExitStack() as stack:
        fleet = Fleet(shop, stack)
        shop.place(*(waiting.pop() for _ in range(20)))
        until(lambda: len(shop.ended()) >= 10, "sagas end")
        for kill in range(KILLS):
            for _ in range((ORDERS - 20) // KILLS):
                shop.place(waiting.pop())
            before = len(shop.ended())
            until(lambda before=before: len(shop.ended()) > before, "it works again after the last kill")  # type: ignore[misc]
            time.sleep(random.random() * 0.3)  # any moment will do
            fleet.kill(("stock", "orders")[kill % 2])
        if waiting:
            shop.place(*waiting)
        until(lambda: len(shop.ended()) == ORDERS, "all sagas end")
        shop.check()
        exits = fleet.stop()
    assert [status for status, _ in exits] == [0, 0], exits

    assert shop.ended() == {id: "cancelled" if id.startswith("declined") else "completed" for id in orders}
    expected = {id: ["reserve", "release" if id.startswith("declined") else "pay"] for id in orders}
    assert shop.movements() == expected, "nothing lost, doubled or reordered in the participant's database"
    for topic in ("reserve", "reserved", "pay", "ended"):
        seen = read(shop, f"{shop.topics}.{topic}")
        assert set(seen) == {id.encode() for id in orders}
        assert all(len(set(ids)) == 1 for ids in seen.values()), f"{topic}: one message for each order"
