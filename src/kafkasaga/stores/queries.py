"""The read side: what the command line shows. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, Engine, Executable, Row, Select, func, select

from kafkasaga.ports import LogEntry, Parked, SagaSummary
from kafkasaga.saga.events import from_body
from kafkasaga.saga.instance import Instance, SagaStatus, from_snapshot
from kafkasaga.stores.columns import ACTIVE
from kafkasaga.stores.failures import translated
from kafkasaga.stores.parked import parked_of
from kafkasaga.stores.schema import Tables

Order = Literal["newest", "oldest", "longest-idle"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of everything there is."""

    outbox: int
    """Messages that wait to be published."""
    oldest_unsent: datetime | None
    blocked: int
    parked: int
    dead: int
    """Parked messages that are not tried any more."""
    sagas: dict[SagaStatus, int]
    """Active sagas by status; ended ones are not counted, since that would read all of them."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A message that cannot be delivered as it is; later ones of its topic and key wait behind it."""

    message_id: UUID
    topic: str
    key: str
    error: str
    blocked_at: datetime


class Queries:
    """Read-only questions about one set of tables."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self._engine = engine
        self._tables = tables

    def sagas(
        self,
        *,
        name: str | None = None,
        status: SagaStatus | None = None,
        key: str | None = None,
        limit: int = 100,
        order: Order = "newest",
    ) -> list[SagaSummary]:
        """Sagas that match all that is given."""
        saga = self._tables.saga.c
        orders = {"newest": saga.started_at.desc(), "oldest": saga.started_at, "longest-idle": saga.updated_at}
        query = self._summaries().order_by(orders[order], saga.saga_id).limit(limit)
        for column, value in ((saga.name, name), (saga.status, status), (saga.key, key)):
            if value is not None:
                query = query.where(column == str(value))
        with self._connected() as connection:
            return [_summary(row) for row in connection.execute(query)]

    def saga_ids(self, page: int = 1000) -> Generator[UUID]:
        """Every saga's id, in order, read page by page."""
        id = self._tables.saga.c.saga_id
        after: UUID | None = None
        while True:
            query = select(id).order_by(id).limit(page)
            with self._connected() as connection:
                found = connection.scalars(query if after is None else query.where(id > after)).all()
            yield from found
            if len(found) < page:
                return
            after = found[-1]

    def saga(self, saga_id: UUID) -> SagaSummary | None:
        """One saga."""
        with self._connected() as connection:
            row = connection.execute(self._summaries().where(self._tables.saga.c.saga_id == saga_id)).first()
        return None if row is None else _summary(row)

    def instance(self, saga_id: UUID) -> Instance | None:
        """One saga as its snapshot says."""
        saga = self._tables.saga.c
        with self._connected() as connection:
            snapshot = connection.scalar(select(saga.snapshot).where(saga.saga_id == saga_id))
        return None if snapshot is None else from_snapshot(snapshot)

    def log(self, saga_id: UUID) -> list[LogEntry]:
        """Everything that happened to one saga, in order.

        Raises:
            CorruptLog: for an entry that this version does not know.
        """
        log = self._tables.saga_log.c
        query = select(log.seq, log.kind, log.step_path, log.body, log.at, log.message_id)
        with self._connected() as connection:
            rows = connection.execute(query.where(log.saga_id == saga_id).order_by(log.seq)).all()
        return [LogEntry(seq, from_body(kind, step, body), at, cause) for seq, kind, step, body, at, cause in rows]

    def counts(self) -> Counts:
        """Five statements, each on an index or on a table that is normally small."""
        outbox, block = self._tables.outbox, self._tables.outbox_block
        parked, saga = self._tables.parked_message.c, self._tables.saga.c
        oldest = select(outbox.c.created_at).order_by(outbox.c.id).limit(1)
        by_status = select(saga.status, func.count()).where(saga.status.in_(ACTIVE)).group_by(saga.status)
        with self._connected() as connection:
            statuses = _counted(connection, select(parked.status, func.count()).group_by(parked.status))
            return Counts(
                outbox=connection.scalar(select(func.count()).select_from(outbox)) or 0,
                oldest_unsent=connection.scalar(oldest),
                blocked=connection.scalar(select(func.count()).select_from(block)) or 0,
                parked=statuses.get("waiting", 0),
                dead=statuses.get("dead", 0),
                sagas={SagaStatus(status): count for status, count in _counted(connection, by_status).items()},
            )

    def live_versions(self) -> dict[tuple[str, int], int]:
        """How many sagas of each (name, version) have not ended."""
        saga = self._tables.saga.c
        query = select(saga.name, saga.version, func.count()).where(saga.status.in_(ACTIVE))
        with self._connected() as connection:
            found = connection.execute(query.group_by(saga.name, saga.version)).all()
        return {(name, version): count for name, version, count in found}

    def blocked(self, limit: int = 100) -> list[Blocked]:
        """Messages that cannot be delivered, the oldest first."""
        block = self._tables.outbox_block.c
        query = select(block.message_id, block.topic, block.key, block.error, block.blocked_at)
        with self._connected() as connection:
            return [Blocked(*row) for row in connection.execute(query.order_by(block.blocked_at).limit(limit))]

    def parked_message(self, id: int) -> Parked | None:
        """One parked message."""
        table = self._tables.parked_message
        with self._connected() as connection:
            row = connection.execute(select(table).where(table.c.id == id)).mappings().first()
        return None if row is None else parked_of(row)

    def parked(self, limit: int = 100) -> list[Parked]:
        """Parked messages, the oldest first."""
        table = self._tables.parked_message
        with self._connected() as connection:
            return [
                parked_of(row) for row in connection.execute(select(table).order_by(table.c.id).limit(limit)).mappings()
            ]

    def _summaries(self) -> Select[*tuple[Any, ...]]:
        saga = self._tables.saga.c
        return select(
            saga.saga_id,
            saga.name,
            saga.version,
            saga.key,
            saga.incarnation,
            saga.status,
            saga.seq,
            saga.started_at,
            saga.updated_at,
            saga.reason,
            saga.pruned_at,
        )

    @contextmanager
    def _connected(self) -> Generator[Connection]:
        with translated(), self._engine.connect() as connection:
            yield connection


def _counted(connection: Connection, query: Executable) -> dict[str, int]:
    return {status: count for status, count in connection.execute(query)}  # noqa: C416 (dict() has no types)


def _summary(row: Row[Any]) -> SagaSummary:
    return SagaSummary(
        saga_id=row.saga_id,
        saga=row.name,
        version=row.version,
        key=row.key,
        incarnation=row.incarnation,
        status=SagaStatus(row.status),
        seq=row.seq,
        started_at=row.started_at,
        updated_at=row.updated_at,
        reason=row.reason,
        pruned_at=row.pruned_at,
    )
