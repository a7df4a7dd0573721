"""How long a consumer gathers messages for a batch: not at all while it is idle, a moment while it is busy.

A batch costs as much as dozens of its messages: its round trips, its fsync, the relay's round for what it sent, the
requests to Kafka on both sides. Where messages trickle in from busy neighbours, taking what is there makes many small
batches, and all services are busy with those.

The moment is measured in what a batch takes. On a machine with much to do all take longer, and there waiting costs
nobody anything, for others work meanwhile; where a batch takes a few milliseconds, the moment is a few milliseconds.
It grows with the share of its time that the consumer is at work. Where messages come one by one there is nothing to
gather, however long each of them takes; and a backlog fills a batch without any wait.
"""

from __future__ import annotations

from math import exp
from typing import Final

from kafkasaga.clock import Clock

BATCHES: Final = 4.0
"""The moment of a consumer that is always at work, in times of a batch."""
LONGEST: Final = 0.1
"""Seconds."""
WORTH: Final = 8
"""Messages that a batch has to have on average."""
MEMORY: Final = 0.3
"""Seconds after which what was weighs a third."""
LAST: Final = 0.2
"""What the last batch weighs in the averages."""


class Pace:
    """The pace of one consumer. It is told when a poll has returned, and when its batch is done."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._at = clock, clock.monotonic()
        self._busy = 0.0
        self._size = self._seconds = 0.0
        """Of a batch."""

    @property
    def gather(self) -> float:
        """Seconds to wait for more messages behind the first one."""
        if self._size < WORTH:
            return 0.0
        return min(BATCHES * self._seconds * self._busy, LONGEST)

    def polled(self, gathered: float) -> None:
        """A poll has returned, of which so many seconds at most were spent on gathering."""
        self._at = min(self._at + gathered, self._clock.monotonic())
        self._spent(working=False)

    def worked(self, messages: int) -> None:
        """What was polled is done."""
        self._size += (messages - self._size) * LAST
        self._seconds += (self._clock.monotonic() - self._at - self._seconds) * LAST
        self._spent(working=True)

    def _spent(self, *, working: bool) -> None:
        now = self._clock.monotonic()
        weight = 1.0 - exp((self._at - now) / MEMORY)
        self._busy += (working - self._busy) * weight
        self._at = now
