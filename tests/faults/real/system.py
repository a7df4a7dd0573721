"""The whole system: Kafka, PostgreSQL, the order system's five services and the meter, some of them twice."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kafkasaga import Settings
from kafkasaga.examples.order_system.demo.databases import SERVICES, databases
from kafkasaga.examples.order_system.demo.processes import run_command, web_command
from kafkasaga.kafka import Topics
from kafkasaga.stores import create_store
from kafkasaga.stores.migrations import upgrade
from tests.faults.real.meter import Base, meter
from tests.faults.real.proxy import Network, Proxy
from tests.faults.real.replica import Replica
from tests.faults.real.servers import PostgresServer, ProxiedKafka, through
from tests.support.process import free_port

REPLICAS = {"order": 1, "customer": 1, "inventory": 1, "payment": 1, "orchestrator": 2, "meter": 2}
SHOP = "kafkasaga.examples.order_system"
START_PATIENCE = 1.5
"""For a server to start, in patiences: Kafka reads all of its logs after a kill."""


@dataclass
class System:
    """What is broken, and what is looked at."""

    kafka: ProxiedKafka
    postgres: PostgresServer
    replicas: list[Replica]
    urls: dict[str, str]
    """The services' databases, reached directly."""
    front: str
    session_timeout: float
    deaths_by_themselves: list[str] = field(default_factory=list[str])

    def of(self, service: str) -> list[Replica]:
        return [replica for replica in self.replicas if replica.service == service]

    @property
    def twins(self) -> list[Replica]:
        """The replicas that have another one beside them."""
        return [replica for replica in self.replicas if REPLICAS[replica.service] > 1]

    def start_what_ended(self, leave_out: Collection[Replica] = ()) -> None:
        """As a platform does: a service that has ended is started again; that it had to be is told."""
        for replica in self.replicas:
            if replica not in leave_out and (how := replica.ended_by_itself()) is not None:
                self.deaths_by_themselves.append(how)
                replica.start()

    def stop(self) -> dict[str, int | None]:
        """Stop all services in good order; returns their exit statuses."""
        for replica in self.replicas:
            replica.ask_to_stop()
        statuses = {replica.name: replica.stop() for replica in self.replicas}
        self.deaths_by_themselves += [text for replica in self.replicas for text in replica.stuck]
        return statuses


@contextmanager
def running_system(folder: Path, session_timeout: float, patience: float) -> Iterator[System]:
    """Start everything; kill what is left of it at the end of the block."""
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        names = [(service, number) for service, count in REPLICAS.items() for number in range(count)]
        ways = {name: (network.proxy(), network.proxy()) for name in names}
        kafka = stack.enter_context(
            ProxiedKafka([to_kafka.port for to_kafka, _ in ways.values()], START_PATIENCE * patience)
        )
        postgres = stack.enter_context(PostgresServer(ready_within=START_PATIENCE * patience))
        for to_kafka, to_postgres in ways.values():
            to_kafka.upstream, to_postgres.upstream = kafka.behind[to_kafka.port], postgres.port
        urls = _prepare(kafka, postgres, folder)
        port = free_port()
        replicas = [
            _replica(service, number, *ways[service, number], urls[service], port, folder, session_timeout)
            for service, number in names
        ]
        stack.callback(_kill_all, replicas)
        for replica in replicas:
            replica.start()
        yield System(kafka, postgres, replicas, urls, f"http://127.0.0.1:{port}", session_timeout)


def _prepare(kafka: ProxiedKafka, postgres: PostgresServer, folder: Path) -> dict[str, str]:
    """Databases and topics; returns the databases' URLs."""
    with databases(postgres.url("shop"), folder) as ready:
        urls = {name: database.url for name, database in ready.items()}
    urls["meter"] = postgres.create_database("shop_meter")
    store = create_store(urls["meter"], meter.outbox)
    upgrade(store.engine, store.tables)
    Base.metadata.create_all(store.engine)
    store.close()
    services = (*SERVICES, meter)
    topics = {topic for service in services for topic in service.reads | service.writes}
    Topics(Settings.load(bootstrap_servers=kafka.bootstrap_servers)).create(sorted(topics), partitions=4)
    return urls


def _replica(  # noqa: PLR0917
    service: str, number: int, to_kafka: Proxy, to_postgres: Proxy, url: str, port: int, folder: Path, timeout: float
) -> Replica:
    name = f"{service}-{number}"
    environment = {
        "KAFKASAGA_DATABASE_URL": through(url, to_postgres.port),
        "KAFKASAGA_BOOTSTRAP_SERVERS": f"127.0.0.1:{to_kafka.port}",
        "KAFKASAGA_INSTANCE_ID": name,
        "KAFKASAGA_KAFKA": json.dumps({"session.timeout.ms": int(timeout * 1000)}),
    }
    match service:
        case "order":
            command = web_command(f"{SHOP}.front:create_app", port)
        case "meter":
            command = run_command("tests.faults.real.meter:meter")
        case _:
            command = run_command(f"{SHOP}.{service}:{service}")
    # Without the interpreter and its -m: the replica runs the module by way of ours.
    return Replica(name, service, command[2:], environment, folder, to_kafka, to_postgres)


def _kill_all(replicas: Collection[Replica]) -> None:
    for replica in replicas:
        if replica.alive:
            replica.kill()


def until_ready(system: System, within: float) -> None:
    """Until every service has its partitions."""
    deadline = time.monotonic() + within
    waiting = set(range(len(system.replicas)))
    while waiting:
        done = {n for n in waiting if any(one.what == "assigned" for one in system.replicas[n].milestones())}
        waiting -= done
        for replica in system.replicas:
            if (how := replica.ended_by_itself()) is not None:
                raise RuntimeError(how)
        if time.monotonic() > deadline:
            names = ", ".join(system.replicas[n].name for n in waiting)
            raise TimeoutError(f"no partitions after {within:.0f} s: {names}")
        time.sleep(0.05)
