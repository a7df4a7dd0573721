"""A unit of work as a transaction, the session it gives to handlers, and what errors become (invariant I1)."""

import sqlite3
from collections.abc import Callable
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import Session

from kafkasaga import Outbox
from kafkasaga.errors import ConfigurationError, DatabaseUnavailable, DefinitionError, SerializationConflict
from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierEntry, BarrierKey, InboxKey, Outcome, ParkedKey, ParkedStatus, TopicPartition
from kafkasaga.stores import SqlStore, Tables, create_store
from kafkasaga.stores.migrations import upgrade
from tests.contract.stores.business import Base, Order, created, orders
from tests.contract.stores.store_kit import Threads, counted_statements
from tests.contract.stores.test_store_outbox import outbox, rows
from tests.contract.stores.test_store_parked import NOW, parked
from tests.contract.stores.test_store_relay_queue import LONG, envelope
from tests.support import PostgresServer

PLACE = TopicPartition("orders", 0)


@pytest.fixture(autouse=True)
def business(request: pytest.FixtureRequest) -> None:
    for name in ("store", "postgres_store", "sqlite_store"):
        if name in request.fixturenames:
            Base.metadata.tables["orders"].create(request.getfixturevalue(name).engine)


class TestHandlerSession:
    def test_what_a_handler_left_in_the_session_commits_with_everything_else(self, store: SqlStore) -> None:
        with store.begin() as uow:
            uow.session.add(Order(id=1))
            outbox.publish(uow.session, created())
            uow.add_outbox([envelope()])
            uow.advance("shop", {PLACE: 1})
        assert orders(store.engine) == [1]
        assert len(rows(store)) == 2
        assert store.positions("shop", [PLACE]) == {PLACE: 1}

    def test_what_a_handler_executes_looks_for_no_events(self, store: SqlStore) -> None:
        """An engine with options of its own has some, and SQLAlchemy then asks around for each statement."""
        with store.begin() as uow:
            assert uow.session.connection().engine is store.engine

    def test_what_a_handler_published_wakes_the_relay(self, postgres_store: SqlStore) -> None:
        queue = postgres_store.relay_queue()
        assert queue.acquire()
        threads = Threads(postgres_store)
        waiting = threads.start(lambda: queue.wait(LONG))
        with postgres_store.begin() as uow:
            outbox.publish(uow.session, created())
        waiting.result(timeout=20)
        threads.close()
        queue.close()

    def test_an_error_undoes_everything(self, store: SqlStore) -> None:
        with pytest.raises(ZeroDivisionError), store.begin() as uow:  # noqa: PT012
            uow.session.add(Order(id=1))
            outbox.publish(uow.session, created())
            uow.flush()
            uow.add_outbox([envelope()])
            uow.advance("shop", {PLACE: 1})
            raise ZeroDivisionError
        assert orders(store.engine) == []
        assert rows(store) == []
        assert store.positions("shop", [PLACE]) == {}

    @pytest.mark.parametrize("method", ["commit", "rollback", "close"])
    def test_a_handler_cannot_end_the_transaction(self, store: SqlStore, method: str) -> None:
        with pytest.raises(DefinitionError, match=f"session.{method}\\(\\)"), store.begin() as uow:  # noqa: PT012
            uow.session.add(Order(id=1))
            getattr(uow.session, method)()
        assert orders(store.engine) == []

    def test_a_handler_may_use_savepoints(self, store: SqlStore) -> None:
        with store.begin() as uow:
            with pytest.raises(IntegrityError), uow.session.begin_nested():
                uow.session.execute(text("INSERT INTO orders (id) VALUES (1), (1)"))
            with uow.session.begin_nested():
                uow.session.add(Order(id=2))
        assert orders(store.engine)[-1:] == [2]

    def test_a_rollback_that_a_handler_brought_about_fails_the_batch_even_if_it_swallows_the_error(
        self, store: SqlStore
    ) -> None:
        with pytest.raises(InvalidRequestError), store.begin() as uow:  # noqa: PT012
            uow.advance("shop", {PLACE: 1})
            uow.session.connection().get_transaction().rollback()  # type: ignore[union-attr]
        assert store.positions("shop", [PLACE]) == {}

    def test_a_failed_flush_fails_the_batch_even_if_the_handler_swallows_the_error(self, store: SqlStore) -> None:
        with store.begin() as uow:
            uow.session.add(Order(id=1))
        with pytest.raises(InvalidRequestError), store.begin() as uow:  # noqa: PT012
            uow.advance("shop", {PLACE: 1})
            uow.session.add(Order(id=1))
            with pytest.raises(IntegrityError):
                uow.session.flush()
        assert store.positions("shop", [PLACE]) == {}

    @pytest.mark.parametrize("then", ["claims", "sends what was kept", "asks for the session", "goes on"])
    def test_i01_nothing_that_follows_a_rollback_inside_is_stored(self, store: SqlStore, then: str) -> None:
        """A handler swallowed an error, or ended the transaction; BEGIN is not repeated for those behind it."""
        with store.begin() as uow:
            uow.session.add(Order(id=1))
        key = InboxKey("billing", "shop", uuid4())
        step = BarrierKey(uuid4(), "pay", 0, Operation.ACTION)
        with pytest.raises(InvalidRequestError), store.begin() as uow:  # noqa: PT012
            session = uow.session
            if then == "goes on":
                transaction = session.get_transaction()
                assert transaction is not None
                transaction.rollback()
                session.add(Order(id=2))
                session.flush()
            session.add(Order(id=1))
            with pytest.raises(IntegrityError):
                session.flush()
            uow.settle_barrier({step: BarrierEntry(Outcome.DONE)})
            if then == "claims":
                uow.claim_inbox([key])
            elif then == "sends what was kept":
                uow.free_lanes()
            else:
                uow.session.connection().execute(insert(Order).values(id=2))
        with store.begin() as uow:
            assert uow.read_barrier([step]) == {}
            assert uow.claim_inbox([key]) == {key}
            assert uow.session.get(Order, 2) is None

    def test_the_session_is_made_only_when_asked_for(self, store: SqlStore) -> None:
        with store.begin() as uow:
            uow.advance("shop", {PLACE: 1})
            assert uow.existing_session is None

    def test_an_error_of_the_users_own_sql_passes_through(self, store: SqlStore) -> None:
        with store.begin() as uow:
            uow.session.add(Order(id=1))
        with pytest.raises(IntegrityError), store.begin() as uow:  # noqa: PT012
            uow.session.add(Order(id=1))
            uow.flush()


