"""What can be chosen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHORTEST_SESSION = 6.0
"""Seconds: by default a broker allows no less. The library's default is 15; the shorter, the more fits into a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    minutes: float = 5.0
    """For the faults; starting, the end and the check come on top."""
    seed: int = 1
    orders: float = 12.0
    """A second."""
    readings: float = 20.0
    """A second."""
    session_timeout: float = SHORTEST_SESSION
    only: tuple[str, ...] = ()
    """Faults whose names contain one of these."""
    json: Path | None = None
    keep_logs: Path | None = None


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="nox -s faults --", description="Break the order system, and check it.")
    default = Options()
    parser.add_argument("--minutes", type=float, default=default.minutes, help="how long (default %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="decides the faults (default %(default)s)")
    parser.add_argument("--orders", type=float, default=default.orders, help="orders a second (default %(default)s)")
    parser.add_argument(
        "--readings", type=float, default=default.readings, help="readings a second (default %(default)s)"
    )
    parser.add_argument(
        "--session-timeout",
        type=float,
        default=default.session_timeout,
        help="the services' session.timeout.ms, in seconds (default %(default)s)",
    )
    parser.add_argument(
        "--only",
        type=lambda text: tuple(text.split(",")),
        default=(),
        help="only faults whose names contain one of these",
    )
    parser.add_argument("--json", type=Path, help="write the account to this file")
    parser.add_argument("--keep-logs", type=Path, help="keep the services' logs in this directory")
    return Options(**vars(parser.parse_args(arguments)))
