"""A peer is measured by what it left in the shop's tables, and by the CPU time of all who work for it, or of none."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from benchmarks.harness.figures import WrongResult
from benchmarks.harness.machine import Machine
from benchmarks.peers.jobs import CLOSED_LOOP
from benchmarks.peers.shop import Customers, Peer, Started, measure
from tests.support import KafkaServer, PostgresServer

ORDERS = 20


@pytest.fixture
def machine(postgres: PostgresServer, tmp_path: Path) -> Machine:
    """The peers of the saga need no Kafka."""
    return Machine(postgres, cast(KafkaServer, None), tmp_path)


def straight(forgotten: str = "", *, unseen: bool = False) -> Peer:
    @contextmanager
    def start(machine: Machine, dsn: str) -> Generator[Started]:
        command = [sys.executable, "-m", "tests.integration.straight_shop"]
        customers = Customers("straight", lambda pipe: [*command, str(pipe), dsn, forgotten], machine)
        yield Started(customers, {"app": [customers.worker.pid]}, unseen=unseen)

    return Peer("straight", 1, lambda: None, start)


def test_what_it_cost_is_of_all_its_processes_and_the_database(machine: Machine) -> None:
    figures = measure(straight(), machine, ORDERS, CLOSED_LOOP)
    assert set(figures.cpu) == {"app", "postgresql"}
    assert {"sagas/s", "p50 ms", "decided p50 ms", "CPU µs each"} <= set(figures.values)


def test_a_part_of_the_cost_is_not_shown_as_the_whole(machine: Machine) -> None:
    figures = measure(straight(unseen=True), machine, ORDERS, CLOSED_LOOP)
    assert not figures.cpu
    assert {"sagas/s", "p50 ms"} <= set(figures.values)
    assert "CPU µs each" not in figures.values


@pytest.mark.parametrize("forgotten", ["NOTE_CREATED", "RESERVE", "CHARGE", "COMPLETE", "SELL", "RELEASE", "CANCEL"])
def test_a_peer_that_forgets_a_step_has_failed(machine: Machine, forgotten: str) -> None:
    with pytest.raises(WrongResult):
        measure(straight(forgotten), machine, ORDERS, CLOSED_LOOP)
