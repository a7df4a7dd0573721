"""memory: the most that a process has in use while it works through a backlog, a small one and a large one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.harness.figures import Contender, Figures, Run, Workload
from benchmarks.harness.machine import Machine
from benchmarks.harness.options import Options
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
            ("the relay", _relay(relay.Ours), _relay(relay.ByHand)),
            ("the consumer", _consumer(consume.PLAIN), _consumer(consume.CEILING)),
        )
    ]


def _relay(contender: type[relay.Ours | relay.ByHand]) -> Callable[[int], Run]:
    def of(rows: int) -> Run:
        return lambda machine, options: _peak_first(relay.drain(machine, contender(options.payload), rows))

    return of


def _consumer(consumer: consume.Consumer) -> Callable[[int], Run]:
    def of(messages: int) -> Run:
        def run(machine: Machine, _: Options) -> Figures:
            with consume.consuming(machine, consumer) as (connection, workers):
                return _peak_first(consume.measure(machine, connection, workers, messages, consumer))

        return run

    return of


def _peak_first(figures: Figures) -> Figures:
    return replace(figures, values={"peak MB": figures.values["peak MB"], **figures.values})
