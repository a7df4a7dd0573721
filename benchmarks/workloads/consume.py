"""consume: a command handler that writes one business row and returns one reply."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import LiteralString
from uuid import uuid5

import psycopg
from sqlalchemy import create_engine

from benchmarks.ceiling import ledger as by_hand
from benchmarks.harness.books import rows
from benchmarks.harness.figures import Contender, Figures, Workload, WrongResult, expect, rates
from benchmarks.harness.load import Load
from benchmarks.harness.machine import Machine, connect, dsn
from benchmarks.harness.options import Options
from benchmarks.harness.processes import Worker, ceiling_command, running, service_command, service_environment
from benchmarks.harness.usage import Meter, peak_memory
from benchmarks.harness.waiting import wait_until
from benchmarks.ours.ledger import Base, Book, Booked, service
from kafkasaga.messages import NAMESPACE, Envelope, Operation, SagaContext, contract_of
from kafkasaga.stores.migrations import upgrade

ACCOUNTS = 1000
WARM_UP = 1000
AGAIN = 500
"""Commands that are delivered a second time, after the clock has stopped."""
TOPIC, REPLIES = contract_of(Book).topic, contract_of(Booked).topic


@dataclass(frozen=True, slots=True)
class Consumer:
    """One way to handle the commands."""

    prepare: Callable[[str], None]
    command: Callable[[Machine, str], list[str]]
    replies: LiteralString
    """The query for (key, body) of every reply, in order."""


def workload() -> Workload:
    loop = Consumer(_tables_by_hand, _by_hand("handler_loop"), _REPLIES_BY_HAND)
    return Workload(
        "consume",
        "consume: inbox, barrier, business row, reply in the outbox and offsets, for each command",
        "messages/s",
        (
            Contender("kafkasaga, plain handler", lambda machine, options: _consume(machine, options, PLAIN)),
            Contender("kafkasaga, batch handler", lambda machine, options: _consume(machine, options, BULK)),
            Contender("loop, same handler", lambda machine, options: _consume(machine, options, loop)),
            Contender("ceiling", lambda machine, options: _consume(machine, options, CEILING)),
        ),
    )


def _our_tables(url: str) -> None:
    engine = create_engine(url)
    upgrade(engine, service.outbox.tables)
    Base.metadata.create_all(engine)
    engine.dispose()


def _tables_by_hand(url: str) -> None:
    with connect(url) as connection:
        connection.execute(by_hand.TABLES)


def _by_hand(module: str) -> Callable[[Machine, str], list[str]]:
    return lambda machine, url: ceiling_command(module, dsn(url), machine.bootstrap_servers)


_REPLIES_BY_HAND = "SELECT key, payload FROM outbox ORDER BY seq"


def _ours(service: str) -> Consumer:
    return Consumer(
        _our_tables,
        lambda _machine, _url: service_command(f"benchmarks.ours.ledger:{service}", "consumer"),
        "SELECT key, convert_from(payload, 'UTF8') FROM outbox ORDER BY id",
    )


PLAIN, BULK = _ours("service"), _ours("bulk")
CEILING = Consumer(_tables_by_hand, _by_hand("ledger"), _REPLIES_BY_HAND)


def commands(first: int, count: int) -> Iterator[Envelope]:
    """Commands number ``first`` and on, each of a saga of its own; each knows its place in its account."""
    now = datetime.now(UTC)
    for order in range(first, first + count):
        command = Book(
            order=order, account=f"account-{order % ACCOUNTS}", number=order // ACCOUNTS, amount=5, note="x" * 110
        )
        saga = SagaContext("bench", uuid5(NAMESPACE, f"saga {order}"), "book", 0, Operation.ACTION)
        id = uuid5(NAMESPACE, f"command {order}")  # scattered over the index, as the library's ids are
        yield Envelope(TOPIC, command.account, id, "bench", TOPIC, now, command.model_dump_json().encode(), saga=saga)


@contextmanager
def consuming(
    machine: Machine, consumer: Consumer, replicas: int = 1, prefill: Callable[[psycopg.Connection], None] | None = None
) -> Generator[tuple[psycopg.Connection, tuple[Worker, ...]]]:
    """A database whose consumers are at work and warm."""
    machine.topics(TOPIC, REPLIES)
    with machine.database("consume") as url:
        consumer.prepare(url)
        with connect(url) as connection:
            begin_at(connection, "ledger", machine.ends(TOPIC))
            if prefill is not None:
                prefill(connection)
            environment = service_environment(url, machine.bootstrap_servers)
            workers = [
                Worker(f"consume-{n}", consumer.command(machine, url), environment, machine.folder)
                for n in range(replicas)
            ]
            with running(*workers):
                wait_until("a settled group", lambda: machine.members("ledger") == replicas, workers)
                Load(machine.bootstrap_servers).send(commands(-WARM_UP, WARM_UP))
                wait_until("the warm-up", lambda: rows(connection, "ledger") == WARM_UP, workers)
                yield connection, tuple(workers)


def _consume(machine: Machine, options: Options, consumer: Consumer) -> Figures:
    with consuming(machine, consumer) as (connection, workers):
        return measure(machine, connection, workers, options.messages, consumer)


def measure(
    machine: Machine,
    connection: psycopg.Connection,
    workers: tuple[Worker, ...],
    messages: int,
    consumer: Consumer,
    *,
    known: int = 0,
) -> Figures:
    """From the moment at which all commands become visible until the last one's transaction has committed.

    ``known`` rows lie in the inbox already.
    """
    load = Load(machine.bootstrap_servers)
    load.write(commands(0, messages))
    machine.settle()
    # Behind the last command of each partition lies the transaction's marker, which nobody has to read.
    wanted = machine.ends(TOPIC)
    meter = Meter(
        {
            "consumer": [worker.pid for worker in workers],
            "postgresql": [machine.postgres.pid],
            "kafka": [machine.kafka.pid],
        }
    )
    load.publish()
    wait_until("all commands handled", lambda: _read_up_to(connection, wanted), workers, every=0.01)
    usage = meter.stop()
    peak = max(peak_memory(worker.pid) for worker in workers)
    check(connection, messages, consumer, known)
    Load(machine.bootstrap_servers).send(commands(0, AGAIN))
    again = {place: end - 1 for place, end in machine.ends(TOPIC).items()}
    wait_until("repeated commands read", lambda: _read_up_to(connection, again), workers)
    check(connection, messages, consumer, known)
    figures = rates(messages, usage, "messages")
    return Figures({**figures.values, "peak MB": peak}, figures.cpu)


def begin_at(connection: psycopg.Connection, group: str, ends: dict[tuple[str, int], int]) -> None:
    """Have a group begin at these offsets: what lies before them is of earlier runs."""
    for (topic, partition), end in ends.items():
        connection.execute(
            "INSERT INTO consumer_offset (consumer, topic, partition, next) VALUES (%s, %s, %s, %s)",
            (group, topic, partition, end),
        )


def check(connection: psycopg.Connection, messages: int, consumer: Consumer, known: int) -> None:
    """One row each in every table, and the replies of an account in the order of its commands."""
    expect("rows in inbox", rows(connection, "inbox"), messages + WARM_UP + known)
    for table in ("barrier", "ledger", "outbox"):
        expect(f"rows in {table}", rows(connection, table), messages + WARM_UP)
    last: dict[str, int] = {}
    orders: set[int] = set()
    for key, body in connection.execute(consumer.replies).fetchall():
        reply = Booked.model_validate_json(body)
        orders.add(reply.order)
        if reply.number <= last.get(key, -10):
            raise WrongResult(f"{key}: reply {reply.number} came after {last[key]}")
        last[key] = reply.number
    expect("different replies", len(orders), messages + WARM_UP)


def _read_up_to(connection: psycopg.Connection, wanted: dict[tuple[str, int], int]) -> bool:
    rows = connection.execute("SELECT topic, partition, next FROM consumer_offset").fetchall()
    known = {(topic, partition): next for topic, partition, next in rows}
    return all(known.get(place, 0) >= end for place, end in wanted.items())
