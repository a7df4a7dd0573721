"""A peer at place-order: its processes, one database for all business tables, and the check of what it left there."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import create_engine

from benchmarks.harness.books import add_orders, check_rows
from benchmarks.harness.figures import Contender, Figures, expect, percentiles, rates, without_cpu
from benchmarks.harness.machine import Machine, connect, dsn
from benchmarks.harness.options import Options
from benchmarks.harness.orders import created, is_declined
from benchmarks.harness.processes import STOP_SECONDS, Worker, running
from benchmarks.harness.usage import Meter
from benchmarks.harness.waiting import wait_until
from benchmarks.peers.jobs import CLOSED_LOOP, End, Job
from kafkasaga.examples.order_system.demo.seed import make_business_tables

WARM_UP = 200
SERVICES = ("order", "inventory", "payment")


@dataclass(frozen=True, slots=True)
class Started:
    """A peer that runs."""

    customers: Customers
    groups: dict[str, list[int]]
    """The processes whose CPU time counts."""
    unseen: bool = False
    """Others work for it as well, whose CPU time cannot be read: then none is shown, rather than a part."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody else's way to run the saga."""

    name: str
    in_flight: int
    """Orders under way at once where it is fastest."""
    prepare: Callable[[], object]
    start: Callable[[Machine, str], AbstractContextManager[Started]]
    share: float = 1.0
    """Of the sagas of a run: a rate of seventy a second is known before three thousand have ended."""

    def closed_loop(self) -> Contender:
        return Contender(f"{self.name}, {self.in_flight} in flight", self._closed_loop, self.prepare)

    def latency(self, rate: float) -> Contender:
        return Contender(self.name, lambda machine, options: self._latency(machine, options, rate), self.prepare)

    def _closed_loop(self, machine: Machine, options: Options) -> Figures:
        return measure(self, machine, int(options.sagas * self.share), CLOSED_LOOP)

    def _latency(self, machine: Machine, options: Options, rate: float) -> Figures:
        figures = measure(self, machine, int(options.latency_seconds * rate), rate)
        waits = {name: value for name, value in figures.values.items() if name.endswith(" ms")}
        return Figures(waits | dict(figures.values), figures.cpu)


class Customers:
    """The process that places the orders, and the pipe to it."""

    def __init__(self, name: str, command: Callable[[int], list[str]], machine: Machine, **environment: str) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self.worker = Worker(name, command(number), environment, machine.folder, descriptors=[number])

    def hear(self) -> Any:
        """What it says next; WorkerEnded if it ends instead."""
        wait_until("an answer", lambda: self._pipe.poll(0.2), [self.worker], every=0)
        try:
            return self._pipe.recv()
        except EOFError:  # it has closed the pipe, and what follows is its end
            wait_until("the end of a process that says no more", lambda: False, [self.worker], within=STOP_SECONDS)

    def place(self, job: Job) -> list[End]:
        self._pipe.send(job)
        ends: list[End] = self.hear()
        return ends

    def close(self) -> None:
        self._pipe.close()


@dataclass
class Shop:
    """The peer's processes at work."""

    started: Started
    database: psycopg.Connection
    ends: dict[int, End] = field(default_factory=dict[int, End])

    def order(self, first: int, count: int, in_flight: int, rate: float = CLOSED_LOOP) -> None:
        bodies = [created(number).payload or b"" for number in range(first, first + count)]
        ends = self.started.customers.place(Job(bodies, in_flight, rate))
        expect("orders that ended", len(ends), count)
        self.ends |= dict(enumerate(ends, first))

    def check(self) -> None:
        """Every order ended as it should, and left its rows, once."""
        for number, end in self.ends.items():
            expect(f"order {number}", end.status, "CANCELLED" if is_declined(number) else "COMPLETED")
        check_rows(dict.fromkeys(SERVICES, self.database), self.ends)


@contextmanager
def open_shop(machine: Machine, peer: Peer, orders: int) -> Generator[Shop]:
    """All business tables in one database, ``orders`` orders that wait, the peer's processes started."""
    with machine.database("peer") as url:
        engine = create_engine(url)
        for service in SERVICES:
            make_business_tables(service, engine)
        engine.dispose()
        add_orders(url, orders)
        with (
            connect(url) as connection,
            peer.start(machine, dsn(url)) as started,
            running(started.customers.worker),
        ):
            expect("the first word of the customers", started.customers.hear(), "ready")
            machine.settle()
            yield Shop(started, connection)
            started.customers.close()


def measure(peer: Peer, machine: Machine, count: int, rate: float) -> Figures:
    """Sagas a second and their latency, in a closed loop or at a rate."""
    with open_shop(machine, peer, count + WARM_UP) as shop:
        shop.order(0, WARM_UP, peer.in_flight)
        meter = Meter({**shop.started.groups, "postgresql": [machine.postgres.pid]})
        shop.order(WARM_UP, count, peer.in_flight, rate)
        usage = meter.stop()
        shop.check()
    timed = [end for number, end in shop.ends.items() if number >= WARM_UP]
    latency = percentiles(end.ended - end.sent for end in timed)
    decided = percentiles(end.decided - end.sent for end in timed)
    figures = rates(count, usage, "sagas")
    if shop.started.unseen:
        figures = without_cpu(figures)
    values = {**figures.values, **latency, "decided p50 ms": decided["p50 ms"]}
    return Figures(values, figures.cpu)


def module(python: Path, name: str, *arguments: str) -> list[str]:
    """The command that runs a module of ``benchmarks.peers``."""
    return [str(python), "-m", f"benchmarks.peers.{name}", *arguments]
