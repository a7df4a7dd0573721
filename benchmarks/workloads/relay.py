"""relay: drain committed rows to Kafka."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks.ceiling import relay as by_hand
from benchmarks.harness.figures import Contender, Figures, Workload, WrongResult, expect, rates
from benchmarks.harness.filling import fill_outbox
from benchmarks.harness.machine import Machine, connect, dsn, read_ends, read_from
from benchmarks.harness.options import Options
from benchmarks.harness.processes import Worker, ceiling_command, running, service_command, service_environment
from benchmarks.harness.usage import Meter, peak_memory
from benchmarks.harness.waiting import wait_until
from benchmarks.ours.relayed import TOPIC, Placed, outbox
from kafkasaga.messages import NAMESPACE, Envelope, write_headers
from kafkasaga.stores.migrations import upgrade
from kafkasaga.stores.outbox_rows import headers_to_text

KEYS = 1000
WARM_UP = 3000


def workload() -> Workload:
    return Workload(
        "relay",
        "relay: rows committed in one transaction, until all are in Kafka and gone from the outbox",
        "rows/s",
        (
            Contender("kafkasaga", lambda machine, options: _drain(machine, options, Ours(options.payload))),
            Contender("ceiling", lambda machine, options: _drain(machine, options, ByHand(options.payload))),
            Contender(
                "ceiling, two headers",
                lambda machine, options: _drain(machine, options, ByHand(options.payload, lean=True)),
            ),
        ),
    )


class Ours:
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
                headers = headers_to_text(write_headers(envelope))
                copy.write_row((id, TOPIC, message.account, body, headers, now))


class Backlog(Ours):
    """The same, for so many rows that PostgreSQL makes them itself."""

    def _copy(self, driver: Any, first: int, count: int) -> None:
        fill_outbox(driver, TOPIC, count, first, KEYS, self._size)


class ByHand:
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


@contextmanager
def relaying(machine: Machine, contender: Ours | ByHand) -> Iterator[tuple[str, Worker, psycopg.Connection]]:
    """A database whose relay is at work and warm."""
    machine.topics(TOPIC)
    with machine.database("relay") as url:
        contender.prepare(url)
        with running(contender.worker(machine, url)) as (worker,), connect(url) as connection:
            contender.fill(url, -WARM_UP, WARM_UP)
            wait_until("an empty outbox", lambda: outbox_is_empty(connection), [worker])
            yield url, worker, connection


def _drain(machine: Machine, options: Options, contender: Ours | ByHand) -> Figures:
    return drain(machine, contender, options.rows)


def drain(machine: Machine, contender: Ours | ByHand, rows: int) -> Figures:
    """From the commit of the transaction that wrote them until they are all published and deleted."""
    with relaying(machine, contender) as (url, worker, connection):
        machine.settle()
        starts = machine.ends(TOPIC)
        observer = machine.observer()
        contender.fill(url, 0, rows)
        meter = Meter({"relay": [worker.pid], "postgresql": [machine.postgres.pid], "kafka": [machine.kafka.pid]})

        def published() -> int:
            return sum(read_ends(observer, (TOPIC,)).values()) - sum(starts.values())

        wait_until("all rows in Kafka", lambda: published() >= rows, [worker])
        wait_until("an empty outbox", lambda: outbox_is_empty(connection), [worker], every=0.005)
        usage = meter.stop()
        peak = peak_memory(worker.pid)
        observer.close()
    check_relayed(machine, starts, rows)
    figures = rates(rows, usage, "rows")
    return Figures({**figures.values, "peak MB": peak}, figures.cpu)


def outbox_is_empty(connection: psycopg.Connection) -> bool:
    return connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


def check_relayed(machine: Machine, starts: dict[tuple[str, int], int], rows: int) -> None:
    """Every message once, those of an account in one partition and in their order."""
    observer = machine.observer()
    seen: Counter[int] = Counter()
    last: dict[str, int] = {}
    places: dict[str, int | None] = {}
    for record in read_from(observer, starts, machine.ends(TOPIC)):
        message = Placed.model_validate_json(record.value() or b"")
        seen[message.order] += 1
        if message.number <= last.get(message.account, -1):
            raise WrongResult(f"{message.account}: {message.number} came after {last[message.account]}")
        last[message.account] = message.number
        if places.setdefault(message.account, record.partition()) != record.partition():
            raise WrongResult(f"{message.account} is in two partitions")
        expect("key", record.key(), message.account.encode())
    observer.close()
    expect("messages in Kafka", sum(seen.values()), rows)
    expect("different messages in Kafka", len(seen), rows)
