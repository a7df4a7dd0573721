"""What is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness.figures import Workload


def workloads() -> tuple[Workload, ...]:
    """All of them, in the order in which they run."""
    from benchmarks.workloads import consume, relay

    return (relay.workload(), consume.workload())
