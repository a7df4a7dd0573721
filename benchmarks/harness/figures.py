"""What a run of one contender found, and the medians of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.harness.usage import Usage

if TYPE_CHECKING:
    from benchmarks.harness.machine import Machine
    from benchmarks.harness.options import Options


class WrongResult(AssertionError):
    """A contender lost, doubled or reordered something. However fast it was, it has failed."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One run, or the medians of several."""

    values: Mapping[str, float]
    """By name; the unit is part of the name."""
    cpu: Mapping[str, float] = field(default_factory=dict[str, float])
    """CPU microseconds for each unit of work, by group of processes."""


Run = Callable[["Machine", "Options"], Figures]


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those that take turns at a workload."""

    name: str
    run: Run
    prepare: Callable[[], object] = lambda: None
    """Fetches what it needs; raises UnavailableError if this machine cannot. The report then says so."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured, and who takes part."""

    name: str
    title: str
    headline: str
    """The value that ratios are made of."""
    contenders: Sequence[Contender]
    less_is_better: bool = False
    baseline: str = "ceiling"
    """The contender that the others are compared with."""


def rates(units: int, usage: Usage, unit: str) -> Figures:
    """So many units in that time."""
    cpu = {name: seconds / units * 1e6 for name, seconds in usage.cpu.items()}
    values = {f"{unit}/s": units / usage.seconds, "CPU µs each": sum(cpu.values())}
    return Figures(values, cpu)


def without_cpu(figures: Figures) -> Figures:
    """The same figures, of a contender whose CPU time is known in part only."""
    return Figures({name: value for name, value in figures.values.items() if not name.startswith("CPU")})


def medians(rounds: Sequence[Figures]) -> Figures:
    return Figures(_medians([r.values for r in rounds]), _medians([r.cpu for r in rounds]))


def as_json(figures: Figures) -> dict[str, Any]:
    return asdict(figures)


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(seconds)
    return {f"p{p} ms": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] * 1e3 for p in (50, 99)}


def expect(what: str, found: object, wanted: object) -> None:
    """Raises WrongResult unless they are equal."""
    if found != wanted:
        raise WrongResult(f"{what}: {found}, expected {wanted}")


def _medians(maps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(m[name] for m in maps if name in m) for name in maps[0]} if maps else {}
