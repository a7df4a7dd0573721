"""Chaos: every service is killed at random moments, several times, and started again."""

import threading
import time
from collections.abc import Sequence
from random import Random

from .processes import ServiceProcess

SECONDS_A_KILL = 1.5
"""On average between two kills: about what a service needs to start on a small machine."""


class Chaos:
    """A thread that kills. The seed decides whom and when."""

    def __init__(self, processes: Sequence[ServiceProcess], kills_each: int, seed: int) -> None:
        random = Random(seed)
        victims = [process for process in processes for _ in range(kills_each)]
        random.shuffle(victims)
        self.seconds = SECONDS_A_KILL * len(victims)
        moments = sorted(random.uniform(0, self.seconds) for _ in victims)
        self._plan = list(zip(moments, victims, strict=True))
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leave out the kills that are still to come."""
        self._enough.set()
        self.join()

    def join(self) -> None:
        """Wait for the last kill."""
        if self._thread.is_alive():
            self._thread.join()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        began = time.monotonic()
        for moment, victim in self._plan:
            if self._enough.wait(max(0.0, began + moment - time.monotonic())):
                return
            victim.kill_and_restart()
