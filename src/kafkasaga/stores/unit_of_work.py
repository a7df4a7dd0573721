"""One database transaction, in which everything that a batch does happens or none of it (invariant I1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.orm import Session

from kafkasaga.errors import SerializationConflict
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
    Turn,
    nothing,
)
from kafkasaga.saga.instance import Instance
from kafkasaga.stores.barrier import Barrier
from kafkasaga.stores.bulk import Sql, Way
from kafkasaga.stores.failures import translated
from kafkasaga.stores.handler_session import HandlerSession
from kafkasaga.stores.inbox import Fresh, Inbox
from kafkasaga.stores.offsets import Offsets
from kafkasaga.stores.outbox_rows import OutboxRows
from kafkasaga.stores.parked import ParkedMessages
from kafkasaga.stores.parked_commands import ParkedCommands
from kafkasaga.stores.plans import Plans
from kafkasaga.stores.sagas import Sagas, Written
from kafkasaga.stores.sagas import Timers as KnownTimers
from kafkasaga.stores.turns import TurnLock


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
        self.way: Final = Way() if not sql.past_sqlalchemy else _past_sqlalchemy()
        self.turns: Final = TurnLock(sql, self.way)
        self.plans: Final = Plans(sql, self.way)


def _past_sqlalchemy() -> Way:
    from kafkasaga.stores.driver import PsycopgWay

    return PsycopgWay()


class SqlUnitOfWork:
    """Implements ``ports.UnitOfWork`` over one connection. Made by ``SqlStore``; used by one thread.

    What nobody waits for is kept for the end of the transaction and travels with its COMMIT, in one round trip. Before
    any other statement it is sent first, so that all take effect in the order of their calls.
    """

    def __init__(
        self,
        connection: Connection,
        statements: Statements,
        published: Callable[[int], None],
        session: Session | None = None,
        transaction: RootTransaction | None = None,
    ) -> None:
        self._unbegun = connection
        self._transaction = transaction
        self._do = statements
        self._begun = session is not None or not statements.way.begins_late
        if session is None and self._begun:
            statements.way.begin(connection)
        self._published = published
        self._session = session
        self._ends_elsewhere = session is not None
        self._timers: KnownTimers = {}
        self._later: list[Callable[[], None]] = []
        self._looks_at_end = False
        """Whether any of that reads tables, so that its plan is worth keeping."""
        self._ahead: set[BarrierKey] | None = None
        self._read: dict[BarrierKey, BarrierEntry] | None = None
        """What the barrier has of those that were looked for ahead."""
        self._sagas_ahead: set[UUID] = set()
        self._loaded: Callable[[], dict[UUID, Instance]] | None = None
        """Reads those of them that there are, once they have been asked for."""
        self._turn = Turn.NONE
        self._hands_over = True
        self._keeps_plans = False
        """Whether the planner is told to go through indexes, from the claim on."""
        self._nothing_parked = False
        self._meanwhile: Callable[[], None] = nothing

    @property
    def _connection(self) -> Connection:
        """Inside its transaction, which begins when it is first asked for: BEGIN travels with what follows."""
        if not self._begun:
            self._begun = True
            self._do.way.begin(self._unbegun)
        # BEGIN is sent once: whatever followed a rollback inside the transaction would commit by itself (I1).
        if self._transaction is not None and not self._transaction.is_active:
            raise InvalidRequestError(
                "This transaction is inactive: a handler has swallowed an error that rolled it back; let the error out "
                "of the handler, or have what may fail inside `with session.begin_nested():`"
            )
        return self._unbegun

    @property
    def session(self) -> Session:
        """The session of this transaction; made when first asked for, since most of a batch may need none."""
        self._send()
        self._plan_as_before()
        connection = self._connection
        if self._session is None:
            self._session = HandlerSession(connection)
        return self._session

    @property
    def existing_session(self) -> Session | None:
        """The session, if anyone asked for it."""
        return self._session

    def flush(self) -> None:
        """Write out what handlers left in the session."""
        session = self._session
        if session is not None and (session.new or session.dirty or session.deleted):
            with self._now():
                session.flush()

    def commit(self, transaction: RootTransaction) -> None:
        """Flush, send what was kept for the end, and commit."""
        self.flush()
        if (self._later or self._keeps_plans) and transaction.is_active:
            with translated(), self._settling(), self._do.way.together(self._unbegun):
                if self._looks_at_end and not self._keeps_plans:
                    self._do.plans.keep(self._connection)
                for send in self._later:
                    send()
                if self._looks_at_end or self._keeps_plans:  # a user's triggers may wait for the end
                    self._do.plans.take_back(self._connection)
                self._do.way.commit(self._connection, self._meanwhile)
            self._later.clear()
        # After a COMMIT that went with them this is no statement; SQLAlchemy and those who listen to it hear of it.
        commit(self._unbegun, transaction)

    def end(self) -> None:
        """The transaction is over: let go of the connection."""
        if isinstance(self._session, HandlerSession):
            self._session.detach()
        self._do.way.end(self._unbegun)

    def look_ahead(
        self,
        steps: Collection[BarrierKey],
        sagas: Collection[UUID] = (),
        turn: Turn = Turn.NONE,
        *,
        hands_over: bool = True,
    ) -> None:
        """No statement: ``claim_inbox`` asks."""
        self._ahead, self._sagas_ahead, self._turn, self._hands_over = set(steps), set(sagas), turn, hands_over

    def claim_inbox(self, keys: Collection[InboxKey]) -> set[InboxKey]:
        """One statement; with what was looked for ahead three to six in one round trip; more, if a key was there."""
        if self._ahead is None:
            with self._now():
                return self._do.inbox.claim(self._connection, keys)
        inbox = self._do.inbox
        if not self._begun and not self._later and inbox.hope():  # else more than the claim would be undone
            try:
                return self._look(keys, inbox.insert)
            except IntegrityError as error:
                if not inbox.refused(error):
                    raise
                with translated():
                    self._do.way.begin_again(self._unbegun)
                self._keeps_plans = False
        return self._look(keys, inbox.ask)

    def _look(
        self, keys: Collection[InboxKey], claim: Callable[[Connection, Collection[InboxKey]], Fresh]
    ) -> set[InboxKey]:
        with self._now():
            begin = int(not self._begun)
            try:
                with self._do.way.together(self._unbegun):
                    connection = self._connection
                    self._do.turns.take(connection, self._turn)
                    fresh = claim(connection, keys)
                    parked = self._do.parked.ask_any(connection)
                    read = self._do.barrier.ask(connection, self._ahead or ())
                    self._loaded = self._do.sagas.ask(connection, self._sagas_ahead, self._timers)
                    self._keeps_plans = True
                    if self._hands_over:
                        self._plan_as_before()
            except DBAPIError as error:
                self._do.turns.refused(self._unbegun, error, behind=begin)
                raise
            self._nothing_parked, self._read = not parked(), read()
            return fresh()

    def read_barrier(self, keys: Collection[BarrierKey]) -> dict[BarrierKey, BarrierEntry]:
        """One statement; none if the keys were looked for ahead."""
        if self._read is not None and self._ahead is not None and self._ahead >= set(keys):
            return {key: entry for key, entry in self._read.items() if key in keys}
        with self._now(by_index=True):
            return self._do.barrier.ask(self._connection, keys)()

    def settle_barrier(self, entries: Mapping[BarrierKey, BarrierEntry]) -> None:
        """One statement."""
        self._read = None
        self._at_end(lambda: self._do.barrier.settle(self._connection, entries))

    def meanwhile(self, work: Callable[[], None]) -> None:
        """Done where COMMIT travels with what was kept for the end: with psycopg."""
        self._meanwhile = work

    def carried_out(self, actions: Collection[BarrierKey]) -> set[BarrierKey]:
        """One statement."""
        with self._now():
            return self._do.barrier.carried_out(self._connection, actions)

    def load_sagas(self, ids: Collection[UUID]) -> dict[UUID, Instance]:
        """One statement; none if the sagas were looked for ahead."""
        wanted = set(ids)  # of many ids, a list would be searched for each
        if self._loaded is not None and self._sagas_ahead >= wanted:
            return {id: instance for id, instance in self._loaded().items() if id in wanted}
        with self._now(by_index=True):
            return self._do.sagas.ask(self._connection, ids, self._timers)()

    def current_sagas(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
        """One statement."""
        with self._now(by_index=True):
            return self._do.sagas.current(self._connection, keys)

    def save_sagas(self, changes: Sequence[SagaChange]) -> None:
        """Two statements, and one more for each of: new sagas beside old ones, timers set, timers dropped.

        With COMMIT go two more about their plans, or one, where those of the claim are kept still.
        """
        self._loaded = None
        sagas, written = self._do.sagas, Written.of(changes, self._timers)
        if written.locked and self._do.way.begins_late and not self._ends_elsewhere:
            self._at_end(lambda: sagas.send_states(self._connection, written))
        else:
            with self._now(by_index=True):
                sagas.write_states(self._connection, written)
        self._at_end(lambda: sagas.send_log(self._connection, written))
        self._looks_at_end = True

    def add_outbox(self, envelopes: Sequence[Envelope]) -> None:
        """One statement."""
        if envelopes:
            self._at_end(lambda: self._do.outbox.add(self._connection, envelopes))
            self._published(len(envelopes))

    def advance(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """One statement."""
        self._at_end(lambda: self._do.offsets.advance(self._connection, group, positions))

    def rewind(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """One statement."""
        with self._now():
            self._do.offsets.rewind(self._connection, group, positions)

    def parked_lanes(self, lanes: Iterable[ParkedKey]) -> set[ParkedKey]:
        """One statement; none if it is known that nothing is parked at all."""
        if self._nothing_parked:
            return set()
        with self._now():
            return self._do.parked.lanes(self._connection, set(lanes))

    def park(self, messages: Sequence[Parked]) -> None:
        """One statement."""
        self._nothing_parked = False
        with self._now():
            self._do.parked.park(self._connection, messages)

    def replace_parked(self, messages: Sequence[Parked]) -> set[InboxKey]:
        """One statement."""
        with self._now():
            return self._do.parked_commands.replace(self._connection, messages)

    def drop_parked(self, actions: Collection[BarrierKey]) -> list[tuple[ParkedKey, BarrierKey]]:
        """One statement; a second one if there were any."""
        with self._now():
            return self._do.parked_commands.drop(self._connection, actions)

    def note_batch(self, group: str, ends: Mapping[TopicPartition, int]) -> None:
        """One statement."""
        with self._now():
            self._do.offsets.note_batch(self._connection, group, ends)

    def note_attempt(self, group: str, place: TopicPartition, offset: int) -> int:
        """One statement."""
        with self._now():
            return self._do.offsets.note_attempt(self._connection, group, place, offset)

    def claim_parked(self, now: datetime) -> Parked | None:
        """One statement."""
        with self._now():
            return self._do.parked.claim(self._connection, now)

    def lock_parked(self, id: int, attempts: int) -> bool:
        """One statement."""
        with self._now():
            return self._do.parked.lock(self._connection, id, attempts)

    def parked_ids(self, topic: str, keys: Collection[InboxKey]) -> dict[InboxKey, int]:
        """One statement."""
        with self._now():
            return self._do.parked.ids(self._connection, topic, keys)

    def unpark(self, id: int) -> None:
        """Two statements."""
        with self._now():
            self._do.parked.unpark(self._connection, id)

    def repark(
        self, id: int, *, error: str, status: ParkedStatus, attempts: int, next_at: datetime, deaths: int = 0
    ) -> None:
        """One statement; a second one for a dead letter."""
        noted = {"error": error, "status": status, "attempts": attempts, "next_at": next_at, "deaths": deaths}
        with self._now():
            self._do.parked.repark(self._connection, id, noted)

    def free_lanes(self) -> int:
        """One statement."""
        with self._now():
            return self._do.parked.free_lanes(self._connection)

    def _plan_as_before(self) -> None:
        if self._keeps_plans:
            self._keeps_plans = False
            with translated():
                self._do.plans.take_back(self._connection)

    # -- what is kept for the end

    def _at_end(self, send: Callable[[], None]) -> None:
        self._later.append(send)
        if self._ends_elsewhere:
            with translated():
                self._send()

    def _now(self, *, by_index: bool = False) -> AbstractContextManager[None]:
        """Around a statement that somebody waits for; ``by_index``, if its plan may be kept (``plans``)."""
        self._send()
        if not by_index:
            self._plan_as_before()
        return translated()

    def _send(self) -> None:
        """Send what was kept for the end."""
        if self._later:
            later, self._later = self._later, []
            with translated(), self._settling(), self._do.way.together(self._unbegun):
                for send in later:
                    send()

    @contextmanager
    def _settling(self) -> Generator[None]:
        """A barrier's entry or a saga that another transaction has written meanwhile is a conflict with it."""
        try:
            yield
        except IntegrityError as error:
            if self._do.barrier.refused(error):
                raise SerializationConflict("another transaction has answered the same command meanwhile") from error
            if self._do.sagas.refused(error):
                raise SerializationConflict("another transaction has begun the same saga meanwhile") from error
            raise


def commit(connection: Connection, transaction: RootTransaction) -> None:
    """Commit, and leave no connection behind that only seems to be out of its transaction."""
    try:
        transaction.commit()
    except BaseException:
        # SQLite keeps a transaction open whose commit a deferred constraint refused; SQLAlchemy takes it for ended, and
        # the next user of the connection would find it under way.
        with suppress(Exception):
            connection.connection.rollback()
        raise
