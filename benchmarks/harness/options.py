"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.listening import split


@dataclass(frozen=True, slots=True)
class Options:
    """How much of what to measure."""

    only: tuple[str, ...]
    rounds: int
    json: Path | None
    plot: Path | None
    page: Path | None
    contenders: tuple[str, ...]
    peers: bool
    temporal: str | None
    rows: int
    messages: int
    sagas: int
    in_flight: tuple[int, ...]
    partitions: int
    latency_seconds: float
    transitions: int
    backlog: int
    inbox: int
    finished_sagas: int
    live_sagas: int
    payload: int
    keep_logs: Path | None


def parse(arguments: Sequence[str], workloads: Sequence[str]) -> Options:
    """The options; ends the process with a message if they make no sense."""
    parser = argparse.ArgumentParser("bench", description="Measure kafkasaga against the best that is written by hand.")
    add = parser.add_argument
    add("--only", default=",".join(workloads), help="workloads, with commas; default: all of %(default)s")
    add("--contenders", default="", help="only contenders whose names contain one of these, with commas")
    add("--peers", action="store_true", help="also what users would pick instead (benchmarks/peers); fetched on demand")
    add("--temporal", metavar="HOST:PORT", help="saga, latency: also Temporal, whose server you have started there")
    add("--rounds", type=int, default=3, help="each contender's turns; default %(default)s")
    add("--json", type=Path, help="write all figures to this file")
    add("--plot", type=Path, help="draw them into this file (.svg, .png)")
    add("--page", type=Path, help="renew the tables of what ran in this page (docs/explanation/performance.md)")
    add("--rows", type=int, default=100_000, help="relay: committed outbox rows to drain; default %(default)s")
    add("--payload", type=int, default=200, help="relay, growth: bytes of a message; default %(default)s")
    add("--messages", type=int, default=30_000, help="consume: commands to handle; default %(default)s")
    add("--sagas", type=int, default=3_000, help="saga: sagas to complete; default %(default)s")
    add("--in-flight", default="200", help="saga: sagas under way at once, with commas; default %(default)s")
    add("--partitions", type=int, default=4, help="of the order system's topics; default %(default)s")
    add("--latency-seconds", type=float, default=10.0, help="latency: how long each rate is kept; default %(default)s")
    add("--transitions", type=int, default=20_000, help="orchestrator: replies to take in; default %(default)s")
    add("--backlog", type=int, default=200_000, help="growth, memory: rows that lie there; default %(default)s")
    add("--inbox", type=int, default=1_000_000, help="growth: rows in the inbox; default %(default)s")
    add("--finished-sagas", type=int, default=200_000, help="growth: sagas that ended; default %(default)s")
    add("--live-sagas", type=int, default=20_000, help="growth: sagas under way; default %(default)s")
    add("--keep-logs", type=Path, help="keep the processes' output in this folder")
    given = parser.parse_args(arguments)
    only = _names(given.only)
    if unknown := [name for name in only if name not in workloads]:
        parser.error(f"--only {','.join(unknown)}: there is only {', '.join(workloads)}")
    if given.temporal is not None:
        try:
            split(given.temporal)
        except ValueError as error:
            parser.error(f"--temporal {error}")
    values: dict[str, Any] = vars(given) | {
        "only": only,
        "contenders": _names(given.contenders),
        "in_flight": tuple(int(number) for number in _names(given.in_flight)),
    }
    return Options(**values)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
