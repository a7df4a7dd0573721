"""What lies in a store, whichever kind it is."""

from __future__ import annotations

from uuid import UUID

from kafkasaga.ports import LogEntry, Parked, ParkedStatus, Store
from kafkasaga.saga.instance import Instance
from kafkasaga.stores import Queries, SqlStore
from kafkasaga.testing.memory import MemoryStore
from kafkasaga.testing.memory.tables import heads


def parked(store: Store) -> list[Parked]:
    """Everything that is parked."""
    assert isinstance(store, MemoryStore | SqlStore)
    return list(store.queries().parked())


def waiting(store: Store) -> list[Parked]:
    """Parked messages that will be tried again, and are the first of their lane."""
    if isinstance(store, SqlStore) and not _count(store, "parked_message"):
        return []
    return [message for message in heads(parked(store)) if message.status is ParkedStatus.WAITING]


def unsent(store: Store) -> int:
    """How many messages are in the outbox."""
    return len(store.tables.outbox) if isinstance(store, MemoryStore) else _count(store, "outbox")


def blocked(store: Store) -> dict[UUID, str]:
    """What the broker refuses, and why."""
    if isinstance(store, MemoryStore):
        return dict(store.tables.blocked)
    return {block.message_id: block.error for block in _sql(store).blocked()}


def saga_ids(store: Store) -> list[UUID]:
    """Every saga."""
    assert isinstance(store, MemoryStore | SqlStore)
    return list(store.queries().saga_ids())


def instance(store: Store, id: UUID) -> Instance | None:
    """A saga as it is stored."""
    assert isinstance(store, MemoryStore | SqlStore)
    return store.queries().instance(id)


def log(store: Store, id: UUID) -> list[LogEntry]:
    """A saga's log as it is stored."""
    assert isinstance(store, MemoryStore | SqlStore)
    return store.queries().log(id)


def pruned(store: Store, id: UUID) -> bool:
    """Whether a saga's state and log were deleted because of their age."""
    if isinstance(store, MemoryStore):
        return id in store.ages.pruned
    summary = _sql(store).saga(id)
    return summary is not None and summary.pruned_at is not None


def _sql(store: Store) -> Queries:
    assert isinstance(store, SqlStore)
    return store.queries()


def _count(store: Store, table: str) -> int:
    assert isinstance(store, SqlStore)
    name = f"{store.tables.prefix}{table}"
    with store.engine.connect() as connection:
        count: int = connection.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar_one()  # noqa: S608 (ours)
    return count
