"""Who else runs the order saga."""

from __future__ import annotations

from benchmarks.harness.options import Options
from benchmarks.peers import temporal
from benchmarks.peers.dbos import DBOS
from benchmarks.peers.restate import RESTATE
from benchmarks.peers.shop import Peer


def peers(options: Options) -> tuple[Peer, ...]:
    """Those that are asked for."""
    fetched = (DBOS, RESTATE) if options.peers else ()
    given = temporal.peers(options.temporal) if options.temporal else ()
    return (*fetched, *given)
