"""The relay, by hand: ``DELETE … RETURNING`` in order, produce, flush, commit; the next fetch runs meanwhile.

A batch is deleted by a transaction that commits only after Kafka has acknowledged all of it, so a crash repeats and
loses nothing. Two connections take turns: while one batch is sent, the other connection already deletes the next one
(libpq releases the GIL). What it does without: a row that cannot be delivered ends the process; a hot key, a dead topic
and a second relay for the same rows are not thought of.

    python -m benchmarks.ceiling.relay DSN BOOTSTRAP_SERVERS [lean]
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from confluent_kafka import Producer

from benchmarks.ceiling.connections import Errors, connect, producer, until_told

TABLE = """
CREATE TABLE outbox (
    seq bigserial PRIMARY KEY,
    id uuid NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    type text NOT NULL,
    payload text NOT NULL,
    headers text NOT NULL DEFAULT '',
    created timestamptz NOT NULL DEFAULT now()
)
"""
CHANNEL = "outbox"
LIMIT = 4000
LONGEST_IDLE = 0.5
"""Seconds until it looks again without having been woken."""
FLUSH_SECONDS = 30.0

Row = tuple[Any, ...]


class Relay:
    """Publishes one outbox, for ever."""

    def __init__(self, dsn: str, bootstrap_servers: str, source: str, *, lean: bool = False) -> None:
        self._connections = [_reader(dsn), _reader(dsn)]
        self._cursors = [connection.cursor(binary=True) for connection in self._connections]
        self._errors = Errors()
        self._producer: Producer = producer(bootstrap_servers, self._errors)
        self._source = source
        self._lean = lean
        self._topics: dict[bytes, str] = {}

    def run(self, stopping: threading.Event, idle: Any) -> None:
        """Publish until ``stopping``; ``idle`` waits when there is nothing."""
        with ThreadPoolExecutor(1) as ahead:
            while not stopping.is_set():
                if not self._sweep(ahead):
                    idle()

    def _sweep(self, ahead: ThreadPoolExecutor) -> bool:
        """Everything that is there; False if there was nothing."""
        turn, after = 0, 0
        rows = self._fetch(turn, after)
        found = bool(rows)
        while rows:
            # A full batch means that there is more: fetch it while this one is under way. What `after` leaves out (a
            # transaction that took a low number and committed late) is for the next sweep.
            more = ahead.submit(self._fetch, 1 - turn, rows[-1][5]) if len(rows) == LIMIT else None
            self._publish(rows)
            self._connections[turn].commit()
            rows, turn = (more.result(), 1 - turn) if more is not None else ([], turn)
        self._connections[turn].commit()
        return found

    def _fetch(self, turn: int, after: int) -> list[Row]:
        return self._cursors[turn].execute(_FETCH, (after,), prepare=True).fetchall()

    def _publish(self, rows: list[Row]) -> None:
        produce, topics = self._producer.produce, self._topics
        for record in self._lean_records(rows) if self._lean else self._records(rows):
            topic = topics.get(record[0]) or topics.setdefault(record[0], record[0].decode())
            produce(topic, record[1], record[2], headers=record[3])
        while self._producer.flush(FLUSH_SECONDS):
            pass
        self._errors.check()

    def _records(self, rows: list[Row]) -> Iterator[tuple[Any, Any, Any, Any]]:
        """CloudEvents, as the library sends them."""
        version, source = ("ce_specversion", b"1.0"), ("ce_source", self._source.encode())
        content = ("content-type", b"application/json")
        for id, topic, key, type, payload, _, created, more in rows:
            headers = [version, ("ce_id", id), source, ("ce_type", type), ("ce_time", created), content]
            if more:
                headers += [tuple(header.split(b"=", 1)) for header in more.split(b"\n")]
            yield topic, payload, key, headers

    def _lean_records(self, rows: list[Row]) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Two headers: what a consumer cannot do without."""
        for id, topic, key, type, payload, _, _, _ in rows:
            yield topic, payload, key, [("id", id), ("type", type)]


_FETCH = f"""
WITH gone AS (
    DELETE FROM outbox WHERE seq = ANY(ARRAY(
        SELECT seq FROM outbox WHERE seq > %s ORDER BY seq LIMIT {LIMIT} FOR UPDATE SKIP LOCKED
    )) RETURNING id, topic, key, type, payload, seq, created, headers
)
SELECT id::text, topic, key, type, payload, seq, to_char(created, 'YYYY-MM-DD"T"HH24:MI:SS.USOF'), headers
FROM gone ORDER BY seq
""".encode()  # noqa: S608 (our own number)


def _reader(dsn: str) -> psycopg.Connection:
    """Texts come as bytes: what goes to Kafka as bytes need not become a ``str`` on the way."""
    connection = connect(dsn, autocommit=False)
    connection.execute("SET client_encoding = sql_ascii")
    connection.commit()
    return connection


def main(dsn: str, bootstrap_servers: str, *flags: str) -> None:
    stopping = until_told()
    listener = psycopg.connect(dsn, autocommit=True)
    listener.execute(f"LISTEN {CHANNEL}")

    def idle() -> None:
        for _ in listener.notifies(timeout=LONGEST_IDLE, stop_after=1):
            pass

    Relay(dsn, bootstrap_servers, "bench", lean="lean" in flags).run(stopping, idle)


if __name__ == "__main__":
    main(*sys.argv[1:])
