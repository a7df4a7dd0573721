"""A service's database, as the runtime sees it: ``ports.Store`` over SQLAlchemy."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from time import sleep
from typing import Any, Final
from uuid import UUID

from sqlalchemy import URL, Connection, Dialect, Engine
from sqlalchemy.orm import Session

from kafkasaga.errors import ConfigurationError, DefinitionError
from kafkasaga.ports import Progress, Prunable, TopicPartition
from kafkasaga.stores import migrations, wake
from kafkasaga.stores.acts import ParkedActs
from kafkasaga.stores.bulk import ISOLATION, Sql
from kafkasaga.stores.connections import UnitConnections
from kafkasaga.stores.dialects import begin_writing
from kafkasaga.stores.engine import create_library_engine, in_memory
from kafkasaga.stores.failures import translated
from kafkasaga.stores.offsets import Offsets
from kafkasaga.stores.outbox import Outbox
from kafkasaga.stores.outbox_rows import OutboxRows
from kafkasaga.stores.parked import ParkedMessages
from kafkasaga.stores.queries import Queries
from kafkasaga.stores.relay_postgresql import PostgresqlRelayQueue
from kafkasaga.stores.relay_share import ShareTurns, shares
from kafkasaga.stores.relay_sqlite import SqliteRelayQueue
from kafkasaga.stores.retention import Retention
from kafkasaga.stores.schema import Tables
from kafkasaga.stores.timers import Timers
from kafkasaga.stores.unit_of_work import SqlUnitOfWork, Statements

FEW: Final = 3
"""Messages of a transaction. Where there are more, a moment for each batch would cost more than it gains."""
GIVES_WAY: Final = 0.0002
"""Seconds in which a thread that was woken comes to run. A commit takes several times as long."""


class SqlStore:
    """Implements ``ports.Store``. Threads may share it.

    An engine of the user's own works; one made by ``create_store`` has the protections described in ``engine``.

    Args:
        engine: where the tables are.
        tables: the library's tables, or an outbox that has them.
        direct: an engine that reaches PostgreSQL itself, where ``engine`` goes through a pooler that shares sessions
            (PgBouncer in transaction mode): the relay needs a session of its own.
        owns_engine: whether nobody else needs the engine's connections; then some are kept out of its pool.
    """

    def __init__(
        self, engine: Engine, tables: Tables | Outbox, *, direct: Engine | None = None, owns_engine: bool = False
    ) -> None:
        self.engine: Final = engine
        self.tables: Final = tables_of(tables)
        self._direct = direct or engine
        self._sql = Sql(self.tables, engine.dialect)
        self._statements = _statements(self.tables, engine.dialect)
        self._offsets = Offsets(self._sql)
        self._parked = ParkedMessages(self._sql)
        self._outbox = OutboxRows(self._sql)
        self._timers = Timers(self.tables)
        self._retention = Retention(self._sql)
        # Reading alone needs no transaction: without one, PostgreSQL answers in one round trip instead of three.
        # With psycopg BEGIN travels with the first statements: SQLAlchemy is told that it is not the driver's to send.
        # An engine with that option would do it by an event, and every statement of a handler's would look for events.
        own = {ISOLATION: engine.get_execution_options().get("isolation_level"), "isolation_level": "AUTOCOMMIT"}
        past = self._sql.past_sqlalchemy
        self._connections = UnitConnections(
            engine, self._statements.way, own if past else {}, keeps=owns_engine and past
        )
        self._reads = engine.execution_options(isolation_level="AUTOCOMMIT") if self._sql.postgresql else engine

    @property
    def in_memory(self) -> bool:
        """Whether the database ends with this process."""
        return self.engine.dialect.name == "sqlite" and in_memory(self.engine.url)

    @contextmanager
    def begin(self) -> Generator[SqlUnitOfWork]:
        """A transaction: committed at the end of the block, rolled back by an exception. Then the relay is woken."""
        published: list[int] = []
        with translated():
            connection, as_it_was = self._connections.take(), False
            try:
                transaction = connection.begin()
                unit = SqlUnitOfWork(connection, self._statements, published.append, transaction=transaction)
                try:
                    yield unit
                    # Not `with connection.begin()`: that leaves quietly, without a commit, when something inside the
                    # block has rolled back and swallowed the error. `commit` raises then.
                    unit.commit(transaction)
                    self._wake(unit.existing_session, sum(published))
                finally:
                    unit.end()
                as_it_was = unit.existing_session is None
            finally:
                self._connections.give_back(connection, as_it_was=as_it_was)

    def _wake(self, session: Session | None, published: int) -> None:
        """At once: the connection can be put away while the relay is at work.

        A relay of this process needs the interpreter for that, which this thread would keep for as long as it may. (One
        of a database in memory needs its connection, which is here.)
        """
        if session is not None:
            wake.committed(session)
        if published and wake.wake(self.engine, self.tables) and published <= FEW and not self.in_memory:
            sleep(GIVES_WAY)

    def enlist(self, session: Any) -> SqlUnitOfWork:
        """The caller's own transaction as a unit of work: it commits with the session, which then wakes the relay."""
        return enlist(session, self.tables)

    def check_schema(self) -> None:
        """Raises SchemaError if the tables are missing, old or newer, ConfigurationError if the server is too old."""
        migrations.check(self.engine, self.tables)

    def positions(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """One statement."""
        with self._reading() as connection:
            return self._offsets.read(connection, group, partitions)

    def take_over(
        self, group: str, owner: UUID, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, Progress]:
        """Two statements."""
        with self._writing() as connection:
            return self._offsets.take_over(connection, group, owner, partitions)

    def give_up(self, group: str, owner: UUID, partitions: Collection[TopicPartition]) -> None:
        """One statement."""
        with self._writing() as connection:
            self._offsets.give_up(connection, group, owner, partitions)

    def parked_counts(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """One statement."""
        with self._reading() as connection:
            return self._parked.counts(connection, partitions)

    def due_sagas(self, now: datetime, limit: int) -> list[UUID]:
        """One statement."""
        with self._reading() as connection:
            return self._timers.due(connection, now, limit)

    def next_due(self) -> datetime | None:
        """One statement."""
        with self._reading() as connection:
            return self._timers.next_due(connection)

    def unsent(self, ids: Collection[UUID]) -> set[UUID]:
        """One statement."""
        with self._reading() as connection:
            return self._outbox.unsent(connection, ids)

    def live_versions(self) -> dict[tuple[str, int], int]:
        """How many sagas of each (name, version) have not ended (invariant I15). One statement."""
        return self.queries().live_versions()

    def queries(self) -> Queries:
        """What operators look at."""
        return Queries(self._reads, self.tables)

    def parked_acts(self) -> ParkedActs:
        """What operators do to parked messages."""
        return ParkedActs(self.engine, self._sql)

    def prune(self, what: Prunable, keep: timedelta, limit: int) -> int:
        """One statement; three for sagas, if there are any."""
        with self._writing() as connection:
            return self._retention.prune(connection, what, keep, limit)

    def relay_queue(self) -> PostgresqlRelayQueue | SqliteRelayQueue:
        """The outbox as its relay sees it."""
        (queue,) = self.relay_queues(1)
        return queue

    def relay_queues(self, count: int) -> Sequence[PostgresqlRelayQueue | SqliteRelayQueue]:
        """The outbox as relays see it that work side by side, each on its share of the keys.

        Raises:
            ConfigurationError: for more than one on SQLite.
        """
        if self._sql.postgresql:
            turns = ShareTurns()
            return [PostgresqlRelayQueue(self._direct, self._sql, share=one, turns=turns) for one in shares(count)]
        if count > 1:
            raise ConfigurationError("SQLite takes one writer at a time, so one relay: remove KAFKASAGA_RELAYS")
        return [SqliteRelayQueue(self.engine, self._sql)]

    def close(self) -> None:
        """Give back all connections."""
        wake.close(self.engine)
        self._connections.close()
        self.engine.dispose()
        self._direct.dispose()

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        with translated(), self.engine.begin() as connection:
            begin_writing(connection)
            yield connection

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        with translated(), self._reads.connect() as connection:
            yield connection


def enlist(session: Any, tables: Tables | Outbox) -> SqlUnitOfWork:
    """The caller's own transaction as a unit of work: it commits with the session, which then wakes the relay.

    Raises:
        DefinitionError: for anything but a Session.
    """
    if not isinstance(session, Session):
        raise DefinitionError(
            f"a unit of work needs a Session, not {type(session).__name__}; "
            "with an AsyncSession: await session.run_sync(lambda session: …)"
        )
    tables = tables_of(tables)
    with translated():
        connection = session.connection(bind_arguments={"clause": tables.saga})
        begin_writing(connection)

    def published(_: int) -> None:
        wake.wake_after_commit(session, connection.engine, tables)

    return SqlUnitOfWork(connection, _statements(tables, connection.dialect), published, session)


def tables_of(given: Tables | Outbox) -> Tables:
    """The tables, or those of an outbox."""
    return given.tables if isinstance(given, Outbox) else given


@lru_cache(maxsize=64)
def _statements(tables: Tables, dialect: Dialect) -> Statements:
    return Statements(Sql(tables, dialect))


def create_store(
    url: str | URL, tables: Tables | Outbox, *, direct_url: str | URL | None = None, **options: Any
) -> SqlStore:
    """A store on an engine of its own, with the protections of ``create_library_engine``, which takes ``options``."""
    engine = create_library_engine(url, **options)
    direct = None if direct_url is None else create_library_engine(direct_url, **options)
    # Who has a say about the pool is to find in it what he expects.
    owns_engine = not any(option.startswith(("pool", "max_overflow")) for option in options)
    return SqlStore(engine, tables, direct=direct, owns_engine=owns_engine)
