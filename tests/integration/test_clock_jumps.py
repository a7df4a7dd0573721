"""Invariant I12 with real processes: clocks that leap by hours, both ways, while sagas wait under deadlines."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kafkasaga.runtime.operator import Operator
from kafkasaga.testing import EmbeddedKafka
from tests.integration.runtime_kit import ROOT, Program, Shop, shop_on, until

# Python runs this file when it starts: the clock port of the whole process then reads how far it is off.
LEAPING = """
import os
from datetime import timedelta
from pathlib import Path
from kafkasaga.clock import SystemClock

right = SystemClock.now
SystemClock.now = lambda self: right(self) + timedelta(hours=float(Path(os.environ["LEAP"]).read_text()))
"""


@dataclass(frozen=True)
class Leaping:
    """The shop, whose services have clocks that a test sets."""

    shop: Shop
    path: Path

    def leap(self, service: str, hours: float) -> None:
        """Set a service's clock; a file is replaced at once, so that nobody reads half of it."""
        new = self.path / f"{service}.new"
        new.write_text(str(hours))
        new.replace(self.path / service)

    @contextmanager
    def running(self, service: str, *options: str) -> Generator[None]:
        path = os.pathsep.join([str(self.path), str(ROOT / "src")])
        leaping = {"PYTHONPATH": path, "LEAP": str(self.path / service)}
        program = Program(["run", f"shop:{service}", *options], {**self.shop.environment, **leaping})
        try:
            yield
            status, output = program.terminate()
            assert status == 0, output
        finally:
            program.end()

    def wait_for(self, status: str, *orders: str) -> None:
        def ended() -> bool:
            found = self.shop.ended()
            return all(found.get(order) == status for order in orders)

        until(ended, f"{orders} are {status}")

    def sent(self, *orders: str) -> None:
        """Sagas of these have begun, and their commands have left."""
        queries = self.shop.store("orders").queries()
        until(
            lambda: {saga.key for saga in queries.sagas()} >= set(orders) and queries.counts().outbox == 0,
            f"the commands of {orders} are sent",
        )


@pytest.fixture
def leaping(tmp_path: Path) -> Generator[Leaping]:
    (tmp_path / "sitecustomize.py").write_text(LEAPING)
    url = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    with EmbeddedKafka() as broker, shop_on(url, broker, tmp_path / "fault", broker.create_topics) as shop:
        leaping = Leaping(shop, tmp_path)
        for service in ("orders", "stock"):
            leaping.leap(service, 0)
        yield leaping


@pytest.mark.timeout(300)
def test_i12_clocks_that_leap_lose_double_and_cancel_nothing(leaping: Leaping) -> None:
    """Every step has a deadline of ten minutes."""
    shop = leaping.shop
    late, back, silent = ("late0", "late1", "late2"), ("back0", "back1"), ("silent0", "silent1")
    orders = shop.store("orders").queries()
    with leaping.running("orders"):
        shop.place(*late)
        shop.publish(shop.module.Reserved(order="nobody"))
        leaping.sent(*late)
        until(orders.parked, "a reply for nobody is parked")
    leaping.leap("stock", -30)
    with leaping.running("stock"):  # the replies wait, and nobody reads them
        until(lambda: len(shop.movements()) == len(late), "what was asked is done")
        until(lambda: shop.store("stock").queries().counts().outbox == 0, "the replies are in their topic")
    leaping.leap("orders", 5)
    leaping.leap("stock", 26)
    tried = orders.parked()[0].attempts
    with leaping.running("orders", "--role", "timekeeper"):  # by its clock every deadline is long over
        # It looks at what is due first, then at what is parked.
        until(lambda: orders.parked()[0].attempts > tried + 1, "it has looked twice")
    with leaping.running("orders"):
        with leaping.running("stock"):
            leaping.wait_for("completed", *late)
            leaping.leap("orders", -7)
            leaping.leap("stock", 3)
            shop.place("early0", "early1", "declined0")
            leaping.wait_for("completed", "early0", "early1")
            leaping.wait_for("cancelled", "declined0")
        shop.place(*back)
        leaping.sent(*back)
        leaping.leap("orders", -60)  # the deadline is two days and more away
        with leaping.running("stock"):
            leaping.wait_for("completed", *back)
        shop.place(*silent)
        leaping.sent(*silent)
        leaping.leap("orders", 40)  # nobody has answered by then: the outcome is unknown
        with leaping.running("stock"):
            leaping.wait_for("cancelled", *silent)
            (nobody,) = orders.parked()
            Operator(shop.store("orders")).act(nobody.id, "discard", by="ann", why="it was for nobody")
            shop.check()
    done = shop.movements()
    good = (*late, "early0", "early1", *back)
    assert {order: done.get(order) for order in good} == {key: ["reserve", "pay"] for key in good}
    assert done["declined0"] == ["reserve", "release"]
    for order in silent:  # the compensation has a topic of its own, and may be there first
        assert done.get(order, []) in (["reserve", "release"], [])
