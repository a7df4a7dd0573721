"""What the library's tables are made of.

Where a column is *not* indexed, it is on purpose: PostgreSQL updates a row in place (HOT) only if no indexed column
changes, and a saga's row changes with every message. That is also why timers lie in a table of their own, of which
``saga.timer_at`` is a copy, written in the same transaction: reading a saga then says what its timer is, even after
waiting for a lock (a joined row would be as old as the statement).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, Uuid, func

from kafkasaga.errors import DefinitionError
from kafkasaga.ports import ParkedStatus
from kafkasaga.saga.instance import SagaStatus
from kafkasaga.stores.types import POSITION, UtcDateTime

ACTIVE: Final = tuple(status.value for status in SagaStatus if not status.ended)
"""The statuses of sagas that still move, or wait for a person."""

INFO: Final = "kafkasaga"
"""Under this name a ``MetaData`` and a table remember that a table is the library's."""


@dataclass(frozen=True, slots=True)
class TableSet:
    """All of them."""

    outbox: Table
    outbox_block: Table
    inbox: Table
    barrier: Table
    consumer_offset: Table
    saga: Table
    saga_log: Table
    saga_timer: Table
    parked_message: Table
    operator_log: Table


class TableBuilder:
    """Makes the tables of one ``MetaData``, ``schema`` and ``prefix``."""

    def __init__(self, metadata: MetaData, schema: str | None, prefix: str) -> None:
        self._metadata = metadata
        self._schema = schema
        self._prefix = prefix

    def build(self) -> TableSet:
        return TableSet(
            outbox=self._outbox(),
            outbox_block=self._outbox_block(),
            inbox=self._inbox(),
            barrier=self._barrier(),
            consumer_offset=self._consumer_offset(),
            saga=self._saga(),
            saga_log=self._saga_log(),
            saga_timer=self._saga_timer(),
            parked_message=self._parked_message(),
            operator_log=self._operator_log(),
        )

    def _table(self, name: str, *columns: Column[Any], indexes: tuple[Index, ...] = (), **options: Any) -> Table:
        name = self._prefix + name
        full = name if self._schema is None else f"{self._schema}.{name}"
        if full in self._metadata.tables:
            raise DefinitionError(
                f"the MetaData has a table {full!r} of its own; give kafkasaga's tables another schema= or a prefix="
            )
        return Table(name, self._metadata, *columns, *indexes, schema=self._schema, info={INFO: True}, **options)

    def _index(self, name: str, *columns: str, **options: Any) -> Index:
        return Index(f"{self._prefix}{name}", *columns, **options)

    def _outbox(self) -> Table:
        """Insert and delete only, so that Debezium's outbox event router can read it too."""
        return self._table(
            "outbox",
            Column("id", POSITION, primary_key=True, autoincrement=True),
            Column("message_id", Uuid(), nullable=False),
            Column("topic", Text(), nullable=False),
            Column("key", Text(), nullable=False),
            Column("payload", LargeBinary()),
            Column("headers", Text(), nullable=False),
            Column("created_at", UtcDateTime(), nullable=False),
            indexes=(self._index("outbox_message", "message_id"),),
            sqlite_autoincrement=True,  # SQLite would otherwise use the ids of deleted rows again
        )

    def _outbox_block(self) -> Table:
        """Rows that cannot be delivered; their lane waits behind them (invariant I10)."""
        return self._table(
            "outbox_block",
            Column("message_id", Uuid(), primary_key=True),
            Column("topic", Text(), nullable=False),
            Column("key", Text(), nullable=False),
            Column("error", Text(), nullable=False),
            Column("blocked_at", UtcDateTime(), nullable=False, server_default=func.current_timestamp()),
        )

    def _inbox(self) -> Table:
        """What each consumer has handled (invariant I3)."""
        return self._table(
            "inbox",
            Column("consumer", Text(), primary_key=True),
            Column("source", Text(), primary_key=True),
            Column("message_id", Uuid(), primary_key=True),
            Column("claimed_at", UtcDateTime(), nullable=False, server_default=func.current_timestamp()),
            # BRIN costs an insert next to nothing, and rows lie in the order of their time: to forget the old ones.
            indexes=(self._index("inbox_claimed", "claimed_at", postgresql_using="brin"),),
        )

    def _barrier(self) -> Table:
        """What each participant has done for each step (I9). ``outcome`` is null within a transaction only."""
        return self._table(
            "barrier",
            Column("saga_id", Uuid(), primary_key=True),
            Column("step_path", Text(), primary_key=True),
            Column("generation", Integer(), primary_key=True, autoincrement=False),
            Column("op", Text(), primary_key=True),
            Column("outcome", Text()),
            Column("reply_topic", Text()),
            Column("reply_type", Text()),
            Column("reply_body", LargeBinary()),
            Column("reply_key", Text()),
            Column("claimed_at", UtcDateTime(), nullable=False, server_default=func.current_timestamp()),
            indexes=(self._index("barrier_claimed", "claimed_at", postgresql_using="brin"),),
        )

    def _consumer_offset(self) -> Table:
        """Where each consumer group reads on, who reads there, and how often what is read next was tried (A21)."""
        return self._table(
            "consumer_offset",
            Column("consumer", Text(), primary_key=True),
            Column("topic", Text(), primary_key=True),
            Column("partition", Integer(), primary_key=True, autoincrement=False),
            Column("next", BigInteger()),
            Column("owner", Uuid()),
            Column("suspect_offset", BigInteger()),
            Column("suspect_attempts", Integer(), nullable=False, server_default="0"),
        )

    def _saga(self) -> Table:
        """One row a saga: its snapshot, what an operator looks for, and by what it is forgotten.

        Once it has ended, ``heard_at`` says when the last message for it came, and ``logged_since`` since when there
        has been a log to be forgotten; both by the clock of the database.
        """
        active = Column("status", Text(), nullable=False)
        ended: Column[Any] = Column("ended_at", UtcDateTime())
        logged: Column[Any] = Column("logged_since", UtcDateTime())
        return self._table(
            "saga",
            Column("saga_id", Uuid(), primary_key=True),
            Column("name", Text(), nullable=False),
            Column("version", Integer(), nullable=False),
            Column("key", Text(), nullable=False),
            Column("incarnation", Integer(), nullable=False),
            active,
            Column("seq", BigInteger(), nullable=False),
            Column("snapshot", Text(), nullable=False),
            Column("reason", Text()),
            Column("timer_at", UtcDateTime()),
            Column("started_at", UtcDateTime(), nullable=False),
            Column("updated_at", UtcDateTime(), nullable=False),
            ended,
            Column("heard_at", UtcDateTime()),
            logged,
            Column("pruned_at", UtcDateTime()),
            indexes=(
                self._index("saga_current", "name", "key", "incarnation"),
                self._index(
                    "saga_ended",
                    "ended_at",
                    postgresql_where=ended.is_not(None),
                    sqlite_where=ended.is_not(None),
                ),
                self._index(
                    "saga_logged",
                    "logged_since",
                    postgresql_where=logged.is_not(None),
                    sqlite_where=logged.is_not(None),
                ),
                self._index(
                    "saga_active",
                    "status",
                    "started_at",
                    postgresql_where=active.in_(ACTIVE),
                    sqlite_where=active.in_(ACTIVE),
                ),
            ),
        )

    def _saga_log(self) -> Table:
        """Everything that happened to each saga (invariant I7)."""
        return self._table(
            "saga_log",
            Column("saga_id", Uuid(), primary_key=True),
            Column("seq", BigInteger(), primary_key=True, autoincrement=False),
            Column("kind", Text(), nullable=False),
            Column("step_path", Text()),
            Column("message_id", Uuid()),
            Column("body", Text(), nullable=False),
            Column("at", UtcDateTime(), nullable=False),
        )

    def _saga_timer(self) -> Table:
        """One lazy timer a saga: it may fire too early, never too late."""
        return self._table(
            "saga_timer",
            Column("saga_id", Uuid(), primary_key=True),
            Column("due_at", UtcDateTime(), nullable=False),
            indexes=(self._index("saga_timer_due", "due_at"),),
        )

    def _parked_message(self) -> Table:
        """Records that could not be handled yet. A record without a key has no lane: it waits for no other."""
        status = Column("status", Text(), nullable=False)
        waiting = status == ParkedStatus.WAITING.value
        living = status != ParkedStatus.DEAD_LETTER.value
        saga = Column("saga_id", Uuid())
        return self._table(
            "parked_message",
            Column("id", POSITION, primary_key=True, autoincrement=True),
            Column("consumer", Text(), nullable=False),
            Column("topic", Text(), nullable=False),
            Column("key", LargeBinary()),
            Column("kafka_partition", Integer(), nullable=False),
            Column("kafka_offset", BigInteger(), nullable=False),
            Column("value", LargeBinary()),
            Column("headers", Text(), nullable=False),
            Column("message_id", Uuid(), nullable=False),
            Column("source", Text(), nullable=False),
            Column("error", Text(), nullable=False),
            status,
            Column("attempts", Integer(), nullable=False),
            Column("deaths", Integer(), nullable=False, server_default="0"),
            Column("next_at", UtcDateTime()),
            Column("parked_at", UtcDateTime(), nullable=False),
            Column("dead_at", UtcDateTime()),
            saga,
            Column("step_path", Text()),
            Column("generation", Integer()),
            Column("op", Text()),
            indexes=(
                self._index(
                    "parked_message_lane",
                    "consumer",
                    "topic",
                    "key",
                    "id",
                    postgresql_where=living,
                    sqlite_where=living,
                ),
                self._index(
                    "parked_message_saga",
                    "saga_id",
                    postgresql_where=saga.is_not(None),
                    sqlite_where=saga.is_not(None),
                ),
                self._index("parked_message_due", "next_at", postgresql_where=waiting, sqlite_where=waiting),
                self._index("parked_message_message", "message_id"),
            ),
            sqlite_autoincrement=True,  # the id orders a lane
        )

    def _operator_log(self) -> Table:
        """What people did to parked messages, why, and what a message was before."""
        return self._table(
            "operator_log",
            Column("id", POSITION, primary_key=True, autoincrement=True),
            Column("at", UtcDateTime(), nullable=False),
            Column("by", Text(), nullable=False),
            Column("action", Text(), nullable=False),
            Column("subject", Text(), nullable=False),
            Column("why", Text(), nullable=False),
            Column("before", Text(), nullable=False),
            sqlite_autoincrement=True,
        )
