"""How many messages go into one transaction, where transactions of others stand in the way.

A transaction keeps its locks until it commits, and takes them in the order of its messages. A handler may lock in an
order that cannot dead-lock and do so all the same, when a batch of another replica locks for other messages before.
PostgreSQL looks for it after a second (``deadlock_timeout``) and ends one of both. So a batch that met another
transaction is halved, and what comes behind it too. Whenever ten times as much time has passed as the dearest of these
attempts took, there may be twice as many again: each time allows one such attempt, so they take a tenth of the time at
most. A message alone locks in its handler's order; what it meets is not counted.
"""

from __future__ import annotations

from typing import Final

from kafkasaga.clock import Clock

SHARE: Final = 0.1
"""Of the time, for attempts that met another transaction."""
WIDEST: Final = 1 << 20


class Width:
    """The width of one consumer's transactions, in messages."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now, self._held_for, self._held_until = WIDEST, 0.0, 0.0

    @property
    def now(self) -> int:
        """At most so many messages in the next transaction."""
        now = self._clock.monotonic()
        while self._now < WIDEST and now >= self._held_until:
            self._now *= 2
            self._held_until += self._held_for
        return self._now

    def conflicted(self, messages: int, seconds: float) -> None:
        """A transaction of so many messages met another one, after so many seconds.

        What was dearer and is still held for is not forgotten over it.
        """
        held_for = seconds / SHARE
        if self.now < WIDEST:
            held_for = max(held_for, self._held_for)
        self._now, self._held_for = max(messages // 2, 1), held_for
        self._held_until = self._clock.monotonic() + held_for
