"""How long a consumer gathers messages for a batch: not at all while it is idle, a moment while it is busy.

A batch costs as much as dozens of its messages: its round trips, its fsync, the relay's round for what it sent, the
requests to Kafka on both sides. Where messages trickle in from busy neighbours, taking what is there makes many small
batches, and all services are busy with those. So the moment grows with the square of the time that the consumer is at
work. Where messages come one by one there is nothing to gather, however long each of them takes; and a backlog fills a
batch without any wait.
"""

from __future__ import annotations

from math import exp
from typing import Final

from kafkasaga.clock import Clock

LONGEST: Final = 0.02
"""Seconds."""
WORTH: Final = 8
"""Messages that a batch has to have on average."""
MEMORY: Final = 0.3
"""Seconds after which what was weighs a third."""
LAST: Final = 0.2
"""What the last batch weighs in the average."""


class Pace:
    """The pace of one consumer. It is told when a poll has returned, and when its batch is done."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._at = clock, clock.monotonic()
        self._busy = 0.0
        self._size = 0.0

    @property
    def gather(self) -> float:
        """Seconds to wait for more messages behind the first one."""
        return LONGEST * self._busy**2 if self._size >= WORTH else 0.0

    def polled(self, gathered: float) -> None:
        """A poll has returned, of which so many seconds at most were spent on gathering."""
        self._at = min(self._at + gathered, self._clock.monotonic())
        self._spent(working=False)

    def worked(self, messages: int) -> None:
        """What was polled is done."""
        self._size += (messages - self._size) * LAST
        self._spent(working=True)

    def _spent(self, *, working: bool) -> None:
        now = self._clock.monotonic()
        weight = 1.0 - exp((self._at - now) / MEMORY)
        self._busy += (working - self._busy) * weight
        self._at = now
