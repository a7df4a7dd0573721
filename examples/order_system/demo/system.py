"""The whole system on this machine: a broker, five databases, five processes."""

import json
import socket
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafkasaga import Settings
from kafkasaga.kafka import Topics
from kafkasaga.testing import EmbeddedKafka

from .databases import SERVICES, Database, databases
from .processes import ServiceProcess, run_command, stop_all, web_command

PACKAGE = "kafkasaga.examples.order_system"


class ServiceEnded(RuntimeError):
    """A service ended by itself."""


@dataclass(frozen=True, slots=True)
class System:
    """What the demo works with."""

    databases: Mapping[str, Database]
    processes: tuple[ServiceProcess, ...]
    front: str
    broker: str

    def check_alive(self) -> None:
        """Raises ServiceEnded if a service has ended by itself; killed ones are started again before anybody looks."""
        for process in self.processes:
            if (code := process.exit_code) is not None:
                raise ServiceEnded(f"the {process.name} service ended with status {code}: {process.log_file}")


@contextmanager
def running_system(bootstrap_servers: str | None, database_url: str | None, folder: Path) -> Generator[System]:
    """Start everything; stop it in good order at the end of the block. Nothing is waited for."""
    with ExitStack() as stack:
        kafka: dict[str, Any] = {}
        if bootstrap_servers is None:
            embedded = stack.enter_context(EmbeddedKafka())
            bootstrap_servers, kafka = embedded.bootstrap_servers, embedded.kafka
        ready = stack.enter_context(databases(database_url, folder))
        settings = Settings.load(bootstrap_servers=bootstrap_servers, kafka=kafka)
        _make_topics(settings, ready)
        port = _free_port()
        processes = tuple(_process(database, settings, port, folder) for database in ready.values())
        stack.callback(stop_all, processes)
        for process in processes:
            process.start()
        yield System(ready, processes, f"http://127.0.0.1:{port}", bootstrap_servers)


def _make_topics(settings: Settings, ready: Mapping[str, Database]) -> None:
    topics = Topics(settings)
    made = topics.create(sorted({topic for service in SERVICES for topic in service.reads | service.writes}))
    for database in ready.values():
        if database.new:
            # What lies in the topics by now is of other runs, with other databases.
            ends = topics.ends(database.service.reads.difference(made))
            with database.store.begin() as unit_of_work:
                unit_of_work.advance(database.service.name, ends)


def _process(database: Database, settings: Settings, port: int, folder: Path) -> ServiceProcess:
    name = database.service.name
    environment = {
        "KAFKASAGA_DATABASE_URL": database.url,
        "KAFKASAGA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "KAFKASAGA_KAFKA": json.dumps(settings.kafka),
        # The same after a restart, so that it takes its partitions over at once.
        "KAFKASAGA_INSTANCE_ID": f"{name}-demo",
    }
    web = name == "order"
    command = web_command(f"{PACKAGE}.front:create_app", port) if web else run_command(f"{PACKAGE}.{name}:{name}")
    return ServiceProcess(name, command, environment, folder / f"{name}.log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
