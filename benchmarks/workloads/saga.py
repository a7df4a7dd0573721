"""saga: the order system's place-order, completed and declined, in a closed loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import psycopg
from sqlalchemy import create_engine

from benchmarks.ceiling import saga as by_hand
from benchmarks.harness.books import add_orders, check_rows, expected_ends, orders_ended, rows, sold
from benchmarks.harness.figures import Contender, Figures, Run, Workload, percentiles, rates
from benchmarks.harness.machine import Machine, connect, dsn
from benchmarks.harness.options import Options
from benchmarks.harness.orders import Customers
from benchmarks.harness.processes import Worker, ceiling_command, running, service_command, service_environment
from benchmarks.harness.usage import Meter, peak_memory
from benchmarks.harness.waiting import wait_until
from benchmarks.peers import shops
from benchmarks.workloads.consume import begin_at
from kafkasaga import Service
from kafkasaga.examples.order_system.demo.databases import SERVICES
from kafkasaga.examples.order_system.demo.seed import make_business_tables
from kafkasaga.stores.migrations import upgrade

NAMES = ("order", "inventory", "payment", "orchestrator")
WARM_UP = 200
TOPICS = sorted({topic for service in SERVICES for topic in service.reads | service.writes})


@dataclass(frozen=True, slots=True)
class System:
    """One way to run the four services."""

    tables: Callable[[Service, str], None]
    command: Callable[[Machine, str, str], list[str]]


@dataclass
class Running:
    """The four services at work, each with a database of its own."""

    machine: Machine
    databases: dict[str, psycopg.Connection]
    workers: tuple[Worker, ...]
    customers: Customers
    orders: int = field(default=0)

    def meter(self) -> Meter:
        groups: dict[str, list[int]] = defaultdict(list)
        for worker in self.workers:
            groups[worker.name.split("-")[1]].append(worker.pid)
        return Meter({**groups, "postgresql": [self.machine.postgres.pid], "kafka": [self.machine.kafka.pid]})


def workload(options: Options) -> list[Workload]:
    """One for each number of sagas in flight."""
    return [
        Workload(
            "saga",
            f"saga: place-order, one in ten declined, {number} in flight",
            "sagas/s",
            (
                Contender("kafkasaga, plain handlers", _closed_loop(OURS, number)),
                Contender("kafkasaga, batch handlers", _closed_loop(OURS_IN_BULK, number)),
                Contender("ceiling", _closed_loop(CEILING, number)),
                *(peer.closed_loop() for peer in shops.peers(options)),
            ),
        )
        for number in options.in_flight
    ]


def _closed_loop(system: System, in_flight: int) -> Run:
    return lambda machine, options: closed_loop(machine, options, system, in_flight)


def closed_loop(
    machine: Machine,
    options: Options,
    system: System,
    in_flight: int,
    prefill: Callable[[Running], None] | None = None,
    replicas: int = 1,
) -> Figures:
    """Sagas a second; ``prefill`` puts old things into the databases after the warm-up."""
    with running_system(machine, options, system, options.sagas + WARM_UP, replicas) as services:
        services.customers.order(0, WARM_UP, in_flight=in_flight)
        if prefill is not None:
            prefill(services)
            machine.settle()
        meter = services.meter()
        services.customers.order(WARM_UP, options.sagas, in_flight=in_flight)
        usage = meter.stop()
        check(services)
        figures = rates(options.sagas, usage, "sagas")
        latency = percentiles(services.customers.latencies(WARM_UP))
        peak = max(peak_memory(worker.pid) for worker in services.workers)
    return Figures({**figures.values, **latency, "peak MB": peak}, figures.cpu)


def _our_tables(service: Service, url: str) -> None:
    engine = create_engine(url)
    upgrade(engine, service.outbox.tables)
    engine.dispose()


def _tables_by_hand(_: Service, url: str) -> None:
    with connect(url) as connection:
        connection.execute(by_hand.TABLES)


def _ours(targets: str) -> System:
    """Our four services; ``targets`` says where to find a participant by its name."""

    def command(_machine: Machine, name: str, _url: str) -> list[str]:
        where = SHIPPED if name == "orchestrator" else targets
        return service_command(where.format(name))

    return System(_our_tables, command)


SHIPPED = "kafkasaga.examples.order_system.{0}:{0}"
OURS, OURS_IN_BULK = _ours(SHIPPED), _ours("benchmarks.ours.orders:{0}")
CEILING = System(
    _tables_by_hand,
    lambda machine, name, url: ceiling_command("saga", name, dsn(url), machine.bootstrap_servers),
)


@contextmanager
def running_system(
    machine: Machine, options: Options, system: System, orders: int, replicas: int = 1
) -> Generator[Running]:
    """Everything started, with ``orders`` orders that wait to be created."""
    machine.topics(*TOPICS, partitions=options.partitions)
    with ExitStack() as stack:
        databases: dict[str, psycopg.Connection] = {}
        workers: list[Worker] = []
        for service in (service for service in SERVICES if service.name in NAMES):
            url = stack.enter_context(machine.database(service.name))
            _prepare(service, url, system, orders)
            connection = databases[service.name] = stack.enter_context(connect(url))
            begin_at(connection, service.name, machine.ends(*service.reads))
            environment = service_environment(url, machine.bootstrap_servers)
            command = system.command(machine, service.name, url)
            for number in range(replicas):
                workers.append(Worker(f"saga-{service.name}-{number}", command, environment, machine.folder))
                stack.enter_context(running(workers[-1]))
        customers = Customers(machine, tuple(workers))
        stack.callback(customers.close)
        if replicas > 1:
            settled = partial(_settled, machine, replicas)
            wait_until("settled groups", settled, workers, every=0.5)
        machine.settle()
        yield Running(machine, databases, tuple(workers), customers, orders)


def _settled(machine: Machine, replicas: int) -> bool:
    """Whether every replica of every service has partitions."""
    return all(machine.members(name) == replicas for name in NAMES)


def _prepare(service: Service, url: str, system: System, orders: int) -> None:
    engine = create_engine(url)
    system.tables(service, url)
    make_business_tables(service.name, engine)
    engine.dispose()
    if service.name == "order":
        add_orders(url, orders)


def wait_for_ends(services: Running) -> None:
    """Wait for what comes after the sagas' ends."""
    databases = services.databases
    good, declined = expected_ends(services.customers.sent)
    wait_until("every order at its end", lambda: orders_ended(databases["order"]) == (good, declined), services.workers)
    wait_until("every reservation sold", lambda: sold(databases["inventory"]) == good, services.workers)
    wait_until("empty outboxes", lambda: not any(rows(d, "outbox") for d in databases.values()), services.workers)


def check(services: Running) -> None:
    """Nothing lost, nothing doubled, stock and money conserved."""
    wait_for_ends(services)
    customers, databases = services.customers, services.databases
    customers.drain(0.2)
    customers.check()
    check_rows(databases, customers.sent)
