"""growth: the rates with a backlog, beside the rates without; more replicas; larger messages."""

from __future__ import annotations

from dataclasses import replace

import psycopg

from benchmarks.harness.figures import Contender, Figures, Run, Workload
from benchmarks.harness.filling import fill_inbox, fill_sagas
from benchmarks.harness.machine import Machine
from benchmarks.harness.options import Options
from benchmarks.workloads import consume, relay, saga

FEW_ROWS = 20_000
REPLICAS = (1, 2, 4)
SIZES = (200, 2_000, 20_000, 100_000)
BYTES = 100_000_000
"""Of all messages of one size together, at most."""


def workloads(options: Options) -> list[Workload]:
    """What is compared with the first contender of each."""
    many, known = f"{options.backlog:,} rows", f"{options.inbox:,} in the inbox"
    sagas = f"{options.finished_sagas:,} ended, {options.live_sagas:,} live"
    return [
        _growth(
            "the relay, by the number of rows that wait",
            "rows/s",
            Contender("few rows", _relay(FEW_ROWS)),
            Contender(many, _relay(options.backlog)),
        ),
        _growth(
            "the consumer, by the size of its inbox",
            "messages/s",
            Contender("empty", _inbox(0)),
            Contender(known, _inbox(options.inbox)),
        ),
        _growth(
            "sagas, by how many there are already",
            "sagas/s",
            Contender("none", _sagas(0, 0)),
            Contender(sagas, _sagas(options.finished_sagas, options.live_sagas)),
        ),
        _growth(
            "the consumer, by replicas on this machine",
            "messages/s",
            *(Contender(_replicas(number), _consumers(number)) for number in REPLICAS),
        ),
        _growth(
            "sagas, by replicas of each service on this machine",
            "sagas/s",
            *(Contender(_replicas(number), _replicated(number)) for number in REPLICAS),
        ),
        _growth(
            "the relay, by the size of a message",
            "rows/s",
            *(Contender(f"{size:,} bytes", _sized(size)) for size in SIZES),
        ),
    ]


def _growth(what: str, unit: str, *contenders: Contender) -> Workload:
    return Workload("growth", f"growth: {what}", unit, contenders, baseline=contenders[0].name)


def _replicas(number: int) -> str:
    return f"{number} replica{'s' if number > 1 else ''}"


def _relay(rows: int) -> Run:
    return lambda machine, options: relay.drain(machine, relay.Backlog(options.payload), rows)


def _sized(size: int) -> Run:
    def run(machine: Machine, options: Options) -> Figures:
        figures = relay.drain(machine, relay.Ours(size), min(options.rows, BYTES // size))
        return replace(figures, values={**figures.values, "MB/s": figures.values["rows/s"] * size / 1e6})

    return run


def _inbox(rows: int) -> Run:
    def prefill(connection: psycopg.Connection) -> None:
        if rows:
            fill_inbox(connection, "ledger", "bench", rows)

    def run(machine: Machine, options: Options) -> Figures:
        with consume.consuming(machine, consume.PLAIN, prefill=prefill) as (connection, workers):
            return consume.measure(machine, connection, workers, options.messages, consume.PLAIN, known=rows)

    return run


def _consumers(replicas: int) -> Run:
    def run(machine: Machine, options: Options) -> Figures:
        with consume.consuming(machine, consume.PLAIN, replicas) as (connection, workers):
            return consume.measure(machine, connection, workers, options.messages, consume.PLAIN)

    return run


def _replicated(replicas: int) -> Run:
    return lambda machine, options: saga.closed_loop(
        machine, options, saga.OURS, options.in_flight[0], replicas=replicas
    )


def _sagas(finished: int, live: int) -> Run:
    def prefill(services: saga.Running) -> None:
        saga.wait_for_ends(services)
        if finished or live:
            fill_sagas(services.databases["orchestrator"], finished, live)

    return lambda machine, options: saga.closed_loop(machine, options, saga.OURS, options.in_flight[0], prefill)
