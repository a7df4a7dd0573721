"""What the benchmark tells a peer's process to do, and what it hears from it: over a pipe, in pickles.

This module is imported in the environments of the peers, where kafkasaga and its dependencies are not installed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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
