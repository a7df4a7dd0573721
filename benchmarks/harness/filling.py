"""What lies in the library's tables after months: made by PostgreSQL, as a million rows take too long in Python."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from kafkasaga.messages import Envelope
from kafkasaga.stores.outbox_rows import headers_as_text

SORT_MEMORY = "512MB"
PAGE_FILL = 70
"""Percent of an index's pages that are full after random inserts; a fresh index is fuller, and splits at first."""
_NO_ID = UUID(int=0)


def fill_outbox(driver: Any, topic: str, count: int, first: int, keys: int, size: int) -> None:
    """Rows as ``outbox.publish`` writes them, with messages as ``benchmarks.ours.relayed`` has them."""
    now = datetime.now(UTC)
    headers = headers_as_text(Envelope(topic, "", _NO_ID, "bench", topic, now, b""))
    driver.execute(
        """
        INSERT INTO outbox (message_id, topic, key, payload, headers, created_at)
        SELECT id, %(topic)s, 'account-' || n %% %(keys)s,
            convert_to(rpad(body, greatest(%(size)s - 2, length(body)), 'x') || '"}', 'UTF8'),
            replace(%(headers)s, %(no_id)s, id::text), now()
        FROM (
            SELECT n, md5('filled ' || n)::uuid AS id,
                format(
                    '{"account":"account-%%s","number":%%s,"order":%%s,"note":"', n %% %(keys)s, n / %(keys)s, n
                ) AS body
            FROM generate_series(%(first)s, %(first)s + %(count)s - 1) AS n
        ) AS rows ORDER BY n
        """,
        {"topic": topic, "keys": keys, "size": size, "headers": headers, "no_id": str(_NO_ID), "first": first,
         "count": count},
    )  # fmt: skip


def fill_inbox(connection: psycopg.Connection, consumer: str, source: str, rows: int) -> None:
    """Messages that were handled long ago; those to come have their ids anywhere between them."""
    with _without_indexes(connection, "inbox"):
        connection.execute(
            """
            INSERT INTO inbox (consumer, source, message_id, claimed_at)
            SELECT %s, %s, md5('handled ' || n)::uuid, now() - interval '1 day' + n * interval '1 ms'
            FROM generate_series(1, %s) AS n
            """,
            (consumer, source, rows),
        )


def fill_sagas(connection: psycopg.Connection, finished: int, live: int) -> None:
    """Sagas that ended, each with its log, and sagas that wait for a reply, each with its log and its timer.

    They are copies of one that has completed; its log ends where a live one is.
    """
    with (
        _without_indexes(connection, "saga"),
        _without_indexes(connection, "saga_log"),
        _without_indexes(connection, "saga_timer"),
    ):
        connection.execute("CREATE TEMPORARY TABLE pattern AS SELECT * FROM saga WHERE status = 'completed' LIMIT 1")
        connection.execute(
            "CREATE TEMPORARY TABLE pattern_log AS SELECT l.* FROM saga_log AS l JOIN pattern USING (saga_id)"
        )
        connection.execute(_FINISHED, {"count": finished})
        connection.execute(_FINISHED_LOGS, {"count": finished})
        connection.execute(_LIVE, {"count": live})
        connection.execute(_LIVE_LOGS, {"count": live})
        connection.execute("DROP TABLE pattern, pattern_log")


_COLUMNS = "saga_id, name, version, key, incarnation, status, seq, snapshot, started_at, updated_at, ended_at"
_FINISHED = f"""
INSERT INTO saga ({_COLUMNS})
SELECT md5('finished ' || n)::uuid, name, version, md5('finished ' || n)::uuid::text, 0, status, seq, snapshot,
    started_at - n * interval '1 s', updated_at - n * interval '1 s', ended_at - n * interval '1 s'
FROM pattern, generate_series(1, %(count)s) AS n
"""  # noqa: S608 (our own text)
_FINISHED_LOGS = """
INSERT INTO saga_log (saga_id, seq, kind, step_path, message_id, body, at)
SELECT md5('finished ' || n)::uuid, seq, kind, step_path, message_id, body, at - n * interval '1 s'
FROM generate_series(1, %(count)s) AS n, pattern_log
"""
_LIVE = f"""
WITH live AS (
    INSERT INTO saga ({_COLUMNS}, timer_at)
    SELECT md5('live ' || n)::uuid, name, version, md5('live ' || n)::uuid::text, 0, 'running', 2, snapshot,
        started_at, updated_at, NULL, now() + interval '1 day' + n * interval '1 ms'
    FROM pattern, generate_series(1, %(count)s) AS n RETURNING saga_id, timer_at
)
INSERT INTO saga_timer (saga_id, due_at) SELECT saga_id, timer_at FROM live
"""  # noqa: S608 (our own text)
_LIVE_LOGS = """
INSERT INTO saga_log (saga_id, seq, kind, step_path, message_id, body, at)
SELECT md5('live ' || n)::uuid, seq, kind, step_path, message_id, body, at
FROM generate_series(1, %(count)s) AS n, pattern_log WHERE seq <= 2
"""


@contextmanager
def _without_indexes(connection: psycopg.Connection, table: LiteralString) -> Generator[None]:
    """Take a table's indexes away while it is filled, make them again, and have its statistics true."""
    known, *_ = connection.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'",
        (table,),
    ).fetchall()
    name, definition = known
    others = connection.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = %s::regclass AND NOT indisprimary",
        (table,),
    ).fetchall()
    connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
    for index, _ in others:
        connection.execute(f"DROP INDEX {index}".encode())
    yield
    connection.execute(f"SET maintenance_work_mem = '{SORT_MEMORY}'")
    primary_key = f"CONSTRAINT {name} {definition} WITH (fillfactor = {PAGE_FILL})"
    connection.execute(f"ALTER TABLE {table} ADD {primary_key}".encode())
    for _, statement in others:
        connection.execute(statement)
    connection.execute(f"VACUUM ANALYZE {table}")
