"""What the benchmark tells a peer's process to do, and what it hears from it: over a pipe, in pickles.

This module is imported in the environments of the peers, where kafkasaga and its dependencies are not installed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

CLOSED_LOOP = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """Orders to place, at most ``in_flight`` at once: the next when one has ended, or ``rate`` of them a second."""

    bodies: list[bytes]
    """The JSON of ``order.created``."""
    in_flight: int
    rate: float = CLOSED_LOOP


@dataclass(frozen=True, slots=True)
class End:
    """How an order ended. All times are those of the machine's monotonic clock."""

    status: str
    sent: float
    decided: float
    """The payment had answered: what follows is known."""
    ended: float


def jobs(descriptor: int) -> Iterator[tuple[Job, Connection]]:
    """In the peer's process: say that all is ready, and take jobs until the other side closes the pipe."""
    pipe = Connection(descriptor)
    pipe.send("ready")
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        yield job, pipe


def due_times(job: Job) -> Iterator[float]:
    """When each order of a job with a rate is to be placed."""
    began = time.monotonic()
    for number in range(len(job.bodies)):
        yield began + number / job.rate


async def place_all(job: Job, place: Callable[[bytes, float], Awaitable[End]]) -> list[End]:
    """Place the orders of a job, each by a body and the moment at which it was due."""
    places = asyncio.Semaphore(job.in_flight)

    async def one(body: bytes, due: float) -> End:
        async with places:
            return await place(body, due or time.monotonic())

    remaining = iter(job.bodies)
    tasks = [asyncio.create_task(one(next(remaining), due)) async for due in _turns(job)]
    return await asyncio.gather(*tasks)


async def _turns(job: Job) -> AsyncIterator[float]:
    """When each order is to be placed, if not at once: waits until then."""
    if job.rate:
        for due in due_times(job):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            yield due
    else:
        for _ in job.bodies:
            yield 0.0
