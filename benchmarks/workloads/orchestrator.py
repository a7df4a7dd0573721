"""orchestrator: transitions alone. Replies lie ready in a topic; commands go no further than the outbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid5

import psycopg
from sqlalchemy import create_engine

from benchmarks.ceiling import saga as by_hand
from benchmarks.harness.figures import Contender, Figures, Workload, expect, rates
from benchmarks.harness.load import Load
from benchmarks.harness.machine import Machine, connect, dsn
from benchmarks.harness.options import Options
from benchmarks.harness.orders import created, order_id
from benchmarks.harness.processes import Worker, ceiling_command, running, service_command, service_environment
from benchmarks.harness.usage import Meter
from benchmarks.harness.waiting import wait_until
from benchmarks.workloads.consume import begin_at
from benchmarks.workloads.saga import TOPICS
from kafkasaga.examples.order_system.contracts import InventoryReserved, ProcessPayment, ReserveInventory
from kafkasaga.examples.order_system.orchestrator import orchestrator
from kafkasaga.messages import NAMESPACE, Envelope, Operation, SagaContext, contract_of
from kafkasaga.stores.migrations import upgrade

REPLIES, COMMANDS = contract_of(InventoryReserved).topic, contract_of(ReserveInventory).topic
NEXT_COMMANDS = contract_of(ProcessPayment).topic


def workload() -> Workload:
    return Workload(
        "orchestrator",
        "orchestrator: 'inventory.reserved' taken in, 'payment.process' in the outbox, nothing else at work",
        "transitions/s",
        (
            Contender("kafkasaga", lambda machine, options: _transitions(machine, options, ours=True)),
            Contender("ceiling", lambda machine, options: _transitions(machine, options, ours=False)),
        ),
    )


def _transitions(machine: Machine, options: Options, *, ours: bool) -> Figures:
    count = options.transitions
    machine.topics(*TOPICS, partitions=options.partitions)
    with machine.database("orchestrator") as url:
        _prepare(url, ours=ours)
        with connect(url) as connection:
            begin_at(connection, "orchestrator", machine.ends(*orchestrator.reads))
            with running(_worker(machine, url, ours=ours)) as (worker,):
                load = Load(machine.bootstrap_servers)
                load.send(created(number) for number in range(count))
                wait_until("all sagas begun", lambda: _rows(connection, COMMANDS) == count, [worker])
                load.write(_replies(connection, count, ours=ours))
                machine.settle()
                pids = {
                    "orchestrator": [worker.pid],
                    "postgresql": [machine.postgres.pid],
                    "kafka": [machine.kafka.pid],
                }
                end = _read(connection) + count
                meter = Meter(pids)
                load.publish()
                wait_until("all transitions", lambda: _read(connection) >= end, [worker], every=0.05)
                usage = meter.stop()
                expect("transitions", _rows(connection, NEXT_COMMANDS), count)
                expect("sagas", _sagas(connection), count)
    figures = rates(count, usage, "transitions")
    own = count / usage.cpu["orchestrator"]
    return Figures({**figures.values, "transitions per own CPU s": own}, figures.cpu)


def _prepare(url: str, *, ours: bool) -> None:
    if ours:
        engine = create_engine(url)
        upgrade(engine, orchestrator.outbox.tables)
        engine.dispose()
    else:
        with connect(url) as connection:
            connection.execute(by_hand.TABLES)


def _worker(machine: Machine, url: str, *, ours: bool) -> Worker:
    if ours:
        command = service_command("kafkasaga.examples.order_system.orchestrator:orchestrator", "consumer")
    else:
        command = ceiling_command("saga", "orchestrator", dsn(url), machine.bootstrap_servers, "consumer")
    return Worker("orchestrator", command, service_environment(url, machine.bootstrap_servers), machine.folder)


def _replies(connection: psycopg.Connection, count: int, *, ours: bool) -> Iterator[Envelope]:
    """What the inventory would have answered."""
    contexts = _contexts(connection) if ours else {}
    for number in range(count):
        key = str(order_id(number))
        id = uuid5(NAMESPACE, f"reply {key}")
        body = InventoryReserved(order_id=order_id(number)).model_dump_json().encode()
        now = datetime.now(UTC)
        yield Envelope(REPLIES, key, id, "inventory", REPLIES, now, body, saga=contexts.get(key))


def _contexts(connection: psycopg.Connection) -> dict[str, SagaContext]:
    """The saga attributes of every command, by its key, as a participant sends them back."""
    found = connection.execute("SELECT key, headers FROM outbox WHERE topic = %s", (COMMANDS,)).fetchall()
    return {key: _context(json.loads(headers)) for key, headers in found}


def _context(headers: dict[str, str]) -> SagaContext:
    command = SagaContext(
        headers["ce_saganame"],
        UUID(headers["ce_sagaid"]),
        headers["ce_sagastep"],
        int(headers["ce_sagageneration"]),
        Operation(headers["ce_sagaoperation"]),
    )
    return replace(command, command_id=UUID(headers["ce_id"]))


def _read(connection: psycopg.Connection) -> int:
    """How many replies were taken in. It costs the server nothing, unlike counting the commands that it holds."""
    found = connection.execute("SELECT sum(next)::bigint FROM consumer_offset WHERE topic = %s", (REPLIES,)).fetchone()
    return found[0] if found else 0


def _rows(connection: psycopg.Connection, topic: str) -> int:
    found = connection.execute("SELECT count(*) FROM outbox WHERE topic = %s", (topic,)).fetchone()
    return found[0] if found else 0


def _sagas(connection: psycopg.Connection) -> int:
    found = connection.execute("SELECT count(*) FROM saga").fetchone()
    return found[0] if found else 0
