"""faststream-outbox (Python), from PostgreSQL to Kafka."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from benchmarks.harness.fetched import virtual_environment
from benchmarks.harness.machine import Machine, connect
from benchmarks.harness.processes import Worker
from benchmarks.ours.relayed import TOPIC, Placed
from benchmarks.workloads.relay import Relay, messages

REQUIREMENTS = ("faststream-outbox[asyncpg]==0.19.0", "faststream[kafka]==0.7.8")
PROGRAM = Path(__file__).with_name("faststream_app.py")
QUEUE, CHANNEL = "relay", "outbox_outbox"


def fetch() -> Path:
    return virtual_environment("faststream-outbox", *REQUIREMENTS)


class FastStream(Relay):
    def __init__(self, size: int, *, workers: int = 1) -> None:
        self._size, self._workers = size, workers
        self.in_order = workers == 1

    def prepare(self, url: str) -> None:
        """The program creates its table itself."""

    def worker(self, machine: Machine, url: str) -> Worker:
        database = url.replace("+psycopg:", "+asyncpg:")
        arguments = [database, machine.bootstrap_servers, TOPIC, QUEUE, str(self._workers)]
        return Worker("relay", [str(fetch()), "-P", str(PROGRAM), *arguments], {}, machine.folder)

    def is_ready(self, connection: psycopg.Connection) -> bool:
        return connection.execute("SELECT to_regclass('outbox') IS NOT NULL").fetchone() == (True,)

    def fill(self, url: str, first: int, count: int) -> None:
        with connect(url) as connection, connection.transaction(), connection.cursor() as cursor:
            with cursor.copy("COPY outbox (queue, payload, headers) FROM STDIN") as copy:
                for id, message in messages(first, count, self._size):
                    copy.write_row((QUEUE, message.model_dump_json().encode(), headers(id, message)))
            cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, QUEUE))


def headers(id: UUID, message: Placed) -> str:
    """As its own publisher writes them, with the key among them: a row has no column for it."""
    named = {"content-type": "application/json", "correlation_id": str(id), "key": message.account, "type": TOPIC}
    return json.dumps(named)


def writer(url: str) -> Callable[[Placed], None]:
    connection = connect(url)
    values = "VALUES (%s, %s, %s)"
    insert = f"INSERT INTO outbox (queue, payload, headers) {values} RETURNING id, pg_notify('{CHANNEL}', queue)"

    def commit(message: Placed) -> None:
        connection.execute(insert, (QUEUE, message.model_dump_json().encode(), headers(uuid4(), message)), prepare=True)

    return commit
