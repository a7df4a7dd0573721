"""How often, and after how long, something is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from kafkasaga.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class Retry:
    """Up to ``attempts`` in all, waiting ``first``, then ``factor`` times as long each time, at most ``longest``."""

    attempts: int
    first: timedelta
    factor: float
    longest: timedelta

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise DefinitionError(f"retry: attempts={self.attempts}; the first try counts, so give at least 1")
        if self.first < timedelta() or self.longest < timedelta() or self.factor < 1:
            raise DefinitionError("retry: first= and longest= must not be negative, factor= not below 1")

    def delay(self, failed: int) -> timedelta:
        """How long to wait after ``failed`` attempts (1 or more) before the next."""
        doublings = min(failed - 1, 64)
        seconds = min(self.first.total_seconds() * self.factor**doublings, self.longest.total_seconds())
        return timedelta(seconds=seconds)

    def horizon(self) -> timedelta:
        """All waits together: how long after the first attempt the last one starts, if each fails at once."""
        return sum((self.delay(n) for n in range(1, self.attempts)), timedelta())


def exponential(
    *,
    attempts: int = 5,
    first: timedelta = timedelta(seconds=1),
    factor: float = 2.0,
    longest: timedelta = timedelta(minutes=5),
) -> Retry:
    """Try up to ``attempts`` times, waiting longer each time."""
    return Retry(attempts, first, factor, longest)


ONCE = Retry(1, timedelta(), 1.0, timedelta())
"""Do not try again."""
