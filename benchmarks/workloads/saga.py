"""saga: the order system's place-order, completed and declined, in a closed loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psycopg
from sqlalchemy import create_engine

from benchmarks.ceiling import saga as by_hand
from benchmarks.harness.figures import Contender, Figures, Run, Workload, expect, percentiles, rates
from benchmarks.harness.machine import Machine, connect, dsn
from benchmarks.harness.options import Options
from benchmarks.harness.orders import Customers, is_declined, order_id
from benchmarks.harness.processes import Worker, ceiling_command, running, service_command, service_environment
from benchmarks.harness.usage import Meter
from benchmarks.harness.waiting import wait_until
from benchmarks.workloads.consume import begin_at
from kafkasaga import Service
from kafkasaga.examples.order_system.demo.databases import SERVICES
from kafkasaga.examples.order_system.demo.seed import INITIAL_STOCK, make_business_tables
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
        groups = {worker.name.removeprefix("saga-"): [worker.pid] for worker in self.workers}
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
                Contender("ceiling", _closed_loop(CEILING, number)),
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
) -> Figures:
    """Sagas a second; ``prefill`` puts old things into the databases after the warm-up."""
    with running_system(machine, options, system, options.sagas + WARM_UP) as services:
        services.customers.order(0, WARM_UP, in_flight=in_flight)
        if prefill is not None:
            prefill(services)
        meter = services.meter()
        services.customers.order(WARM_UP, options.sagas, in_flight=in_flight)
        usage = meter.stop()
        check(services)
        figures = rates(options.sagas, usage, "sagas")
        latency = percentiles(services.customers.latencies(WARM_UP))
    return Figures({**figures.values, **latency}, figures.cpu)


def _our_tables(service: Service, url: str) -> None:
    engine = create_engine(url)
    upgrade(engine, service.outbox.tables)
    engine.dispose()


def _tables_by_hand(_: Service, url: str) -> None:
    with connect(url) as connection:
        connection.execute(by_hand.TABLES)


OURS = System(
    _our_tables,
    lambda _machine, name, _url: service_command(f"kafkasaga.examples.order_system.{name}:{name}"),
)
CEILING = System(
    _tables_by_hand,
    lambda machine, name, url: ceiling_command("saga", name, dsn(url), machine.bootstrap_servers),
)


@contextmanager
def running_system(machine: Machine, options: Options, system: System, orders: int) -> Iterator[Running]:
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
            workers.append(Worker(f"saga-{service.name}", command, environment, machine.folder))
            stack.enter_context(running(workers[-1]))
        customers = Customers(machine, tuple(workers))
        stack.callback(customers.close)
        machine.settle()
        yield Running(machine, databases, tuple(workers), customers, orders)


def _prepare(service: Service, url: str, system: System, orders: int) -> None:
    engine = create_engine(url)
    system.tables(service, url)
    make_business_tables(service.name, engine)
    engine.dispose()
    if service.name == "order":
        with connect(url) as connection, connection.cursor() as cursor:
            with cursor.copy("COPY customer_order (id, request, status) FROM STDIN") as copy:
                for number in range(orders):
                    copy.write_row((order_id(number), "{}", "VALIDATING"))
            cursor.execute("ANALYZE")


def wait_for_ends(services: Running) -> None:
    """Wait for what comes after the sagas' ends."""
    databases = services.databases
    good, declined = _expected(services.customers)
    wait_until("every order at its end", lambda: _orders(databases["order"]) == (good, declined), services.workers)
    wait_until("every reservation sold", lambda: _sold(databases["inventory"]) == good, services.workers)
    wait_until("empty outboxes", lambda: not any(_count(d, "outbox") for d in databases.values()), services.workers)


def check(services: Running) -> None:
    """Nothing lost, nothing doubled, stock and money conserved."""
    wait_for_ends(services)
    customers, databases = services.customers, services.databases
    good, _ = _expected(customers)
    customers.drain(0.2)
    customers.check()
    history = _count(databases["order"], "order_history")
    expect("changes of orders", history, 2 * len(customers.sent))
    expect("charges", _count(databases["payment"], "charge"), good)
    expect("refunds", _count(databases["payment"], "refund"), 0)
    stock = databases["inventory"].execute("SELECT sum(available), sum(reserved), sum(sold) FROM stock").fetchone()
    expect("stock (available, reserved, sold)", stock, (sum(INITIAL_STOCK.values()) - good, 0, good))
    expect("reservations", _count(databases["inventory"], "reservation"), len(customers.sent))


def _expected(customers: Customers) -> tuple[int, int]:
    declined = sum(is_declined(number) for number in customers.sent)
    return len(customers.sent) - declined, declined


def _orders(connection: psycopg.Connection) -> tuple[int, int]:
    query = "SELECT status::text, count(*) FROM customer_order GROUP BY 1"
    counts: dict[str, int] = dict(connection.execute(query).fetchall())
    return counts.get("COMPLETED", 0), counts.get("CANCELLED", 0)


def _sold(connection: psycopg.Connection) -> int:
    return _first(connection, "SELECT count(*) FROM reservation WHERE status = 'SOLD'")


def _count(connection: psycopg.Connection, table: str) -> int:
    return _first(connection, f"SELECT count(*) FROM {table}")  # noqa: S608 (our own names)


def _first(connection: psycopg.Connection, query: str) -> int:
    found = connection.execute(query).fetchone()
    return found[0] if found else 0
