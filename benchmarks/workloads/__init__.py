"""What is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness.figures import Workload
    from benchmarks.harness.options import Options

NAMES = ("relay", "consume", "saga", "latency", "orchestrator", "growth", "memory")


def workloads(options: Options) -> list[Workload]:
    """Those that are asked for, in the order in which they run."""
    from benchmarks.workloads import consume, growth, latency, memory, orchestrator, relay, saga

    every = [
        relay.workload(options),
        consume.workload(),
        *saga.workload(options),
        *latency.workloads(options),
        orchestrator.workload(),
        *growth.workloads(options),
        *memory.workloads(options),
    ]
    return [workload for workload in every if workload.name in options.only]