class TestStatementCounts:
    """One statement each, however many rows; of sagas, see there."""

    def test_of_a_batch(self, store: SqlStore) -> None:
        keys = [InboxKey("billing", "shop", uuid4()) for _ in range(100)]
        barrier = {BarrierKey(uuid4(), "pay", 0, Operation.ACTION): BarrierEntry(Outcome.DONE) for _ in range(100)}
        with store.begin() as uow, counted_statements(store) as statements:
            calls: list[Callable[[], object]] = [
                partial(uow.claim_inbox, keys),
                partial(uow.read_barrier, barrier.keys()),
                partial(uow.parked_lanes, [ParkedKey("billing", "orders", bytes([n])) for n in range(100)]),
                partial(uow.park, [parked(offset=n) for n in range(100)]),
                partial(uow.claim_parked, NOW),
                partial(uow.lock_parked, 1, 1),
                partial(uow.note_attempt, "shop", TopicPartition("orders", 0), 7),
                partial(uow.note_batch, "shop", {TopicPartition("orders", n): n for n in range(100)}),
                partial(uow.free_lanes),
                partial(uow.repark, 2, error="again", status=ParkedStatus.WAITING, attempts=2, next_at=NOW),
            ]
            for count, call in enumerate(calls, start=1):
                call()
                assert len(statements) == count, call
            uow.unpark(1)
            assert len(statements) == len(calls) + 2, "the message goes, and the next of its lane becomes due"

    def test_what_nobody_waits_for_is_sent_at_the_end(self, store: SqlStore) -> None:
        barrier = {BarrierKey(uuid4(), "pay", 0, Operation.ACTION): BarrierEntry(Outcome.DONE) for _ in range(100)}
        with counted_statements(store) as statements:
            with store.begin() as uow:
                uow.settle_barrier(barrier)
                uow.add_outbox([envelope() for _ in range(100)])
                uow.advance("shop", {TopicPartition("orders", n): n for n in range(100)})
                assert statements == []
            assert len(statements) == 3
        with store.begin() as uow:
            assert uow.read_barrier(barrier.keys()) == barrier

    def test_what_is_kept_for_the_end_goes_before_what_somebody_waits_for(self, store: SqlStore) -> None:
        with store.begin() as uow, counted_statements(store) as statements:
            uow.advance("shop", {PLACE: 1})
            assert uow.session.scalar(select(store.tables.consumer_offset.c.next)) == 1
            uow.advance("shop", {PLACE: 2})
            uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
            assert [("consumer_offset" in statement) for statement in statements] == [True, True, True, False]

    def test_of_the_store(self, store: SqlStore) -> None:
        with counted_statements(store) as statements:
            store.positions("shop", [TopicPartition("orders", n) for n in range(100)])
            store.due_sagas(NOW, 100)
            store.next_due()
            store.unsent([uuid4() for _ in range(100)])
            store.live_versions()
        assert len(statements) == 5


