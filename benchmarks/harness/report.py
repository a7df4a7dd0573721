"""The table, the JSON and the plot."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.harness.figures import Workload, as_json
from benchmarks.harness.options import Options
from benchmarks.harness.page import command, renew
from benchmarks.harness.turns import Outcome


class Report:
    """Collects what was found; prints a table after each workload."""

    def __init__(self, options: Options) -> None:
        self._options = options
        # A file or a pipe has no width of its own; the table needs some.
        self._console = Console(width=None if sys.stdout.isatty() else 150)
        self._notes = Console(stderr=True, width=None if sys.stderr.isatty() else 150)
        self._found: list[dict[str, Any]] = []
        self._failed = False

    def progress(self, text: str) -> None:
        self._notes.print(f"[dim]{time.strftime('%H:%M:%S')} {escape(text)}[/dim]", highlight=False)

    def add(self, workload: Workload, outcomes: list[Outcome]) -> None:
        self._failed |= any(outcome.failures for outcome in outcomes)
        self._found.append(
            {
                "workload": workload.name,
                "headline": workload.headline,
                "title": workload.title,
                "less_is_better": workload.less_is_better,
                "baseline": workload.baseline,
                "contenders": [_contender(outcome) for outcome in outcomes],
            }
        )
        self._console.print(_table(workload, outcomes))
        for outcome in outcomes:
            if outcome.missing is not None:
                self._console.print(
                    f"{outcome.name}: [yellow]not measured[/yellow]: {outcome.missing}", highlight=False
                )
        self._write()

    def finish(self) -> int:
        """The exit status: 1 if any contender was wrong."""
        if self._options.plot is not None and self._found:
            from benchmarks.harness.plot import draw

            draw(self._found, self._options.plot)
        if self._options.page is not None:
            renew(self._options.page, self._head(), self._found)
        return 1 if self._failed else 0

    def _write(self) -> None:
        if self._options.json is not None:
            self._options.json.write_text(json.dumps({**self._head(), "workloads": self._found}, indent=2) + "\n")

    def _head(self) -> dict[str, Any]:
        return {
            "date": time.strftime("%Y-%m-%d"),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "command": command(sys.argv[1:]),
            "rounds": self._options.rounds,
        }


def _contender(outcome: Outcome) -> dict[str, Any]:
    median = outcome.median
    return {
        "name": outcome.name,
        "median": None if median is None else as_json(median),
        "rounds": [as_json(figures) for figures in outcome.rounds],
        "failures": outcome.failures,
        "missing": outcome.missing,
    }


def _table(workload: Workload, outcomes: list[Outcome]) -> Table:
    table = Table(title=workload.title, title_justify="left")
    names = list(dict.fromkeys(name for o in outcomes if o.median for name in o.median.values))
    groups = list(dict.fromkeys(name for o in outcomes if o.median for name in o.median.cpu))
    table.add_column("")
    for name in [*names, f"× {workload.baseline}", *(f"{group} µs" for group in groups), "rounds"]:
        table.add_column(name, justify="right")
    best = _baseline(workload, outcomes)
    for outcome in (outcome for outcome in outcomes if outcome.missing is None):
        table.add_row(*_row(workload, outcome, names, groups, best))
    return table


def _row(workload: Workload, outcome: Outcome, names: list[str], groups: list[str], best: float | None) -> list[str]:
    median = outcome.median
    if median is None:
        return [outcome.name, *[""] * (len(names) + len(groups) + 1), "[red]failed[/red]"]
    value = median.values.get(workload.headline)
    ratio = "" if best is None or value is None else f"{value / best:.2f}"
    spread = " ".join(f"{figures.values[workload.headline]:,.0f}" for figures in outcome.rounds)
    wrong = f" [red]{len(outcome.failures)} wrong[/red]" if outcome.failures else ""
    cells = [f"{median.values[name]:,.1f}" if name in median.values else "" for name in names]
    cpu = [f"{median.cpu[group]:,.1f}" if group in median.cpu else "" for group in groups]
    return [outcome.name, *cells, ratio, *cpu, spread + wrong]


def _baseline(workload: Workload, outcomes: list[Outcome]) -> float | None:
    for outcome in outcomes:
        if outcome.name == workload.baseline and outcome.median is not None:
            return outcome.median.values.get(workload.headline)
    return None
