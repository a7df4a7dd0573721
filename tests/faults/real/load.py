"""What the system is asked to do meanwhile: orders over HTTP, and readings of the meters. All of it is remembered."""

from __future__ import annotations

import asyncio
import threading
import time
from random import Random
from uuid import UUID, uuid4, uuid5

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from kafkasaga.examples.order_system.demo.customers import Customers
from kafkasaga.examples.order_system.demo.seed import PlannedOrder, planned_orders
from kafkasaga.examples.order_system.front import KEYS
from kafkasaga.stores.engine import create_library_engine
from tests.faults.real.meter import Asked, Reading, meter

METERS = 6
READINGS_AT_ONCE = 5
"""Most in one transaction: several rows of one key that the relay sees together."""
RETRY_SECONDS = 0.2
SHARE_SECONDS = 1.0
"""Orders are decided for so long in advance: the load ends within that time."""


class OrderLoad:
    """Customers, in a thread. Each order's request and planned outcome are known by the id that it must get."""

    def __init__(self, front: str, rate: float, seed: int) -> None:
        self._customers = Customers(front, run_id=uuid4().hex)
        self._rate, self._seed = rate, seed
        self.planned: dict[UUID, PlannedOrder] = {}
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)

    @property
    def repeated(self) -> int:
        """Requests that had to be sent again."""
        return self._customers.retries

    @property
    def placed(self) -> set[UUID]:
        return set(self._customers.placed)

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)
        self._thread.start()

    def stop(self, within: float) -> None:
        """Place no more, and wait for the answers to what was sent."""
        self._stopping.set()
        self._thread.join(within)
        if self._thread.is_alive():
            raise TimeoutError(f"orders were not answered within {within:.0f} s")
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # noqa: BLE001 (raised by stop)
            self._failure = error

    async def _all(self) -> None:
        count = max(4, round(self._rate * SHARE_SECONDS))
        while not self._stopping.is_set():
            first = len(self.planned)
            orders = planned_orders(count, self._seed + first)
            for position, order in enumerate(orders):
                self.planned[uuid5(KEYS, f"{self._customers.run_id}-{first + position}")] = order
            await self._customers.place(orders, first=first, spread=SHARE_SECONDS)


class MeterLoad:
    """Readings, written into the outbox by a transaction of our own, in a thread."""

    def __init__(self, url: str, rate: float, seed: int) -> None:
        self._engine = create_library_engine(url, pool_pre_ping=True)
        self._rate, self._random = rate, Random(seed)
        self.sent = {f"meter-{n}": 0 for n in range(METERS)}
        """The last number of each meter that is committed."""
        self.unclear = 0
        """Commits of which nobody could tell at first whether they had happened."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="readings", daemon=True)

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="readings", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def close(self) -> None:
        self._engine.dispose()

    def _run(self) -> None:
        while not self._stopping.is_set():
            name = self._random.choice(sorted(self.sent))
            count = self._random.randint(1, READINGS_AT_ONCE)
            first = self.sent[name] + 1
            while not self._written(name, range(first, first + count)):
                time.sleep(RETRY_SECONDS)
            self.sent[name] += count
            time.sleep(count / self._rate)

    def _written(self, name: str, numbers: range) -> bool:
        try:
            with Session(self._engine) as session, session.begin():
                if session.get(Asked, (name, numbers[0])) is not None:
                    self.unclear += 1  # the commit had been heard, its answer had not
                    return True
                session.add_all(Asked(meter=name, number=number) for number in numbers)
                meter.outbox.publish(session, *(Reading(meter=name, number=number) for number in numbers))
        except OperationalError:
            return False
        return True