class TestErrors:
    def test_a_database_that_is_not_there(self, private_postgres: PostgresServer) -> None:
        store = create_store(private_postgres.create_database(), Tables(Base.metadata))
        private_postgres.kill()
        with pytest.raises(DatabaseUnavailable), store.begin():
            pass
        with pytest.raises(DatabaseUnavailable):
            store.next_due()
        with pytest.raises(DatabaseUnavailable):
            store.relay_queue().acquire()
        with pytest.raises(DatabaseUnavailable):
            store.check_schema()
        store.close()

    def test_a_connection_that_is_lost_costs_one_batch(self, postgres_store: SqlStore) -> None:
        with pytest.raises(DatabaseUnavailable), postgres_store.begin() as uow:  # noqa: PT012
            pid = uow.session.scalar(text("SELECT pg_backend_pid()"))
            with postgres_store.engine.begin() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            uow.advance("shop", {PLACE: 1})
        with postgres_store.begin() as uow:
            uow.advance("shop", {PLACE: 1})

    def test_a_lock_that_is_not_given_back_in_time_is_a_conflict(self, postgres_url: str, tables: Tables) -> None:
        store = create_store(postgres_url, tables, lock_timeout=0.05)
        with store.engine.begin() as connection:
            connection.execute(text("CREATE TABLE thing (id int)"))
        with store.begin() as uow:
            uow.session.execute(text("LOCK TABLE thing"))
            with pytest.raises(SerializationConflict, match="lock"), store.begin() as other:
                other.session.execute(text("LOCK TABLE thing"))
        store.close()

    def test_i11_a_transaction_that_stands_still_is_ended_by_the_server(
        self, postgres_url: str, tables: Tables
    ) -> None:
        store = create_store(postgres_url, tables, idle_in_transaction_timeout=0.05)
        with store.engine.begin() as connection:
            connection.execute(text("CREATE TABLE thing (id int)"))
        with pytest.raises(DatabaseUnavailable), store.begin() as frozen:  # noqa: PT012
            frozen.session.execute(text("LOCK TABLE thing"))
            with store.begin() as successor:
                successor.session.execute(text("LOCK TABLE thing"))
            frozen.session.execute(text("SELECT 1"))
        store.close()

    def test_a_busy_sqlite_is_a_conflict(self, sqlite_url: str, tables: Tables) -> None:
        store = create_store(sqlite_url, tables, connect_args={"timeout": 0.05})
        with store.begin(), pytest.raises(SerializationConflict, match="locked"), store.begin():
            pass
        store.close()

    def test_a_serialization_failure_is_a_conflict(self, postgres_store: SqlStore) -> None:
        engine = postgres_store.engine.execution_options(isolation_level="REPEATABLE READ")
        store = SqlStore(engine, postgres_store.tables)
        with pytest.raises(SerializationConflict), store.begin() as uow:  # noqa: PT012
            uow.session.execute(text("SELECT 1"))
            with postgres_store.begin() as other:
                other.advance("shop", {PLACE: 1})
            uow.advance("shop", {PLACE: 2})

    def test_another_kind_of_database_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="mysql"):
            create_store("mysql://localhost/x", Outbox())


def commit(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.add_outbox([envelope()])


class TestSqlite:
    def test_commits_survive_a_power_cut(self, sqlite_store: SqlStore) -> None:
        with sqlite_store.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL

    def test_a_database_in_memory_is_one_database(self, tables: Tables) -> None:
        store = create_store("sqlite://", tables)
        upgrade(store.engine, tables)
        queue, other = store.relay_queue(), store.relay_queue()
        assert queue.acquire()
        assert not other.acquire()
        threads = Threads(store)
        threads.start(lambda: commit(store)).result()
        threads.close()
        queue.wait(LONG)  # woken by that commit
        assert len(queue.fetch(0, 10)) == 1
        queue.close()
        assert other.acquire()
        other.close()
        store.close()

    def test_a_users_plain_engine_will_do(self, sqlite_store: SqlStore) -> None:
        engine = create_engine(sqlite_store.engine.url)
        store = SqlStore(engine, outbox)
        with store.begin() as uow:
            uow.session.add(Order(id=1))
            driver = uow.session.connection().connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            assert driver.in_transaction
        with Session(engine) as session:
            assert session.get(Order, 1) is not None
        store.close()
