"""Contenders in turns: a machine that drifts, drifts for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.harness.figures import Contender, Figures, Workload, WrongResult, medians
from benchmarks.harness.machine import Machine
from benchmarks.harness.options import Options
from benchmarks.harness.processes import WorkerEnded
from tests.support.process import UnavailableError

Progress = Callable[[str], None]


@dataclass
class Outcome:
    """What one contender did in all its turns."""

    name: str
    rounds: list[Figures] = field(default_factory=list[Figures])
    failures: list[str] = field(default_factory=list[str])
    missing: str | None = None
    """What this machine lacks for it."""

    @property
    def median(self) -> Figures | None:
        return medians(self.rounds) if self.rounds else None


def take_turns(workload: Workload, machine: Machine, options: Options, progress: Progress) -> list[Outcome]:
    """Every contender once a round, in an order that moves on by one each round."""
    wanted = [
        c for c in workload.contenders if not options.contenders or any(part in c.name for part in options.contenders)
    ]
    outcomes = {contender.name: _prepared(contender) for contender in wanted}
    wanted = [contender for contender in wanted if outcomes[contender.name].missing is None]
    for number in range(options.rounds):
        shift = number % max(1, len(wanted))
        for contender in wanted[shift:] + wanted[:shift]:
            machine.settle()
            outcome = outcomes[contender.name]
            try:
                figures = contender.run(machine, options)
            except (WrongResult, WorkerEnded) as error:
                outcome.failures.append(str(error))
                progress(f"{workload.name} · {contender.name} · round {number + 1}: FAILED: {error}")
                continue
            outcome.rounds.append(figures)
            shown = ", ".join(f"{value:,.1f} {name}" for name, value in figures.values.items())
            progress(f"{workload.name} · {contender.name} · round {number + 1}: {shown}")
    return list(outcomes.values())


def _prepared(contender: Contender) -> Outcome:
    outcome = Outcome(contender.name)
    try:
        contender.prepare()
    except UnavailableError as error:
        outcome.missing = str(error)
    return outcome
