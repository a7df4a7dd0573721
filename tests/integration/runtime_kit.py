"""What the runtime's integration tests share: the shop on a broker and a database, and programs run as processes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, select

from kafkasaga import Message, Settings
from kafkasaga.kafka import Topics
from kafkasaga.runtime.operator import Operator
from kafkasaga.stores import SqlStore, create_store
from kafkasaga.stores.migrations import upgrade

WITHIN = 60.0  # seconds; a deadline for what takes milliseconds on an idle machine
SHOP = Path(__file__).with_name("shop.py")
ROOT = SHOP.parents[2]


def until(condition: Callable[[], object], what: str, within: float = WITHIN) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within:.0f} s"
        time.sleep(0.02)


@dataclass
class Shop:
    """The shop's module, loaded for one test, with its databases made and its topics created."""

    module: Any
    database_url: str
    bootstrap_servers: str
    topics: str
    fault: Path
    kafka: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stores: dict[str, SqlStore] = field(default_factory=dict[str, SqlStore])

    @property
    def settings(self) -> Settings:
        return Settings.load(
            database_url=self.database_url,
            bootstrap_servers=self.bootstrap_servers,
            kafka=dict(self.kafka),
            relay_poll_interval=0.2,
        )

    @property
    def environment(self) -> dict[str, str]:
        """For a process of the shop."""
        import json

        return {
            "KAFKASAGA_DATABASE_URL": self.database_url,
            "KAFKASAGA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "KAFKASAGA_KAFKA": json.dumps(dict(self.kafka)),
            "KAFKASAGA_RELAY_POLL_INTERVAL": "0.2",
            "SHOP_TOPICS": self.topics,
            "SHOP_FAULT": str(self.fault),
        }

    def store(self, service: str) -> SqlStore:
        if service not in self.stores:
            self.stores[service] = create_store(self.database_url, getattr(self.module, service).outbox.tables)
        return self.stores[service]

    def prepare(self, create_topics: Callable[[list[str]], object]) -> None:
        for service in ("stock", "orders"):
            store = self.store(service)
            upgrade(store.engine, store.tables)
        self.module.movements.create(self.engine)
        wanted = self.module.stock.reads | self.module.stock.writes
        create_topics(sorted(wanted | self.module.orders.reads | self.module.orders.writes))

    @property
    def engine(self) -> Engine:
        return self.store("stock").engine

    def publish(self, *messages: Message) -> None:
        """From a transaction of a user's own, at the order service."""
        from sqlalchemy.orm import Session

        with Session(self.store("orders").engine) as session, session.begin():
            self.module.orders.outbox.publish(session, *messages)

    def place(self, *orders: str) -> None:
        self.publish(*(self.module.OrderPlaced(order=order) for order in orders))

    def movements(self) -> dict[str, list[str]]:
        """What was done for each order, in order."""
        table = self.module.movements
        found: dict[str, list[str]] = {}
        with self.engine.connect() as connection:
            for row in connection.execute(select(table).order_by(table.c.id)):
                found.setdefault(row.order, []).append(row.what)
        return found

    def ended(self) -> dict[str, str]:
        """How each order's saga ended."""
        sagas = self.store("orders").queries().sagas(limit=10_000)
        return {saga.key: saga.status.value for saga in sagas if saga.status.ended}

    def check(self) -> None:
        """Nothing is left over, and every log folds."""
        for service in ("stock", "orders"):
            queries = self.store(service).queries()
            until(lambda queries=queries: queries.counts().outbox == 0, f"{service}: the outbox is empty")  # type: ignore[misc]
            assert queries.parked() == []
        wrong = {id: problem for id, problem in Operator(self.store("orders")).verify_all() if problem is not None}
        assert wrong == {}

    def close(self) -> None:
        for store in self.stores.values():
            store.close()

    @contextmanager
    def running(self, *services: str) -> Generator[None]:
        """Both services in this process."""
        first, *rest = services or ("stock", "orders")
        with getattr(self.module, first).running(self.settings):
            if rest:
                with self.running(*rest):
                    yield
            else:
                yield

    @contextmanager
    def process(self, service: str, **environment: str) -> Generator[Program]:
        """One of them in a process of its own, as `kafkasaga run` does it."""
        program = Program(["run", f"shop:{service}"], {**self.environment, **environment})
        try:
            yield program
        finally:
            program.end()


class Program:
    """The command line in a process of its own."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KAFKASAGA_")}
        path = os.pathsep.join([str(ROOT / "src"), clean.get("PYTHONPATH", "")])
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `end`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kafkasaga", *arguments],
            env={**clean, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **environment},
            cwd=SHOP.parent,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> tuple[int, str]:
        """SIGTERM; returns its exit status and what it wrote."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        return self._process.wait(WITHIN), self.output()

    def output(self) -> str:
        """What it has written so far."""
        self._log.seek(0)
        return self._log.read()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._log.close()


def command(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command line; returns its exit status and what it wrote."""
    program = Program(list(arguments), environment)
    try:
        return program.wait()
    finally:
        program.end()


def load_shop(topics: str, fault: Path) -> ModuleType:
    """The shop with topics of its own."""
    spec = importlib.util.spec_from_file_location(f"shop_{uuid.uuid4().hex}", SHOP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.dict(os.environ, {"SHOP_TOPICS": topics, "SHOP_FAULT": str(fault)}):
        spec.loader.exec_module(module)
    return module


@contextmanager
def shop_on(
    database_url: str, settings: Any, fault: Path, create_topics: Callable[[list[str]], object] | None = None
) -> Generator[Shop]:
    """The shop on a broker and a database."""
    topics = f"shop-{uuid.uuid4().hex[:8]}"
    shop = Shop(load_shop(topics, fault), database_url, settings.bootstrap_servers, topics, fault, settings.kafka)
    try:
        shop.prepare(create_topics or Topics(settings).create)
        yield shop
    finally:
        shop.close()


@dataclass(frozen=True)
class Broker:
    """A real broker, as settings."""

    bootstrap_servers: str
    kafka: Mapping[str, Any] = field(default_factory=dict[str, Any])
    instance_id: str | None = None
