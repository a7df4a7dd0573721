"""Watermill's forwarder (Go), from PostgreSQL to Kafka."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from benchmarks.harness.fetched import go_program
from benchmarks.harness.machine import Machine, connect, dsn
from benchmarks.harness.processes import Worker
from benchmarks.ours.relayed import TOPIC, Placed
from benchmarks.workloads.relay import Relay, messages

SOURCE = Path(__file__).with_name("watermill")
FORWARDER_TOPIC = "outbox"
TABLE, OFFSETS = f"watermill_{FORWARDER_TOPIC}", f"watermill_offsets_{FORWARDER_TOPIC}"
POLL_INTERVAL = "1ms"
BATCH_SIZE = 1000


def fetch() -> Path:
    return go_program("watermill", SOURCE)


class Watermill(Relay):
    def __init__(self, size: int) -> None:
        self._size = size

    def prepare(self, url: str) -> None:
        """It creates its tables itself."""

    def worker(self, machine: Machine, url: str) -> Worker:
        settings = [FORWARDER_TOPIC, POLL_INTERVAL, str(BATCH_SIZE)]
        return Worker("relay", [str(fetch()), dsn(url), machine.bootstrap_servers, *settings], {}, machine.folder)

    def is_ready(self, connection: psycopg.Connection) -> bool:
        tables = connection.execute("SELECT to_regclass(%s), to_regclass(%s)", (TABLE, OFFSETS)).fetchone()
        return tables is not None and None not in tables

    def fill(self, url: str, first: int, count: int) -> None:
        into = f"COPY {TABLE} (uuid, payload, metadata, transaction_id) FROM STDIN"
        with connect(url) as connection, connection.transaction():
            row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            transaction = row[0] if row else None
            with connection.cursor() as cursor, cursor.copy(into) as copy:
                for id, message in messages(first, count, self._size):
                    copy.write_row((uuid4(), enveloped(id, message), "{}", transaction))

    def is_done(self, connection: psycopg.Connection) -> bool:
        """Its rows stay; what it has forwarded is an offset."""
        return connection.execute(_BEHIND).fetchone() == (False,)


_BEHIND = f'SELECT (SELECT max("offset") FROM {TABLE}) > (SELECT max(offset_acked) FROM {OFFSETS})'  # noqa: S608 (ours)
_INSERT = f"""
INSERT INTO {TABLE} (uuid, payload, metadata, transaction_id) VALUES (%s, %s, %s, pg_current_xact_id())
"""  # noqa: S608 (our own names)


def enveloped(id: UUID, message: Placed) -> str:
    """As the forwarder's own publisher wraps a message."""
    envelope = {
        "destination_topic": TOPIC,
        "uuid": str(id),
        "payload": b64encode(message.model_dump_json().encode()).decode(),
        "metadata": {"key": message.account, "type": TOPIC},
    }
    return json.dumps(envelope)


def writer(url: str) -> Callable[[Placed], None]:
    connection = connect(url)

    def commit(message: Placed) -> None:
        connection.execute(_INSERT, (str(uuid4()), enveloped(uuid4(), message), "{}"), prepare=True)

    return commit
