"""relay: drain committed rows to Kafka."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import psycopg
from confluent_kafka import Consumer
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks.ceiling import relay as by_hand
from benchmarks.harness.figures import Contender, Figures, Run, Workload, WrongResult, expect, rates
from benchmarks.harness.filling import fill_outbox
from benchmarks.harness.machine import Machine, connect, dsn, read_ends, read_from
from benchmarks.harness.options import Options
from benchmarks.harness.processes import Worker, ceiling_command, running, service_command, service_environment
from benchmarks.harness.usage import Meter, peak_memory
from benchmarks.harness.waiting import wait_until
from benchmarks.ours.relayed import TOPIC, Placed, outbox
from kafkasaga.messages import NAMESPACE, Envelope
from kafkasaga.stores.migrations import upgrade
from kafkasaga.stores.outbox_rows import headers_as_text

KEYS = 1000
Starts = dict[tuple[str, int], int]
"""Where the partitions ended before."""


def workload(options: Options) -> Workload:
    contenders = [
        Contender("kafkasaga", drains(Ours)),
        Contender("ceiling", drains(ByHand)),
        Contender("ceiling, two headers", drains(lambda size: ByHand(size, lean=True))),
    ]
    if options.peers:
        from benchmarks.peers import relays

        contenders += [Contender(name, drains(peer.relay), peer.fetch) for name, peer in relays.PEERS.items()]
    return Workload(
        "relay",
        "relay: rows committed in one transaction, until all are in Kafka and gone from the outbox",
        "rows/s",
        contenders,
    )


def drains(relay: Callable[[int], Relay]) -> Run:
    """Measures a relay for messages of the size that is asked for."""
    return lambda machine, options: drain(machine, relay(options.payload), options.rows)


class Relay(ABC):
    """Publishes the outbox of one database; everybody has a table of their own."""

    warm_up = 3000
    """Rows before time begins."""
    in_order = True
    """Whether it is to keep the order of each key."""

    @abstractmethod
    def prepare(self, url: str) -> None:
        """Create what must be there before it starts."""

    @abstractmethod
    def worker(self, machine: Machine, url: str) -> Worker:
        """Start it."""

    @abstractmethod
    def fill(self, url: str, first: int, count: int) -> None:
        """Commit so many rows in one transaction, and wake it if that is how it is woken."""

    def is_ready(self, connection: psycopg.Connection) -> bool:  # noqa: ARG002
        """Whether rows may be committed."""
        return True

    def is_done(self, connection: psycopg.Connection) -> bool:
        """Whether nothing is left to do in the database for what Kafka has."""
        return connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)

    def clean(self, connection: psycopg.Connection) -> None:  # noqa: B027 (most have nothing to remove)
        """Remove what would keep the database from being dropped."""


class Ours(Relay):
    """The library: a service that runs its relay only."""

    def __init__(self, size: int) -> None:
        self._size = size

    def prepare(self, url: str) -> None:
        upgrade(create_engine(url), outbox.tables)

    def worker(self, machine: Machine, url: str) -> Worker:
        environment = service_environment(url, machine.bootstrap_servers)
        return Worker("relay", service_command("benchmarks.ours.relayed:service", "relay"), environment, machine.folder)

    def fill(self, url: str, first: int, count: int) -> None:
        """COPY, and the last row through the API, whose commit wakes the relay."""
        engine = create_engine(url)
        with Session(engine) as session, session.begin():
            self._copy(session.connection().connection.driver_connection, first, count - 1)
            for _, message in messages(first + count - 1, 1, self._size):
                outbox.publish(session, message)
        engine.dispose()

    def _copy(self, driver: Any, first: int, count: int) -> None:
        columns = "message_id, topic, key, payload, headers, created_at"
        with driver.cursor() as cursor, cursor.copy(f"COPY outbox ({columns}) FROM STDIN") as copy:
            for id, message in messages(first, count, self._size):
                body = message.model_dump_json().encode()
                now = datetime.now(UTC)
                envelope = Envelope(TOPIC, message.account, id, "bench", TOPIC, now, body)
                headers = headers_as_text(envelope)
                copy.write_row((id, TOPIC, message.account, body, headers, now))


class Backlog(Ours):
    """The same, for so many rows that PostgreSQL makes them itself."""

    def _copy(self, driver: Any, first: int, count: int) -> None:
        fill_outbox(driver, TOPIC, count, first, KEYS, self._size)


class ByHand(Relay):
    """The ceiling's relay, on a table of its own."""

    def __init__(self, size: int, *, lean: bool = False) -> None:
        self._size, self._flags = size, ["lean"] if lean else []

    def prepare(self, url: str) -> None:
        with connect(url) as connection:
            connection.execute(by_hand.TABLE)

    def worker(self, machine: Machine, url: str) -> Worker:
        command = ceiling_command("relay", dsn(url), machine.bootstrap_servers, *self._flags)
        return Worker("relay", command, {}, machine.folder)

    def fill(self, url: str, first: int, count: int) -> None:
        with connect(url) as connection:
            into = "COPY outbox (id, topic, key, type, payload) FROM STDIN"
            with connection.transaction(), connection.cursor() as cursor, cursor.copy(into) as copy:
                for id, message in messages(first, count, self._size):
                    copy.write_row((id, TOPIC, message.account, TOPIC, message.model_dump_json()))
            connection.execute(f"NOTIFY {by_hand.CHANNEL}")


