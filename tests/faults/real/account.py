"""What happened in a run: which faults were tried and reached, and how long it took until work went on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

TRIES = 3
"""Of a fault that is not reached; then the run has failed."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One fault."""

    kind: str
    detail: str
    reached: bool = True
    seconds: float | None = None
    """From the death, or from the end of an outage, until work went on; None where that cannot be told."""
    died: int = 0
    """Processes that were killed."""


@dataclass
class Account:
    """All of them."""

    planned: Sequence[str] = ()
    """The names of the faults that have to be reached, each once at least."""
    faults: list[Happened] = field(default_factory=list[Happened])
    tries: Counter[str] = field(default_factory=Counter[str])
    reached: Counter[str] = field(default_factory=Counter[str])
    stages: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Where the time after a kill went: seconds from the death until each milestone of the next process."""
    work: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """The CPU seconds that the next process had needed by then: a busy machine changes them less."""
    failures: list[str] = field(default_factory=list[str])
    """What did not go on again."""

    def add(self, name: str, happened: Happened) -> None:
        self.faults.append(happened)
        self.tries[name] += 1
        self.reached[name] += happened.reached

    def seconds(self, *kinds: str) -> list[float]:
        """The times of faults whose kind begins so, sorted."""
        return sorted(f.seconds for f in self.faults if f.seconds is not None and f.kind.startswith(kinds))

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """How often each kind was tried, and how often reached."""
        tried = Counter(fault.kind for fault in self.faults)
        reached = Counter(fault.kind for fault in self.faults if fault.reached)
        return {kind: (count, reached[kind]) for kind, count in sorted(tried.items())}

    @property
    def never_reached(self) -> list[str]:
        """What was planned and did not happen (A40): then nothing is known of it."""
        return [name for name in self.planned if not self.reached[name]]

    @property
    def outstanding(self) -> list[str]:
        """What has still to be tried, again perhaps."""
        return [name for name in self.never_reached if self.tries[name] < TRIES]

    @property
    def kills(self) -> int:
        return sum(fault.died for fault in self.faults)


def p50(values: list[float]) -> float | None:
    return median(values) if values else None
