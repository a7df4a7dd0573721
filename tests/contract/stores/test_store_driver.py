"""Statements that go to psycopg past SQLAlchemy: what must not differ from those that go through it."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError

from kafkasaga.errors import DatabaseUnavailable, SerializationConflict
from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierEntry, BarrierKey, InboxKey, Outcome, TopicPartition
from kafkasaga.stores import SqlStore, Tables
from kafkasaga.stores.migrations import upgrade
from tests.contract.stores.store_kit import until
from tests.contract.stores.test_store_relay_queue import envelope

PLACE = TopicPartition("orders", 0)
ALL_BUT_ASCII = "Grüße, 'ñ' \"\\{}\n"


def engine_of(url: str, **options: Any) -> Engine:
    """A user's own engine."""
    return create_engine(make_url(url).set(drivername="postgresql+psycopg"), **options)


@pytest.fixture
def urls(postgres_url: str, tables: Tables) -> str:
    engine = engine_of(postgres_url)
    upgrade(engine, tables)
    engine.dispose()
    return postgres_url


def handle(store: SqlStore, source: str) -> None:
    """What a batch does, in short."""
    step = BarrierKey(uuid4(), source, 0, Operation.ACTION)
    key = InboxKey("billing", source, uuid4())
    entry = BarrierEntry(Outcome.DONE, "replies", source, source.encode(), source)
    for new in ({key}, set[InboxKey]()):
        with store.begin() as uow:
            uow.look_ahead({step})
            assert uow.claim_inbox([key]) == new
            assert uow.read_barrier([step]) == ({} if new else {step: entry})
            if new:
                uow.settle_barrier({step: entry})


@pytest.mark.parametrize("encoding", ["utf8", "latin1"])
def test_texts_are_kept_whatever_encoding_a_users_engine_speaks(urls: str, tables: Tables, encoding: str) -> None:
    store = SqlStore(engine_of(urls, client_encoding=encoding), tables)
    for _ in range(12):  # also when they are prepared, and their plans kept
        handle(store, ALL_BUT_ASCII)
    store.close()


def test_plans_of_what_reads_queue_tables_are_not_kept(postgres_store: SqlStore) -> None:
    with postgres_store.begin() as uow:
        uow.look_ahead(set())
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        assert uow.session.scalar(text("SHOW plan_cache_mode")) == "auto"
    with postgres_store.begin() as uow:
        assert uow.session.scalar(text("SHOW plan_cache_mode")) == "force_custom_plan", "outside of a batch"


def test_a_transaction_has_the_isolation_of_its_engine(postgres_store: SqlStore) -> None:
    name = postgres_store.engine.url.database
    with postgres_store.engine.begin() as connection:
        connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable'))
    postgres_store.engine.dispose()
    with postgres_store.begin() as uow:
        assert uow.session.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_i01_nothing_is_committed_before_its_end(postgres_store: SqlStore) -> None:
    with postgres_store.begin() as uow:
        uow.advance("shop", {PLACE: 1})
        assert uow.session.scalar(text("SELECT 1")) == 1  # sends what was kept for the end
        assert postgres_store.positions("shop", [PLACE]) == {}
    assert postgres_store.positions("shop", [PLACE]) == {PLACE: 1}


def test_i01_what_was_rolled_back_inside_is_not_committed_in_part(postgres_store: SqlStore) -> None:
    """The last statements travel with COMMIT: it must not be sent when what came before them is gone."""
    with pytest.raises(InvalidRequestError), postgres_store.begin() as uow:  # noqa: PT012
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        transaction = uow.session.connection().get_transaction()
        assert transaction is not None
        transaction.rollback()
        uow.advance("shop", {PLACE: 1})
    assert postgres_store.positions("shop", [PLACE]) == {}


def test_i11_a_transaction_that_failed_is_not_left_open(urls: str, tables: Tables) -> None:
    """Also where SQLAlchemy was told that a connection in autocommit mode needs no ROLLBACK."""
    engine = engine_of(urls, pool_size=1, max_overflow=0, skip_autocommit_rollback=True)
    store = SqlStore(engine, tables)
    with pytest.raises(ZeroDivisionError), store.begin() as uow:  # noqa: PT012
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        raise ZeroDivisionError
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM inbox")) == 0
        driver = connection.connection.driver_connection
        assert driver is not None
        assert not driver.autocommit
    store.close()


def test_a_constraint_that_is_checked_at_commit_is_the_users_error(postgres_store: SqlStore) -> None:
    with postgres_store.engine.begin() as connection:
        connection.execute(text("CREATE TABLE barriers (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    with pytest.raises(IntegrityError), postgres_store.begin() as uow:  # noqa: PT012
        uow.session.execute(text("INSERT INTO barriers VALUES (1), (1)"))
        uow.advance("shop", {PLACE: 1})
    assert postgres_store.positions("shop", [PLACE]) == {}


def test_a_lock_that_does_not_come_is_a_conflict(postgres_store: SqlStore) -> None:
    key = InboxKey("billing", "shop", uuid4())
    with postgres_store.begin() as first:
        first.claim_inbox([key])
        with pytest.raises(SerializationConflict), postgres_store.begin() as second:  # noqa: PT012
            second.session.execute(text("SET LOCAL lock_timeout = 10"))
            second.look_ahead(set())
            second.claim_inbox([key])
    with postgres_store.begin() as third:
        assert third.claim_inbox([key]) == set()


@pytest.mark.parametrize("ahead", [True, False])
def test_a_connection_that_was_cut_is_a_database_that_is_away(postgres_store: SqlStore, ahead: bool) -> None:
    cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with pytest.raises(DatabaseUnavailable), postgres_store.begin() as uow:  # noqa: PT012
        uow.session.execute(text("SELECT 1"))
        other = create_engine(postgres_store.engine.url)
        with other.connect() as connection:
            connection.execute(cut)
        other.dispose()
        if ahead:
            uow.look_ahead(set())
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
    with postgres_store.begin() as uow:
        assert uow.claim_inbox([InboxKey("billing", "shop", uuid4())]), "it is there again at once"


@pytest.mark.parametrize("size", [2, 32_000_000], ids=["little", "more than fits into the socket"])
def test_while_the_database_commits_something_else_is_done(postgres_store: SqlStore, size: int) -> None:
    seen: list[dict[TopicPartition, int]] = []

    def work() -> None:
        until(lambda: postgres_store.positions("shop", [PLACE]))  # nobody has asked yet whether it is committed
        seen.append(postgres_store.positions("shop", [PLACE]))

    with postgres_store.begin() as uow:
        uow.meanwhile(work)
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        uow.advance("shop", {PLACE: 1})
        uow.add_outbox([envelope(payload=bytes(size))])
        assert seen == []
    assert seen == [{PLACE: 1}]


def test_what_fails_at_the_end_fails_whatever_was_done_meanwhile(postgres_store: SqlStore) -> None:
    """Whether there was time for it depends on how soon PostgreSQL answers."""
    step = BarrierKey(uuid4(), "pay", 0, Operation.ACTION)
    with postgres_store.begin() as uow:
        uow.settle_barrier({step: BarrierEntry(Outcome.DONE)})
    with pytest.raises(SerializationConflict), postgres_store.begin() as uow:  # noqa: PT012
        uow.meanwhile(lambda: None)
        uow.advance("shop", {PLACE: 1})
        uow.settle_barrier({step: BarrierEntry(Outcome.DONE)})
    assert postgres_store.positions("shop", [PLACE]) == {}
