"""What can be chosen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SESSION_SHARE = 0.8
"""Of the time within which another replica has to work, session.timeout.ms: as by default, 12 of 15 seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    minutes: float = 5.0
    """For the faults; starting, the end and the check come on top."""
    seed: int = 1
    orders: float = 12.0
    """A second."""
    readings: float = 20.0
    """A second."""
    takeover: float = 6.0
    """Seconds. The library's default is 15; the shorter, the more fits into a run."""
    patience: float = 60.0
    """Seconds for work to go on after a fault; then the run has failed. A crowded machine needs more."""
    only: tuple[str, ...] = ()
    """Faults whose names contain one of these."""
    json: Path | None = None
    keep_logs: Path | None = None

    @property
    def session_timeout(self) -> float:
        """Seconds without a heartbeat after which a member is taken for dead."""
        return self.takeover * SESSION_SHARE


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
        "--takeover",
        type=float,
        default=default.takeover,
        help="seconds within which another replica should take over (default %(default)s): four fifths of them are "
        "the services' session.timeout.ms",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=default.patience,
        help="seconds for work to go on after a fault, before the run has failed (default %(default)s)",
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
