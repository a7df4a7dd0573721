"""How long a consumer gathers messages for a batch: a moment where its machine is full, else not at all.

A batch costs as much as dozens of its messages: its round trips, its fsync, the relay's round for what it sent, the
requests to Kafka on both sides. Where services on one machine feed each other, each takes what has trickled in while it
was at work, and all are busy with many small batches. To wait for more costs little there, for others work meanwhile.
Where there are processors to spare, a message would only come later for it.

Behind the end of a burst nobody waits on: that is for the consumer to see, while it gathers.

Which of both it is, the operating system tells: how long the thread that works on a batch waits for a processor. With
the square of that share the moment grows, and with what a batch takes. Where messages come one by one there is nothing
to gather, and a backlog fills a batch without any wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kafkasaga.clock import Clock

CROWDED: Final = 0.25
"""The share of waiting for a processor at which the moment is as long as a batch."""
LONGEST: Final = 0.1
"""Seconds."""
WORTH: Final = 8
"""Messages that a batch has to have on average."""
LAST: Final = 0.2
"""What the last batch weighs in the averages."""


class Pace:
    """The pace of one consumer. It is told when a poll has returned, and when its batch is done."""

    def __init__(self, clock: Clock, waited: Callable[[], float]) -> None:
        """``waited``: seconds that this thread has waited for a processor so far."""
        self._clock, self._waited = clock, waited
        self._began = 0.0
        self._waited_before: float | None = None
        """None while batches are too small to gather for: then nobody asks."""
        self._size = self._seconds = self._crowded = 0.0
        """Of a batch: its messages, its time, and which share of that it waited for a processor."""

    @property
    def gather(self) -> float:
        """Seconds to wait, at most, for more messages behind the first one."""
        if self._size < WORTH:
            return 0.0
        return min(self._seconds * (self._crowded / CROWDED) ** 2, LONGEST)

    def polled(self) -> None:
        """A poll has returned; its batch begins."""
        self._waited_before = None if self._size < WORTH else self._waited()
        self._began = self._clock.monotonic()

    def worked(self, messages: int) -> None:
        """The batch is done."""
        self._size += (messages - self._size) * LAST
        if self._waited_before is None:
            self._crowded = 0.0
            return
        seconds = self._clock.monotonic() - self._began
        crowded = min((self._waited() - self._waited_before) / seconds, 1.0) if seconds > 0 else 0.0
        self._seconds += (seconds - self._seconds) * LAST
        self._crowded += (crowded - self._crowded) * LAST
