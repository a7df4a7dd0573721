"""What a run tells in the end: a table for people, JSON for others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.faults.real.account import Account, p50
from tests.faults.real.run import Run

SHOWN = 10
"""Things that are wrong, of each kind."""
OUTAGES = ("Kafka", "PostgreSQL", "network", "service frozen")
RECOVERY_TARGET = 2.0


def facts(run: Run) -> dict[str, Any]:
    """The account; also what ``--json`` writes."""
    account, verdict = run.account, run.verdict
    wrong = {} if verdict is None else verdict.wrong
    return {
        "seed": run.options.seed,
        "minutes": run.options.minutes,
        "rounds": run.rounds,
        "takeover_within_s": run.options.takeover,
        "session_timeout_s": run.options.session_timeout,
        "kills": account.kills,
        "outages": sum(count for kind, (_, count) in account.by_kind().items() if kind.startswith(OUTAGES)),
        "faults": {
            kind: {"tried": tried, "reached": reached, **_times(account.seconds(kind))}
            for kind, (tried, reached) in account.by_kind().items()
        },
        "recovery_after_a_kill": _times(account.seconds("SIGKILL at", "SIGKILL before", "SIGKILL after")),
        "recovery_stages_p50_s": {stage: _round(p50(times)) for stage, times in account.stages.items()},
        "recovery_stages_p50_cpu_s": {stage: _round(p50(times)) for stage, times in account.work.items()},
        "takeover": _times(account.seconds("takeover")),
        "orders": verdict.orders if verdict else 0,
        "readings": verdict.readings if verdict else 0,
        "messages": verdict.records if verdict else 0,
        "duplicates": sum(verdict.duplicates.values()) if verdict else 0,
        "duplicates_by_topic": verdict.duplicates if verdict else {},
        "requests_repeated": run.requests_repeated,
        "ended_by_themselves": [text.partition(":")[0] for text in run.ended_by_themselves],
        "exits": run.exits,
        **{kind: len(texts) for kind, texts in wrong.items()},
        "wrong": wrong,
        "did_not_recover": account.failures,
        "never_reached": account.never_reached,
    }


def status(run: Run) -> int:
    """0 if nothing was lost, doubled or reordered, everything went on, and every fault was reached."""
    bad = run.verdict is None or not run.verdict.good or run.account.failures or run.account.never_reached
    return 1 if bad or any(exit != 0 for exit in run.exits.values()) or run.ended_by_themselves else 0


def write_json(run: Run, file: Path) -> None:
    file.write_text(json.dumps(facts(run), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def show(run: Run, console: Console) -> None:
    told = facts(run)
    console.print(_faults(run.account))
    recovery, takeover = told["recovery_after_a_kill"], told["takeover"]
    work = told["recovery_stages_p50_cpu_s"]
    stages = ", ".join(
        f"{stage} {seconds} ({work[stage]} CPU)" for stage, seconds in told["recovery_stages_p50_s"].items()
    )
    console.print(f"{told['kills']} kills, {told['outages']} outages, {told['rounds']} rounds")
    console.print(f"{told['orders']} orders, {told['readings']} readings, {told['messages']} messages in topics")
    console.print(
        f"{told['duplicates']} of them seen again (at least once), {told['requests_repeated']} requests repeated"
    )
    console.print(f"works again after a kill: {_words(recovery)} (target: p50 {RECOVERY_TARGET:.0f} s)")
    console.print(f"  until, p50: {stages}", style="dim")
    console.print(f"other replica takes over: {_words(takeover)} (target: {told['takeover_within_s']:.0f} s)")
    for kind, texts in told["wrong"].items():
        console.print(f"[bold {'red' if texts else 'green'}]{kind}: {len(texts)}[/]")
        for text in texts[:SHOWN]:
            console.print(f"  {text}", soft_wrap=True, markup=False)
    for text in (*told["did_not_recover"], *run.ended_by_themselves):
        console.print(text, style="red", soft_wrap=True, markup=False)
    if told["never_reached"]:
        console.print(f"faults that were never reached: {', '.join(told['never_reached'])}", style="red")
    if bad := {name: exit for name, exit in run.exits.items() if exit != 0}:
        console.print(f"services that did not stop in good order: {bad}", style="red")


def _faults(account: Account) -> Table:
    table = Table("fault", box=None, padding=(0, 2))
    for name in ("tried", "reached", "p50 s", "max s"):
        table.add_column(name, justify="right")
    for kind, (tried, reached) in account.by_kind().items():
        times = _times(account.seconds(kind))
        table.add_row(kind, str(tried), str(reached), *(_shown(times[name]) for name in ("p50_s", "max_s")))
    return table


def _times(seconds: list[float]) -> dict[str, Any]:
    return {"count": len(seconds), "p50_s": _round(p50(seconds)), "max_s": _round(max(seconds, default=None))}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _words(times: Mapping[str, Any]) -> str:
    if not times["count"]:
        return "not measured"
    return f"p50 {times['p50_s']:.2f} s, max {times['max_s']:.2f} s ({times['count']} times)"
