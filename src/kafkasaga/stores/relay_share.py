"""Several relays of one outbox: each has a share of the keys, and each share one relay at a time (ADR 23).

A row does not say to which share it belongs: that follows from its key when it is read. So whoever writes need not know
how many shares there are, and their number can change while rows wait. Relays of the old and of the new number may then
publish the same rows for a while; as with a zombie, that repeats messages and keeps their order (invariant I11).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PAUSE: Final = 0.25
"""Seconds by which a process asks later for each share that it holds already."""


@dataclass(frozen=True, slots=True)
class Share:
    """The keys whose hash, divided by ``of``, leaves ``number``."""

    number: int = 0
    of: int = 1

    @property
    def name(self) -> str:
        """Part of the name of its lock."""
        return str(self.number) if self.of == 1 else f"{self.number} of {self.of}"

    @property
    def condition(self) -> str:
        """On a row of the outbox, in PostgreSQL's SQL; nothing where there is only one share."""
        return "" if self.of == 1 else f"mod(abs(hashtext(key)::bigint), {self.of}) = {self.number}"


WHOLE: Final = Share()


class ShareTurns:
    """When the relays of one process may ask for their shares: the later, the more of them it holds.

    So the shares of a database spread over the processes that are there when a share becomes free.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: set[Share] = set()
        self._next = clock()

    def wait(self) -> float:
        """Seconds until it is this process's turn; 0: it is, and the next one comes later."""
        now = self._clock()
        if now < self._next:
            return self._next - now
        self._next = now + PAUSE * len(self._held)
        return 0.0

    def took(self, share: Share) -> None:
        """The process holds it now."""
        self._held.add(share)
        self._next = self._clock() + PAUSE * len(self._held)

    def lost(self, share: Share) -> None:
        """It does not hold it any more; who holds nothing asks again at once."""
        self._held.discard(share)
        self._next = min(self._next, self._clock() + PAUSE * len(self._held))


def shares(count: int) -> list[Share]:
    """All of them, in an order of this process's own: two that start together ask for different ones first."""
    return random.sample([Share(number, count) for number in range(count)], count)