def messages(first: int, count: int, size: int) -> Iterator[tuple[UUID, Placed]]:
    """Messages number ``first`` and on; each knows its place among those of its account."""
    for order in range(first, first + count):
        account = order % KEYS
        empty = Placed.model_construct(account=f"account-{account}", number=order // KEYS, order=order, note="")
        padding = max(0, size - len(empty.model_dump_json()))
        yield uuid5(NAMESPACE, str(order)), empty.model_copy(update={"note": "x" * padding})


@dataclass(frozen=True, slots=True)
class Relaying:
    """A relay at work."""

    relay: Relay
    machine: Machine
    url: str
    worker: Worker
    connection: psycopg.Connection

    def meter(self) -> Meter:
        machine = self.machine
        return Meter({"relay": [self.worker.pid], "postgresql": [machine.postgres.pid], "kafka": [machine.kafka.pid]})

    def wait_for(self, rows: int, starts: Starts, observer: Consumer) -> None:
        """Until so many rows are in Kafka, and nothing is left to do for them."""

        def published() -> int:
            return sum(read_ends(observer, (TOPIC,)).values()) - sum(starts.values())

        wait_until("all rows in Kafka", lambda: published() >= rows, [self.worker])
        wait_until("an empty outbox", lambda: self.relay.is_done(self.connection), [self.worker], every=0.005)


@contextmanager
def relaying(machine: Machine, relay: Relay) -> Generator[Relaying]:
    """A database whose relay is at work and warm."""
    machine.topics(TOPIC)
    with machine.database("relay") as url, connect(url) as connection:
        relay.prepare(url)
        try:
            with running(relay.worker(machine, url)) as (worker,):
                at_work = Relaying(relay, machine, url, worker, connection)
                wait_until("the relay", lambda: relay.is_ready(connection), [worker])
                starts, observer = machine.ends(TOPIC), machine.observer()
                relay.fill(url, -relay.warm_up, relay.warm_up)
                at_work.wait_for(relay.warm_up, starts, observer)
                observer.close()
                yield at_work
        finally:
            relay.clean(connection)


def drain(machine: Machine, relay: Relay, rows: int) -> Figures:
    """From the commit of the transaction that wrote them until they are all published and deleted."""
    with relaying(machine, relay) as at_work:
        machine.settle()
        starts, observer = machine.ends(TOPIC), machine.observer()
        relay.fill(at_work.url, 0, rows)
        meter = at_work.meter()
        at_work.wait_for(rows, starts, observer)
        usage = meter.stop()
        peak = peak_memory(at_work.worker.pid)
        observer.close()
    reordered = check_relayed(machine, starts, rows, in_order=relay.in_order)
    figures = rates(rows, usage, "rows")
    unordered = {} if relay.in_order else {"out of order": float(reordered)}
    return Figures({**figures.values, "peak MB": peak, **unordered}, figures.cpu)


def check_relayed(machine: Machine, starts: Starts, rows: int, *, in_order: bool = True) -> int:
    """Every message once, those of an account in one partition and in their order.

    Returns how many came after a later one of their account, which only a relay may do that does not promise an order.
    """
    observer = machine.observer()
    seen: Counter[int] = Counter()
    last: dict[str, int] = {}
    places: dict[str, int | None] = {}
    reordered = 0
    for record in read_from(observer, starts, machine.ends(TOPIC)):
        message = Placed.model_validate_json(record.value() or b"")
        seen[message.order] += 1
        if message.number <= last.get(message.account, -1):
            reordered += 1
            if in_order:
                raise WrongResult(f"{message.account}: {message.number} came after {last[message.account]}")
        last[message.account] = max(message.number, last.get(message.account, -1))
        if places.setdefault(message.account, record.partition()) != record.partition():
            raise WrongResult(f"{message.account} is in two partitions")
        expect("key", record.key(), message.account.encode())
    observer.close()
    expect("messages in Kafka", sum(seen.values()), rows)
    expect("different messages in Kafka", len(seen), rows)
    return reordered
