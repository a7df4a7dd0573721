"""Temporal: a server that keeps the history and hands out tasks, which a worker of ours asks for.

No package brings the server along. Whoever has one gives its address.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

from benchmarks.harness.fetched import virtual_environment
from benchmarks.harness.listening import answers, server_process, split
from benchmarks.harness.machine import Machine
from benchmarks.peers.shop import Customers, Peer, Started, module
from tests.support.process import UnavailableError

SDK = "1.35.0"
KINDS = {"local activities": (32, 0.1), "activities": (16, 0.05)}
"""Of steps: how many orders under way at once are fastest, and which share of the sagas of a run is enough."""


def peers(address: str) -> tuple[Peer, ...]:
    """Temporal, with either kind of steps, on the server at an address."""
    unseen = "" if server_process(*split(address)) else ", CPU not known"
    return tuple(
        Peer(
            f"Temporal SDK {SDK}, {kind}{unseen}",
            in_flight,
            partial(_prepare, address),
            partial(_start, address, kind),
            share=share,
        )
        for kind, (in_flight, share) in KINDS.items()
    )


def _environment() -> Path:
    return virtual_environment("temporal", f"temporalio=={SDK}", "psycopg[binary,pool]>=3.2")


def _prepare(address: str) -> None:
    if not answers(*split(address)):
        raise UnavailableError(f"there is no Temporal server at {address}")
    _environment()


@contextmanager
def _start(address: str, kind: str, machine: Machine, dsn: str) -> Generator[Started]:
    python, server = _environment(), server_process(*split(address))
    name = f"kafkasaga-bench-{uuid4()}"  # the server has seen other runs
    app = Customers(
        "temporal",
        lambda pipe: module(python, "temporal_app", str(pipe), address, name, kind),
        machine,
        PYTHONPATH="",
        SHOP_DSN=dsn,
    )
    groups = {"app": [app.worker.pid]}
    if server is None:
        yield Started(app, groups, unseen=True)
    else:
        yield Started(app, groups | {"temporal": [server]})
