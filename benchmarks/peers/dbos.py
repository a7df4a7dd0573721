"""DBOS: workflows as a library in the application's process, checkpoints in PostgreSQL."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.fetched import virtual_environment
from benchmarks.harness.machine import Machine
from benchmarks.peers.shop import Customers, Peer, Started, module

VERSION = "3.4.0"
IN_FLIGHT = 8


def _environment() -> Path:
    return virtual_environment("dbos", f"dbos=={VERSION}", "psycopg[binary]>=3.2")


@contextmanager
def _start(machine: Machine, dsn: str) -> Generator[Started]:
    python = _environment()
    app = Customers("dbos", lambda pipe: module(python, "dbos_app", str(pipe), dsn), machine, PYTHONPATH="")
    yield Started(app, {"app": [app.worker.pid]})


DBOS = Peer(f"DBOS {VERSION}", IN_FLIGHT, _environment, _start, share=0.2)
