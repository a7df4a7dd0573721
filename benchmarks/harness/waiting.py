"""Waiting for a condition, while the processes that are to bring it about live."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from benchmarks.harness.figures import WrongResult
from benchmarks.harness.processes import Worker

LONGEST = 900.0


def wait_until(
    what: str,
    condition: Callable[[], object],
    workers: Iterable[Worker] = (),
    *,
    every: float = 0.02,
    within: float = LONGEST,
) -> None:
    """Raises WrongResult if it does not come about, WorkerEnded if a process ends meanwhile."""
    end = time.monotonic() + within
    watched = list(workers)
    while not condition():
        for worker in watched:
            worker.check_alive()
        if time.monotonic() > end:
            raise WrongResult(f"{what} did not come about within {within:.0f} s")
        time.sleep(every)
