"""One database transaction, in which everything that a batch does happens or none of it (invariant I1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from kafkasaga.messages import Envelope
from kafkasaga.ports import (
    BarrierEntry,
    BarrierKey,
    InboxKey,
    Parked,
    ParkedKey,
    ParkedStatus,
    SagaChange,
    TopicPartition,
)
from kafkasaga.saga.instance import Instance
from kafkasaga.stores.barrier import Barrier
from kafkasaga.stores.bulk import Sql
from kafkasaga.stores.failures import translated
from kafkasaga.stores.handler_session import HandlerSession
from kafkasaga.stores.inbox import Inbox
from kafkasaga.stores.offsets import Offsets
from kafkasaga.stores.outbox_rows import OutboxRows
from kafkasaga.stores.parked import ParkedMessages
from kafkasaga.stores.parked_commands import ParkedCommands
from kafkasaga.stores.sagas import Sagas
from kafkasaga.stores.sagas import Timers as KnownTimers


class Statements:
    """Every statement of a unit of work, its text built once for a set of tables and a kind of database."""

    def __init__(self, sql: Sql) -> None:
        self.inbox: Final = Inbox(sql)
        self.barrier: Final = Barrier(sql)
        self.sagas: Final = Sagas(sql)
        self.outbox: Final = OutboxRows(sql)
        self.offsets: Final = Offsets(sql)
        self.parked: Final = ParkedMessages(sql)
        self.parked_commands: Final = ParkedCommands(sql)


class SqlUnitOfWork:
    """Implements ``ports.UnitOfWork`` over one connection. Made by ``SqlStore``; used by one thread."""

    def __init__(
        self,
        connection: Connection,
        statements: Statements,
        published: Callable[[], None],
        session: Session | None = None,
    ) -> None:
        self._connection = connection
        self._do = statements
        self._published = published
        self._session = session
        self._timers: KnownTimers = {}

    @property
    def session(self) -> Session:
        """The session of this transaction; made when first asked for, since most of a batch may need none."""
        if self._session is None:
            self._session = HandlerSession(self._connection)
        return self._session

    @property
    def existing_session(self) -> Session | None:
        """The session, if anyone asked for it."""
        return self._session

    def flush(self) -> None:
        """Write out what handlers left in the session."""
        if self._session is not None:
            with translated():
                self._session.flush()

    def claim_inbox(self, keys: Collection[InboxKey]) -> set[InboxKey]:
        """One statement."""
        with translated():
            return self._do.inbox.claim(self._connection, keys)

    def claim_barrier(self, keys: Collection[BarrierKey]) -> dict[BarrierKey, BarrierEntry]:
        """One statement; a second one if keys were taken."""
        with translated():
            return self._do.barrier.claim(self._connection, keys)

    def settle_barrier(self, entries: Mapping[BarrierKey, BarrierEntry]) -> None:
        """One statement."""
        with translated():
            self._do.barrier.settle(self._connection, entries)

    def carried_out(self, actions: Collection[BarrierKey]) -> set[BarrierKey]:
        """One statement."""
        with translated():
            return self._do.barrier.carried_out(self._connection, actions)

    def load_sagas(self, ids: Collection[UUID]) -> dict[UUID, Instance]:
        """One statement."""
        with translated():
            return self._do.sagas.load(self._connection, ids, self._timers)

    def current_sagas(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
        """One statement."""
        with translated():
            return self._do.sagas.current(self._connection, keys)

    def save_sagas(self, changes: Sequence[SagaChange]) -> None:
        """Two statements, and one more for each of: new sagas beside old ones, timers set, timers dropped."""
        with translated():
            self._do.sagas.save(self._connection, changes, self._timers)

    def add_outbox(self, envelopes: Sequence[Envelope]) -> None:
        """One statement."""
        if envelopes:
            with translated():
                self._do.outbox.add(self._connection, envelopes)
            self._published()

    def advance(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """One statement."""
        with translated():
            self._do.offsets.advance(self._connection, group, positions)

    def rewind(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """One statement."""
        with translated():
            self._do.offsets.rewind(self._connection, group, positions)

    def parked_lanes(self, lanes: Collection[ParkedKey]) -> set[ParkedKey]:
        """One statement."""
        with translated():
            return self._do.parked.lanes(self._connection, lanes)

    def park(self, messages: Sequence[Parked]) -> None:
        """One statement."""
        with translated():
            self._do.parked.park(self._connection, messages)

    def replace_parked(self, messages: Sequence[Parked]) -> set[InboxKey]:
        """One statement."""
        with translated():
            return self._do.parked_commands.replace(self._connection, messages)

    def drop_parked(self, actions: Collection[BarrierKey]) -> list[tuple[ParkedKey, BarrierKey]]:
        """One statement; a second one if there were any."""
        with translated():
            return self._do.parked_commands.drop(self._connection, actions)

    def note_batch(self, group: str, ends: Mapping[TopicPartition, int]) -> None:
        """One statement."""
        with translated():
            self._do.offsets.note_batch(self._connection, group, ends)

    def note_attempt(self, group: str, place: TopicPartition, offset: int) -> int:
        """One statement."""
        with translated():
            return self._do.offsets.note_attempt(self._connection, group, place, offset)

    def claim_parked(self, now: datetime) -> Parked | None:
        """One statement."""
        with translated():
            return self._do.parked.claim(self._connection, now)

    def lock_parked(self, id: int, attempts: int) -> bool:
        """One statement."""
        with translated():
            return self._do.parked.lock(self._connection, id, attempts)

    def parked_ids(self, topic: str, keys: Collection[InboxKey]) -> dict[InboxKey, int]:
        """One statement."""
        with translated():
            return self._do.parked.ids(self._connection, topic, keys)

    def unpark(self, id: int) -> None:
        """Two statements."""
        with translated():
            self._do.parked.unpark(self._connection, id)

    def repark(
        self, id: int, *, error: str, status: ParkedStatus, attempts: int, next_at: datetime, deaths: int = 0
    ) -> None:
        """One statement; a second one for a dead letter."""
        noted = {"error": error, "status": status, "attempts": attempts, "next_at": next_at, "deaths": deaths}
        with translated():
            self._do.parked.repark(self._connection, id, noted)

    def free_lanes(self) -> int:
        """One statement."""
        with translated():
            return self._do.parked.free_lanes(self._connection)
