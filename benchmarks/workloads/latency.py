"""latency: sagas at 20 a second, and from the commit of one outbox row to its consumption, at 200 a second."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, TopicPartition
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks.ceiling import relay as by_hand
from benchmarks.harness.figures import Contender, Figures, Run, Workload, percentiles, rates
from benchmarks.harness.machine import Machine, connect
from benchmarks.harness.options import Options
from benchmarks.harness.waiting import wait_until
from benchmarks.ours.relayed import TOPIC, Placed, outbox
from benchmarks.peers import shops
from benchmarks.workloads import saga
from benchmarks.workloads.relay import ByHand, Ours, Relay, check_relayed, messages, relaying

SAGAS_PER_SECOND, ROWS_PER_SECOND = 20, 200
WARM_UP_ROWS = 200
SIZE = 200
"""Bytes of a row's message."""
Commit = Callable[[Placed], None]


def workloads(options: Options) -> list[Workload]:
    rows = [Contender("kafkasaga", _rows(Ours, _our_commit)), Contender("ceiling", _rows(ByHand, _commit_by_hand))]
    if options.peers:
        from benchmarks.peers import relays

        rows += [Contender(name, _rows(peer.relay, peer.writer), peer.fetch) for name, peer in relays.PEERS.items()]
    return [
        Workload(
            "latency",
            f"latency: place-order at {SAGAS_PER_SECOND} a second, from order.created to the order's end",
            "p50 ms",
            (
                Contender("kafkasaga, plain handlers", _sagas(saga.OURS)),
                Contender("ceiling", _sagas(saga.CEILING)),
                *(peer.latency(SAGAS_PER_SECOND) for peer in shops.peers(options)),
            ),
            less_is_better=True,
        ),
        Workload(
            "latency",
            f"latency: an outbox row at {ROWS_PER_SECOND} a second, from its commit to a consumer elsewhere",
            "p50 ms",
            rows,
            less_is_better=True,
        ),
    ]


def _sagas(system: saga.System) -> Run:
    def run(machine: Machine, options: Options) -> Figures:
        count = int(options.latency_seconds * SAGAS_PER_SECOND)
        with saga.running_system(machine, options, system, count + saga.WARM_UP) as services:
            services.customers.order(0, saga.WARM_UP, in_flight=50)
            saga.wait_for_ends(services)
            meter = services.meter()
            services.customers.order(saga.WARM_UP, count, rate=SAGAS_PER_SECOND)
            usage = meter.stop()
            saga.check(services)
            figures = rates(count, usage, "sagas")
            return Figures(percentiles(services.customers.latencies(saga.WARM_UP)) | dict(figures.values), figures.cpu)

    return run


def _our_commit(url: str) -> Commit:
    """As an application does it that is another process than the relay."""
    engine = create_engine(url)

    def commit(message: Placed) -> None:
        with Session(engine) as session, session.begin():
            outbox.publish(session, message)

    return commit


def _commit_by_hand(url: str) -> Commit:
    connection = connect(url)
    insert = "INSERT INTO outbox (id, topic, key, type, payload) VALUES (gen_random_uuid(), %s, %s, %s, %s)"

    def commit(message: Placed) -> None:
        connection.execute(insert, (TOPIC, message.account, TOPIC, message.model_dump_json()), prepare=True)
        # Inside the transaction it would serialise all commits.
        threading.Thread(target=connection.execute, args=(f"NOTIFY {by_hand.CHANNEL}",)).start()

    return commit


class Arrivals(threading.Thread):
    """Notes when each message is consumed."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(daemon=True)
        self.at: dict[int, float] = {}
        self._stopping = threading.Event()
        self._consumer: Consumer = machine.observer()
        self._consumer.assign([TopicPartition(*place, end) for place, end in machine.ends(TOPIC).items()])
        self._consumer.poll(0.5)

    def run(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                now = time.perf_counter()
                self.at.setdefault(Placed.model_validate_json(message.value() or b"").order, now)
        self._consumer.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def _rows(relay: Callable[[int], Relay], open_writer: Callable[[str], Commit]) -> Run:
    return lambda machine, options: _latency(machine, options, relay(SIZE), open_writer)


def _latency(machine: Machine, options: Options, relay: Relay, open_writer: Callable[[str], Commit]) -> Figures:
    count = int(options.latency_seconds * ROWS_PER_SECOND) + WARM_UP_ROWS
    sys.setswitchinterval(0.0005)  # the consuming thread is not to wait for the writing one
    with relaying(machine, relay) as at_work:
        commit, starts, arrivals = open_writer(at_work.url), machine.ends(TOPIC), Arrivals(machine)
        arrivals.start()
        meter = at_work.meter()
        committed = _write(commit, count)
        wait_until("all rows consumed", lambda: len(arrivals.at) >= count, [at_work.worker], within=30)
        usage = meter.stop()
        arrivals.stop()
    check_relayed(machine, starts, count, in_order=relay.in_order)
    figures = rates(count, usage, "rows")
    waits = [arrivals.at[order] - at for order, at in committed.items() if order >= WARM_UP_ROWS]
    return Figures(percentiles(waits) | dict(figures.values), figures.cpu)


def _write(commit: Commit, count: int) -> dict[int, float]:
    """When each row's commit had returned."""
    committed: dict[int, float] = {}
    began = time.perf_counter()
    for number, (_, message) in enumerate(messages(0, count, SIZE)):
        time.sleep(max(0.0, began + number / ROWS_PER_SECOND - time.perf_counter()))
        commit(message)
        committed[message.order] = time.perf_counter()
    return committed
