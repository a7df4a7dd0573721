"""Whether a consumer's next transaction goes beside those of other replicas, or alone.

A transaction keeps its locks until it commits, and takes them in the order of its messages. A handler may lock in an
order that cannot deadlock and do so all the same, when a batch of another replica locks for other messages before.
PostgreSQL looks for it after a second (``deadlock_timeout``) and ends one of both. So a batch that met others in a
deadlock is repeated alone, and what comes behind it goes alone too: for ten times as long as the attempt took, twice
as long whenever that was not enough. Where rows are hot enough for that, the transactions would wait for each other
anyway.

A turn must not become what all wait for. Where it did not come in time, a process may have it that is frozen; so none
is taken for a while.
"""

from __future__ import annotations

import math
from typing import Final

from kafkasaga.clock import Clock
from kafkasaga.ports import Turn

SHARE: Final = 0.1
"""Of the time, at most, for attempts that end in a deadlock."""
SHORTEST: Final = 0.1
LONGEST: Final = 300.0
"""Seconds to go alone before it is tried again beside others, at least and at most."""
WITHOUT: Final = 60.0
"""Seconds without any turns after one that did not come in time."""


class Turns:
    """The turns of one consumer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._alone_for, self._alone_until, self._without_until = 0.0, -math.inf, -math.inf

    @property
    def next(self) -> Turn:
        """For the next transaction."""
        now = self._clock.monotonic()
        if now < self._without_until:
            return Turn.NONE
        return Turn.ALONE if now < self._alone_until else Turn.BESIDE

    def deadlocked(self, seconds: float) -> None:
        """An attempt beside others has ended so, after so many seconds."""
        now, least = self._clock.monotonic(), max(seconds / SHARE, SHORTEST)
        again = now - self._alone_until < max(self._alone_for, least)
        self._alone_for = min(max(self._alone_for * 2 if again else 0.0, least), LONGEST)
        self._alone_until = now + self._alone_for

    def timed_out(self) -> None:
        """A turn did not come in time."""
        self._without_until = self._clock.monotonic() + WITHOUT
