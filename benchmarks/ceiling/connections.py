"""Connections tuned by hand: what somebody who cares for nothing but speed would set."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaException, Producer

SEPARATOR = "\x1f"
"""Joins texts into one parameter: it cannot occur in JSON, where control characters are escaped."""


def connect(dsn: str, *, autocommit: bool = True) -> psycopg.Connection:
    """A connection that prepares every statement at once and does not plan it again.

    Without hash and merge joins, because the planner cannot know how many rows ``unnest`` will give, and a join that
    hashes a table of millions to find two hundred rows is what makes such code slow after a month.
    """
    connection = psycopg.connect(dsn, autocommit=True)
    for setting in ("enable_seqscan=off", "enable_hashjoin=off", "enable_mergejoin=off", "jit=off"):
        connection.execute(f"SET {setting}")
    connection.execute("SET plan_cache_mode = force_generic_plan")
    connection.prepare_threshold = 0
    connection.autocommit = autocommit
    return connection


class Errors:
    """What the producer could not deliver. Any of it ends the process: its transaction is then rolled back."""

    def __init__(self) -> None:
        self._first: str | None = None

    def __call__(self, error: Any, _: Any) -> None:
        if error is not None and self._first is None:
            self._first = str(error)

    def check(self) -> None:
        if self._first is not None:
            raise KafkaException(self._first)


def producer(bootstrap_servers: str, errors: Errors, *, linger_ms: float = 0) -> Producer:
    """Tells only of what failed: everything that ``flush`` has waited for, and that is not told of, has arrived."""
    settings = {
        "bootstrap.servers": bootstrap_servers,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": linger_ms,
        "partitioner": "murmur2_random",
        "delivery.report.only.error": True,
        "on_delivery": errors,
        "queue.buffering.max.messages": 500_000,
        "batch.num.messages": 10_000,
        "batch.size": 1_000_000,
        "socket.nagle.disable": True,
        "log_level": 3,
    }
    return Producer(settings)


def consumer(bootstrap_servers: str, group: str) -> Consumer:
    """Offsets lie in the database; Kafka's are committed now and then, for a monitor."""
    settings = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": True,
        "enable.auto.offset.store": False,
        "auto.commit.interval.ms": 1000,
        "fetch.wait.max.ms": 100,
        "queued.min.messages": 50_000,
        "session.timeout.ms": 10_000,
        "socket.nagle.disable": True,
        "log_level": 3,
    }
    return Consumer(settings)


def until_told() -> threading.Event:
    """Set by SIGTERM."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    return stopping


def array(values: Sequence[Any]) -> str:
    """An array literal of numbers or UUIDs."""
    return "{" + ",".join(map(str, values)) + "}"
