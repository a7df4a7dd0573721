"""What goes wrong, and where: everything follows from one seed and the names of the places.

Whether a fault strikes is a function of the seed and the *name* of the place ("inventory-1 before commit #3"), not of
how many dice were thrown before. So a schedule is a set of names, and leaving one out leaves the others where they
were: that is what makes shrinking simple.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from enum import StrEnum
from hashlib import blake2b
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Fault(StrEnum):
    """What the simulator does to a system."""

    CRASH = "crash"
    """A process dies: all that it has in memory is gone. It is restarted."""
    FREEZE = "freeze"
    """A process stands still, loses its partitions and locks, and goes on as a zombie."""
    REBALANCE = "rebalance"
    """A consumer loses its partitions while it works on their records."""
    DUPLICATE = "duplicate"
    """A record is in its topic twice."""
    LATE_COPY = "late copy"
    """A record comes again after hours, or a day: nobody may have forgotten it by then."""
    DELAY = "delay"
    """A record becomes readable late: those of other topics overtake it."""
    OVERLAP = "overlap"
    """A command arrives in the same moment as its compensation."""
    LOST_ACKNOWLEDGEMENT = "lost acknowledgement"
    """A record was written, but its producer hears of an error."""
    REJECTION = "rejection"
    """The broker refuses a record for good, for some time."""
    BROKER_OUTAGE = "broker outage"
    DATABASE_OUTAGE = "database outage"
    UNKNOWN_COMMIT = "unknown commit"
    """A transaction committed, but its process hears of an error."""
    CONFLICT = "conflict"
    """The database rolls a transaction back because of another one."""
    CLOCK_JUMP = "clock jump"
    """A process's clock leaps, forward or back."""
    HANDLER_ERROR = "handler error"
    """A handler raises, once or more often."""
    REFUSAL = "refusal"
    """A simulated participant answers with a failure."""
    SILENCE = "silence"
    """A simulated participant does what it is asked and does not answer."""


_DENSITIES = (0.004, 0.02, 0.08)
"""How likely a fault is at each place where it could strike."""
_SHARES = (0.2, 0.5)
"""Of all faults, how many a run has, beside the one that is its own."""
_RARE = {Fault.CLOCK_JUMP: 0.3, Fault.BROKER_OUTAGE: 0.2, Fault.DATABASE_OUTAGE: 0.2}
"""Faults with so many places that they would be everywhere, and how much rarer they are."""
_OFTEN = {
    Fault.REFUSAL: 6.0,
    Fault.HANDLER_ERROR: 4.0,
    Fault.SILENCE: 2.0,
    Fault.REJECTION: 3.0,
    Fault.DELAY: 2.0,
    Fault.OVERLAP: 4.0,
}
"""Faults with few places."""


class Chance:
    """The dice of one run.

    Args:
        seed: of this run.
        faults: those that may strike.
        only: a schedule to be repeated: exactly these faults strike.
        steady: everything takes the same time.
    """

    def __init__(
        self, seed: int, faults: Collection[Fault], *, only: Collection[str] | None = None, steady: bool = False
    ) -> None:
        self.seed, self.steady = seed, steady
        self._key = blake2b(f"kafkasaga {seed}".encode(), digest_size=16).digest()
        self._only = None if only is None else frozenset(only)
        self._rates, self._left = self._profile(sorted(faults))
        self.taken: list[str] = []
        """The schedule: every fault that struck, and where."""
        self.reached: Counter[tuple[Fault, str]] = Counter()
        """How often each fault struck at each kind of place."""

    def strikes(self, fault: Fault, place: str, kind: str = "") -> bool:
        """Whether ``fault`` strikes at ``place``. ``kind`` is the place without whose it is, for counting."""
        if self._only is None and (fault not in self._rates or self._left <= 0):
            return False
        name = f"{fault.value}: {place}"
        struck = self.fraction(name) < self._rates[fault] if self._only is None else name in self._only
        if struck:
            self._left -= 1
            self.taken.append(name)
            self.reached[fault, kind] += 1
        return struck

    def number(self, name: str) -> int:
        """A number of 64 bits that follows from the seed and a name."""
        return int.from_bytes(blake2b(name.encode(), key=self._key, digest_size=8).digest())

    def fraction(self, name: str) -> float:
        """A number from 0 to 1 that follows from the seed and a name."""
        return self.number(name) / 2**64

    def choose(self, name: str, options: Sequence[T]) -> T:
        """One of ``options``; the first one in a steady run."""
        return options[0 if self.steady else self.number(name) % len(options)]

    def latency(self, name: str) -> float:
        """How many seconds something takes: mostly a millisecond or two, now and then long enough to be overtaken."""
        if self.steady:
            return 0.001
        number = self.number(name)
        usual = 0.0002 + (number & 0xFFF) / 0xFFF * 0.002
        return usual * 40 if (number >> 12) & 0x1F == 0 else usual

    def _profile(self, faults: Sequence[Fault]) -> tuple[dict[Fault, float], int]:
        """Each run has a character of its own: some faults are frequent in it, others never happen."""
        random = Random(self._key)  # noqa: S311 (not a secret)
        chosen = [fault for fault in faults if random.random() < random.choice(_SHARES)]
        if faults:
            chosen.append(faults[self.seed % len(faults)])
        rates = {
            fault: min(random.choice(_DENSITIES) * _RARE.get(fault, 1.0) * _OFTEN.get(fault, 1.0), 0.5)
            for fault in chosen
        }
        return rates, random.choice((2, 6, 15))
