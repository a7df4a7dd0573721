"""Peers of the saga are listed when they are asked for, and show no part of what they cost as if it were all."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from benchmarks.harness.figures import Figures, without_cpu
from benchmarks.harness.machine import Machine
from benchmarks.harness.options import Options, parse
from benchmarks.harness.processes import WorkerEnded, running
from benchmarks.peers import temporal
from benchmarks.peers.jobs import End, Job, place_all
from benchmarks.peers.shop import Customers
from benchmarks.peers.shops import peers
from benchmarks.workloads import NAMES
from tests.support import KafkaServer, PostgresServer
from tests.support.process import UnavailableError


def options(*arguments: str) -> Options:
    return parse(arguments, NAMES)


@pytest.fixture
def server() -> Iterator[str]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_nobody_else_takes_part_unless_asked_for() -> None:
    assert peers(options()) == ()


def test_temporal_takes_part_only_where_its_server_is_known(server: str) -> None:
    assert not [peer.name for peer in peers(options("--peers")) if "Temporal" in peer.name]
    assert [peer.name for peer in peers(options("--temporal", server))] == [
        f"Temporal SDK {temporal.SDK}, local activities",
        f"Temporal SDK {temporal.SDK}, activities",
    ]
    assert len(peers(options("--peers", "--temporal", server))) == 4


def test_its_name_says_that_the_cost_is_not_known_when_the_server_is_elsewhere() -> None:
    assert all(peer.name.endswith(", CPU not known") for peer in peers(options("--temporal", "192.0.2.1:7233")))


def test_a_server_that_is_not_there_is_named(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    host, _, port = server.rpartition(":")
    with socket.create_server((host, 0)) as gone:
        address = f"{host}:{gone.getsockname()[1]}"
    (peer, _) = temporal.peers(address)
    with pytest.raises(UnavailableError, match=f"there is no Temporal server at {address}"):
        peer.prepare()
    assert port not in address
    assert not list(tmp_path.iterdir())  # nothing was fetched for it


def test_an_address_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--temporal", "localhost")
    assert "--temporal localhost: not HOST:PORT" in capsys.readouterr().err


def test_a_cost_that_is_known_in_part_is_not_shown() -> None:
    figures = Figures({"sagas/s": 5.0, "CPU µs each": 7.0, "p50 ms": 1.0}, {"app": 7.0})
    assert without_cpu(figures) == Figures({"sagas/s": 5.0, "p50 ms": 1.0})


class Shop:
    """Counts how many orders are under way at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def place(self, body: bytes, due: float) -> End:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return End(body.decode(), due, due, due)


BODIES = [str(number).encode() for number in range(20)]


def test_customers_place_every_order_and_no_more_at_once_than_they_may() -> None:
    shop = Shop()
    ends = asyncio.run(place_all(Job(BODIES, 3), shop.place))
    assert [end.status.encode() for end in ends] == BODIES
    assert shop.most == 3


def test_orders_at_a_rate_count_from_the_moment_at_which_they_were_due() -> None:
    ends = asyncio.run(place_all(Job(BODIES, 3, rate=1e6), Shop().place))
    assert [end.status.encode() for end in ends] == BODIES
    assert [after.sent - before.sent for before, after in pairwise(ends)] == pytest.approx([1e-6] * 19, abs=1e-8)


def test_customers_that_end_are_told_of_with_their_last_words(tmp_path: Path) -> None:
    machine = Machine(PostgresServer(), cast(KafkaServer, None), tmp_path)  # neither is started
    customers = Customers("shop", lambda _: [sys.executable, "-c", "raise SystemExit('no shop')"], machine)
    with running(customers.worker), pytest.raises(WorkerEnded, match="shop ended with status 1:\nno shop"):
        customers.hear()
    customers.close()
