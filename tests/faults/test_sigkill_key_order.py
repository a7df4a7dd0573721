"""SIGKILL of a relay in the middle of a backlog: the keys keep their order, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_sigkill_services import read
from tests.integration.runtime_kit import Broker, Shop, shop_on, until
from tests.support import KafkaServer

ROWS, KEYS, KILLS = 30_000, 20, 2


@pytest.fixture
def shop(kafka: KafkaServer, postgres_url: str, tmp_path: Path) -> Iterator[Shop]:
    with shop_on(postgres_url, Broker(kafka.bootstrap_servers), tmp_path / "fault") as shop:
        yield shop


def test_i04_a_killed_relay_repeats_but_does_not_reorder(shop: Shop) -> None:
    placed: dict[bytes, list[bytes]] = {}
    shop.publish(*(shop.module.OrderPlaced(order=f"k{n % KEYS}") for n in range(ROWS)))
    outbox = shop.store("orders").tables.outbox
    with shop.engine.connect() as connection:
        for row in connection.execute(outbox.select().order_by(outbox.c.id)):
            placed.setdefault(row.key.encode(), []).append(str(row.message_id).encode())
    queries = shop.store("orders").queries()
    for kill in range(KILLS):
        left = ROWS - (kill + 1) * ROWS // (KILLS + 2)
        with shop.process("orders") as program:
            until(lambda left=left: queries.counts().outbox < left, "it publishes")  # type: ignore[misc]
            program.kill()
        assert queries.counts().outbox > 0, "it was killed in the middle"
    with shop.process("orders"):
        until(lambda: queries.counts().outbox == 0, "the rest is published")
    seen = read(shop, f"{shop.topics}.placed")
    assert {key: list(dict.fromkeys(ids)) for key, ids in seen.items()} == placed
