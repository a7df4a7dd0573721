"""Debezium's embedded engine with its outbox event router (Java), from PostgreSQL's log to Kafka."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

import psycopg
from sqlalchemy import make_url

from benchmarks.harness.fetched import java_program
from benchmarks.harness.machine import Machine, connect
from benchmarks.harness.processes import Worker
from benchmarks.harness.waiting import wait_until
from benchmarks.ours.relayed import TOPIC, Placed
from benchmarks.workloads.relay import Relay, messages

SOURCE = Path(__file__).with_name("debezium")
TABLE = """
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    aggregatetype varchar(255) NOT NULL,
    aggregateid varchar(255) NOT NULL,
    type varchar(255) NOT NULL,
    payload json
)
"""
COLUMNS = "id, aggregatetype, aggregateid, type, payload"
ENGINE = {
    "name": "outbox",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "topic.prefix": "bench",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "filtered",
    "table.include.list": "public.outbox",
    "snapshot.mode": "no_data",
    "skipped.operations": "u,d,t",
    "poll.interval.ms": "1",
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
    "transforms": "outbox",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.route.topic.replacement": "${routedByValue}",
    "transforms.outbox.table.fields.additional.placement": "type:header:type",
}
PRODUCER = {"acks": "all", "enable.idempotence": "true"}
LOG_LEVEL = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


def fetch() -> str:
    return java_program("debezium", SOURCE)


class Debezium(Relay):
    warm_up = 30_000  # a Java program becomes fast while it runs

    def __init__(self, size: int) -> None:
        self._size = size

    def prepare(self, url: str) -> None:
        with connect(url) as connection:
            connection.execute(TABLE)

    def worker(self, machine: Machine, url: str) -> Worker:
        server = make_url(url)
        offsets = machine.folder / "debezium.offsets"
        offsets.unlink(missing_ok=True)  # an earlier run's
        engine = {
            **ENGINE,
            "database.hostname": str(server.host),
            "database.port": str(server.port),
            "database.user": str(server.username),
            "database.dbname": str(server.database),
            "slot.name": str(server.database),
            "offset.storage.file.filename": str(offsets),
        }
        producer = {**PRODUCER, "bootstrap.servers": machine.bootstrap_servers}
        files = [
            _written(machine.folder / "engine.properties", engine),
            _written(machine.folder / "producer.properties", producer),
        ]
        return Worker("relay", ["java", LOG_LEVEL, "-cp", fetch(), "Relay", *files], {}, machine.folder)

    def is_ready(self, connection: psycopg.Connection) -> bool:
        """What is committed from here on is decoded."""
        return _slot(connection) == "active"

    def fill(self, url: str, first: int, count: int) -> None:
        into = f"COPY outbox ({COLUMNS}) FROM STDIN"
        with connect(url) as connection, connection.cursor() as cursor, cursor.copy(into) as copy:
            for id, message in messages(first, count, self._size):
                copy.write_row((id, TOPIC, message.account, TOPIC, message.model_dump_json()))

    def is_done(self, connection: psycopg.Connection) -> bool:  # noqa: ARG002
        """Its rows stay, and the slot's position follows once a minute."""
        return True

    def clean(self, connection: psycopg.Connection) -> None:
        wait_until("the end of the replication", lambda: _slot(connection) != "active", within=30)
        if _slot(connection) is not None:
            connection.execute("SELECT pg_drop_replication_slot(current_database())")


def _slot(connection: psycopg.Connection) -> str | None:
    found = connection.execute(
        "SELECT active FROM pg_replication_slots WHERE slot_name = current_database()"
    ).fetchone()
    return None if found is None else "active" if found[0] else "idle"


def _written(file: Path, properties: Mapping[str, str]) -> str:
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    return str(file)


def writer(url: str) -> Callable[[Placed], None]:
    connection = connect(url)
    insert = f"INSERT INTO outbox ({COLUMNS}) VALUES (%s, %s, %s, %s, %s)"  # noqa: S608 (our own names)

    def commit(message: Placed) -> None:
        row = (uuid4(), TOPIC, message.account, TOPIC, message.model_dump_json())
        connection.execute(insert, row, prepare=True)

    return commit
