"""Customers: they place orders over HTTP, and do not give up when nobody answers."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from uuid import UUID

import httpx

from .seed import PlannedOrder

AT_ONCE = 16
"""Requests under way at once."""
ANSWER_SECONDS = 10.0
"""For the front to answer one request."""
PAUSE_SECONDS = 0.1
"""Before a request that was not answered is sent again."""


class FrontError(RuntimeError):
    """The front refused an order that it should accept."""


@dataclass
class Customers:
    """Everybody who orders in this run.

    A request that was not answered is sent again with the same Idempotency-Key: whether the front died before or
    after it had taken the order, there is one order in the end.
    """

    front: str
    run_id: str
    placed: dict[UUID, float] = field(default_factory=dict[UUID, float])
    """When each order was first sent (the client's clock)."""
    retries: int = 0

    async def place(self, orders: Sequence[PlannedOrder], *, first: int, spread: float) -> None:
        """Place orders, evenly over ``spread`` seconds; ``first`` is the number of the first one."""
        began = time.monotonic()
        gate = asyncio.Semaphore(AT_ONCE)
        client = httpx.AsyncClient(base_url=self.front, timeout=ANSWER_SECONDS)
        async with client, asyncio.TaskGroup() as tasks:
            for position, order in enumerate(orders):
                await gate.acquire()
                await asyncio.sleep(began + spread * position / len(orders) - time.monotonic())
                placing = tasks.create_task(self._place(client, order, f"{self.run_id}-{first + position}"))
                placing.add_done_callback(lambda _: gate.release())

    async def _place(self, client: httpx.AsyncClient, order: PlannedOrder, key: str) -> None:
        sent = time.time()
        while True:
            try:
                answer = await client.post("/orders", json=order.body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                answer = None
            if answer is not None and not answer.is_server_error:
                break
            self.retries += 1
            await asyncio.sleep(PAUSE_SECONDS)
        if answer.status_code != HTTPStatus.ACCEPTED:
            raise FrontError(f"POST /orders: {answer.status_code} {answer.text}")
        self.placed[UUID(answer.headers["Location"].rpartition("/")[2])] = sent
