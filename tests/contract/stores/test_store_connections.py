"""Connections between two units of work: those of the library's own engine stay ready, a user's go back to his pool."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, QueuePool, create_engine, text
from sqlalchemy.exc import ResourceClosedError

from kafkasaga.errors import DatabaseUnavailable
from kafkasaga.ports import InboxKey, TopicPartition
from kafkasaga.stores import SqlStore, create_store
from kafkasaga.stores.unit_of_work import SqlUnitOfWork

PLACE = TopicPartition("orders", 0)
SESSION = text("SELECT pg_backend_pid()")


def out_of_the_pool(engine: Engine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


def work(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.advance("shop", {PLACE: 7})


@pytest.fixture
def others(postgres_store: SqlStore) -> Iterator[Engine]:
    engine = create_engine(postgres_store.engine.url)
    yield engine
    engine.dispose()


def test_as_many_are_kept_as_were_needed_at_once(postgres_store: SqlStore) -> None:
    for _ in range(3):
        work(postgres_store)
    assert out_of_the_pool(postgres_store.engine) == 1
    with postgres_store.begin(), postgres_store.begin():
        assert out_of_the_pool(postgres_store.engine) == 2
    assert out_of_the_pool(postgres_store.engine) == 2
    postgres_store.close()
    work(postgres_store)
    assert out_of_the_pool(postgres_store.engine) == 0, "who closed the store wants none to be left"


def test_a_users_engine_gets_its_own_back(postgres_store: SqlStore, others: Engine) -> None:
    work(SqlStore(others, postgres_store.tables))
    assert out_of_the_pool(others) == 0


def test_what_a_handler_does_to_its_connection_ends_with_its_unit(postgres_store: SqlStore) -> None:
    work(postgres_store)
    with postgres_store.begin() as uow:
        kept = uow.session.connection(execution_options={"schema_translate_map": {None: "elsewhere"}})
    assert out_of_the_pool(postgres_store.engine) == 0
    with postgres_store.begin() as uow:
        assert "schema_translate_map" not in uow.session.connection().get_execution_options()
        with pytest.raises(ResourceClosedError):
            kept.scalar(SESSION)


def test_a_unit_that_ended_inside_a_trip_leaves_nothing(postgres_store: SqlStore) -> None:
    work(postgres_store)
    with postgres_store.begin() as uow:
        uow.look_ahead((), hands_over=False)
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        driver: Any = uow._unbegun.connection.driver_connection
        uow.end = lambda: (driver.pgconn.enter_pipeline_mode(), SqlUnitOfWork.end(uow))  # type: ignore[assignment, func-returns-value, method-assign]
    work(postgres_store)
    assert out_of_the_pool(postgres_store.engine) == 1


@pytest.mark.parametrize("options", [{"pool_size": 1, "max_overflow": 0}, {"pool_pre_ping": True}], ids=str)
def test_who_says_something_about_the_pool_gets_all_back(postgres_store: SqlStore, options: dict[str, Any]) -> None:
    store = create_store(postgres_store.engine.url, postgres_store.tables, **options)
    work(store)
    assert store.positions("shop", [PLACE]) == {PLACE: 7}
    assert out_of_the_pool(store.engine) == 0
    store.close()


def test_nothing_of_a_unit_that_failed_is_left_for_the_next_one(postgres_store: SqlStore) -> None:
    work(postgres_store)
    with pytest.raises(ZeroDivisionError), postgres_store.begin() as uow:  # noqa: PT012
        uow.rewind("shop", {PLACE: 1})
        _ = 1 / 0
    assert out_of_the_pool(postgres_store.engine) == 0
    assert postgres_store.positions("shop", [PLACE]) == {PLACE: 7}


def test_what_is_lost_together_is_noticed_once(postgres_store: SqlStore, others: Engine) -> None:
    with ExitStack() as at_once:
        units = [at_once.enter_context(postgres_store.begin()) for _ in range(3)]
        sessions = [unit._unbegun.scalar(SESSION) for unit in units]
    assert out_of_the_pool(postgres_store.engine) == 3
    with others.connect() as connection:
        for session in sessions:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": session})
    with pytest.raises(DatabaseUnavailable):
        work(postgres_store)
    for _ in range(4):
        work(postgres_store)
    assert out_of_the_pool(postgres_store.engine) == 1
