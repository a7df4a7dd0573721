"""memory: the most that a process has in use while it works through a backlog, a small one and a large one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psycopg

from benchmarks.harness.books import rows
from benchmarks.harness.figures import Contender, Figures, Run, Workload, expect, rates
from benchmarks.harness.load import Load
from benchmarks.harness.machine import Machine
from benchmarks.harness.options import Options
from benchmarks.harness.processes import Worker
from benchmarks.harness.usage import Meter, peak_memory
from benchmarks.harness.waiting import wait_until
from benchmarks.workloads import consume, relay

SMALL = 10_000


def workloads(options: Options) -> list[Workload]:
    """Relay and consumer; each large backlog is compared with the small one."""
    small, large = f"{SMALL:,} waiting", f"{options.backlog:,} waiting"
    return [
        Workload(
            "memory",
            f"memory: {what}",
            "peak MB",
            (
                Contender(f"kafkasaga, {small}", ours(SMALL)),
                Contender(f"kafkasaga, {large}", ours(options.backlog)),
                Contender(f"by hand, {large}", by_hand(options.backlog)),
            ),
            less_is_better=True,
            baseline=f"kafkasaga, {small}",
        )
        for what, ours, by_hand in (
            ("the relay", _relay(relay.Backlog), _relay(relay.ByHand)),
            ("the consumer", _consumer(consume.PLAIN), _consumer(consume.CEILING)),
        )
    ]


def _relay(contender: type[relay.Ours | relay.ByHand]) -> Callable[[int], Run]:
    def of(rows: int) -> Run:
        return lambda machine, options: _peak_first(relay.drain(machine, contender(options.payload), rows))

    return of


def _consumer(consumer: consume.Consumer) -> Callable[[int], Run]:
    def of(waiting: int) -> Run:
        def run(machine: Machine, options: Options) -> Figures:
            with consume.consuming(machine, consumer) as (connection, (worker,)):
                return _under_backlog(machine, connection, worker, waiting, min(waiting, options.messages))

        return run

    return of


def _under_backlog(
    machine: Machine, connection: psycopg.Connection, worker: Worker, waiting: int, handled: int
) -> Figures:
    """All become visible at once; what a process needs shows long before it has handled them all."""
    load = Load(machine.bootstrap_servers)
    load.write(consume.commands(0, waiting))
    machine.settle()
    groups = {"consumer": [worker.pid], "postgresql": [machine.postgres.pid], "kafka": [machine.kafka.pid]}
    meter = Meter(groups)
    load.publish()
    wanted = handled + consume.WARM_UP
    wait_until("the commands", lambda: rows(connection, "ledger") >= wanted, [worker], every=0.1)
    usage = meter.stop()
    peak = peak_memory(worker.pid)
    worker.stop()
    found = rows(connection, "ledger")
    for table in ("inbox", "barrier", "outbox"):
        expect(f"rows in {table}", rows(connection, table), found)
    return _peak_first(replace(rates(found - consume.WARM_UP, usage, "messages"), values={"peak MB": peak}))


def _peak_first(figures: Figures) -> Figures:
    return replace(figures, values={"peak MB": figures.values["peak MB"], **figures.values})
