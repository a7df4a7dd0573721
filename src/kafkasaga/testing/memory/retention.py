"""When rows in memory came about, and forgetting the old ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from kafkasaga.ports import BarrierKey, InboxKey, Parked, ParkedStatus, Prunable, SagaChange
from kafkasaga.saga.instance import Instance, forgotten
from kafkasaga.testing.memory.locks import Locks
from kafkasaga.testing.memory.tables import Tables


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Ages:
    """The columns of SQL's tables that say when."""

    now: Callable[[], datetime] = _now
    """The database's clock."""
    inbox: dict[InboxKey, datetime] = field(default_factory=dict[InboxKey, datetime])
    barrier: dict[BarrierKey, datetime] = field(default_factory=dict[BarrierKey, datetime])
    heard: dict[UUID, datetime] = field(default_factory=dict[UUID, datetime])
    """When the last message for an ended saga came."""
    logged: dict[UUID, datetime] = field(default_factory=dict[UUID, datetime])
    """Since when an ended saga has had a log to be forgotten."""
    dead: dict[int, datetime] = field(default_factory=dict[int, datetime])
    """Since when a parked message is a dead letter."""
    pruned: dict[UUID, datetime] = field(default_factory=dict[UUID, datetime])

    def claimed(self, inbox: Iterable[InboxKey], barrier: Iterable[BarrierKey]) -> None:
        """These are committed now."""
        now = self.now()
        for key in inbox:
            self.inbox.setdefault(key, now)
        for asked in barrier:
            self.barrier.setdefault(asked, now)

    def saved(self, change: SagaChange) -> None:
        """A saga's change is committed."""
        if change.instance.status.ended and change.entries:
            id, now = change.instance.id, self.now()
            self.heard[id] = now
            self.logged.setdefault(id, now)

    def parked(self, changed: Mapping[int, Parked | None]) -> None:
        """These are parked, or are no more."""
        for id, message in changed.items():
            if message is None or message.status is not ParkedStatus.DEAD_LETTER:
                self.dead.pop(id, None)
            else:
                self.dead.setdefault(id, self.now())


def prune(tables: Tables, ages: Ages, locks: Locks, what: Prunable, keep: timedelta, limit: int) -> int:
    """As ``ports.Store.prune``. Called under the guard."""
    cut = ages.now() - keep
    match what:
        case Prunable.INBOX:
            return _forget_inbox(tables, ages, cut, limit)
        case Prunable.BARRIER:
            return _forget_barrier(tables, ages, locks, cut, limit)
        case Prunable.DEAD_LETTERS:
            gone = [id for id, at in ages.dead.items() if at <= cut and _free(locks, "parked", id)][:limit]
            for letter in gone:
                del tables.parked[letter], ages.dead[letter]
            return len(gone)
        case Prunable.SAGAS:
            ended = [id for id in _before(ages.logged, cut) if _free(locks, "saga", id)][:limit]
            for id in ended:
                tables.sagas[id] = forgotten(tables.sagas[id])
                tables.logs.pop(id, None)
                ages.pruned[id] = ages.now()
                del ages.logged[id]
            return len(ended)
        case Prunable.SAGA_KEYS:
            return _forget_keys(tables, ages, locks, cut, limit)


def _forget_inbox(tables: Tables, ages: Ages, cut: datetime, limit: int) -> int:
    parked = {(m.source, m.message_id) for m in tables.parked.values()}
    old = [key for key, at in ages.inbox.items() if at <= cut and (key.source, key.message_id) not in parked][:limit]
    for key in old:
        del ages.inbox[key]
        tables.inbox.discard(key)
    return len(old)


def _forget_barrier(tables: Tables, ages: Ages, locks: Locks, cut: datetime, limit: int) -> int:
    """All of a saga, or none of it."""
    needed = {key.saga_id for key, at in ages.barrier.items() if at > cut}
    needed |= {m.asks.saga_id for m in tables.parked.values() if m.asks is not None}
    needed |= {id for id, instance in tables.sagas.items() if not instance.status.ended}
    needed |= {key.saga_id for key in ages.barrier if key.saga_id not in needed and not _free(locks, "barrier", key)}
    sagas = {key.saga_id for key in [key for key in ages.barrier if key.saga_id not in needed][:limit]}
    old = [key for key in ages.barrier if key.saga_id in sagas]
    for key in old:
        del ages.barrier[key]
        tables.barrier.pop(key, None)
    return len(old)


def _forget_keys(tables: Tables, ages: Ages, locks: Locks, cut: datetime, limit: int) -> int:
    old = dict.fromkeys(_before(ages.heard, cut))
    remembered = {key.saga_id for key in ages.barrier}
    needed = {
        _name(instance)
        for id, instance in tables.sagas.items()
        if id not in old or id in remembered or not _free(locks, "saga", id)
    }
    names = {_name(tables.sagas[id]) for id in [id for id in old if _name(tables.sagas[id]) not in needed][:limit]}
    gone = [id for id, instance in tables.sagas.items() if _name(instance) in names]
    for id in gone:
        instance = tables.sagas.pop(id)
        tables.newest.pop(_name(instance), None)
        tables.logs.pop(id, None)
        del ages.heard[id]
        ages.logged.pop(id, None)
        ages.pruned.pop(id, None)
    return len(gone)


def _before(when: Mapping[UUID, datetime], cut: datetime) -> Collection[UUID]:
    return [id for id, at in sorted(when.items(), key=lambda item: item[1]) if at <= cut]


def _name(instance: Instance) -> tuple[str, str]:
    return instance.saga, instance.key


def _free(locks: Locks, kind: str, id: object) -> bool:
    """Nobody holds it."""
    me = object()
    taken = locks.try_take(me, (kind, id))
    locks.release(me)
    return taken
