"""The tables of kafkasaga 0.1.

Frozen: what came later is in later revisions, so nothing is imported from ``schema``.

On PostgreSQL, tables whose rows are updated leave room in their pages for it (``fillfactor``), so that the new row
version lies beside the old one and no index is touched. Tables that work as queues are vacuumed by the number of dead
rows, not by a share of a size that goes up and down; what is only inserted into is left at the defaults.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_QUEUE: dict[str, float] = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 5000,
    "autovacuum_analyze_scale_factor": 0,
    "autovacuum_analyze_threshold": 5000,
    "autovacuum_vacuum_cost_delay": 0,
}
_UPDATED = {"autovacuum_vacuum_scale_factor": 0.05, "autovacuum_analyze_scale_factor": 0.05}


def upgrade() -> None:
    """Create everything."""
    _outbox()
    _inbox_and_barrier()
    _sagas()
    _parked_messages()


def _outbox() -> None:
    _create(
        "outbox",
        sa.Column("id", _POSITION, primary_key=True, autoincrement=True),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary()),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        settings=_QUEUE,
        sqlite_autoincrement=True,
    )
    _index("outbox_message", "outbox", "message_id")
    _create(
        "outbox_block",
        sa.Column("message_id", sa.Uuid(), primary_key=True),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        _now("blocked_at"),
    )


def _inbox_and_barrier() -> None:
    _create(
        "inbox",
        sa.Column("consumer", sa.Text(), primary_key=True),
        sa.Column("source", sa.Text(), primary_key=True),
        sa.Column("message_id", sa.Uuid(), primary_key=True),
        _now("claimed_at"),
    )
    _index("inbox_claimed", "inbox", "claimed_at", postgresql_using="brin")
    _create(
        "barrier",
        sa.Column("saga_id", sa.Uuid(), primary_key=True),
        sa.Column("step_path", sa.Text(), primary_key=True),
        sa.Column("generation", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("op", sa.Text(), primary_key=True),
        sa.Column("outcome", sa.Text()),
        sa.Column("reply_topic", sa.Text()),
        sa.Column("reply_type", sa.Text()),
        sa.Column("reply_body", sa.LargeBinary()),
        sa.Column("reply_key", sa.Text()),
        _now("claimed_at"),
        # A row is inserted short and then gets its reply, of a few hundred bytes: with the others of its page, at once.
        settings={**_UPDATED, "fillfactor": 30},
    )
    _index("barrier_claimed", "barrier", "claimed_at", postgresql_using="brin")
    _create(
        "consumer_offset",
        sa.Column("consumer", sa.Text(), primary_key=True),
        sa.Column("topic", sa.Text(), primary_key=True),
        sa.Column("partition", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("next", sa.BigInteger()),
        sa.Column("owner", sa.Uuid()),
        sa.Column("suspect_offset", sa.BigInteger()),
        sa.Column("suspect_attempts", sa.Integer(), nullable=False, server_default="0"),
        settings={**_QUEUE, "fillfactor": 20, "autovacuum_vacuum_threshold": 1000},
    )


def _sagas() -> None:
    _create(
        "saga",
        sa.Column("saga_id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("timer_at", _TIME),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.Column("heard_at", _TIME),
        sa.Column("logged_since", _TIME),
        sa.Column("pruned_at", _TIME),
        settings={**_UPDATED, "fillfactor": 50},
    )
    _index("saga_current", "saga", "name", "key", "incarnation")
    ended, logged = sa.text("ended_at IS NOT NULL"), sa.text("logged_since IS NOT NULL")
    _index("saga_ended", "saga", "ended_at", postgresql_where=ended, sqlite_where=ended)
    _index("saga_logged", "saga", "logged_since", postgresql_where=logged, sqlite_where=logged)
    active = sa.text("status IN ('running', 'compensating', 'stuck')")
    _index("saga_active", "saga", "status", "started_at", postgresql_where=active, sqlite_where=active)
    _create(
        "saga_log",
        sa.Column("saga_id", sa.Uuid(), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("step_path", sa.Text()),
        sa.Column("message_id", sa.Uuid()),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    _create(
        "saga_timer",
        sa.Column("saga_id", sa.Uuid(), primary_key=True),
        sa.Column("due_at", _TIME, nullable=False),
        settings=_QUEUE,
    )
    _index("saga_timer_due", "saga_timer", "due_at")


def _parked_messages() -> None:
    _create(
        "parked_message",
        sa.Column("id", _POSITION, primary_key=True, autoincrement=True),
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary()),
        sa.Column("kafka_partition", sa.Integer(), nullable=False),
        sa.Column("kafka_offset", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.LargeBinary()),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_at", _TIME),
        sa.Column("parked_at", _TIME, nullable=False),
        sa.Column("dead_at", _TIME),
        sa.Column("saga_id", sa.Uuid()),
        sa.Column("step_path", sa.Text()),
        sa.Column("generation", sa.Integer()),
        sa.Column("op", sa.Text()),
        settings={**_QUEUE, "autovacuum_vacuum_threshold": 1000},
        sqlite_autoincrement=True,
    )
    living = sa.text("status != 'dead-letter'")
    lane = ("consumer", "topic", "key", "id")
    _index("parked_message_lane", "parked_message", *lane, postgresql_where=living, sqlite_where=living)
    of_saga = sa.text("saga_id IS NOT NULL")
    _index("parked_message_saga", "parked_message", "saga_id", postgresql_where=of_saga, sqlite_where=of_saga)
    waiting = sa.text("status = 'waiting'")
    _index("parked_message_due", "parked_message", "next_at", postgresql_where=waiting, sqlite_where=waiting)
    _index("parked_message_message", "parked_message", "message_id")
    _create(
        "operator_log",
        sa.Column("id", _POSITION, primary_key=True, autoincrement=True),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )


def _place() -> tuple[str, str | None]:
    tables = context.config.attributes["tables"]
    return tables.prefix, tables.schema


def _create(name: str, *columns: sa.Column[Any], settings: dict[str, float] | None = None, **options: Any) -> None:
    prefix, schema = _place()
    op.create_table(prefix + name, *columns, schema=schema, postgresql_with=settings or {}, **options)


def _index(name: str, table: str, *columns: str, **options: Any) -> None:
    prefix, schema = _place()
    op.create_index(prefix + name, prefix + table, list(columns), schema=schema, **options)


def _now(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TIME, nullable=False, server_default=sa.func.current_timestamp())
