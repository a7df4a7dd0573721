"""Statements that travel together: what PostgreSQL, psycopg and SQLAlchemy make of a connection afterwards."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import create_engine, text

from kafkasaga.errors import SerializationConflict
from kafkasaga.ports import InboxKey
from kafkasaga.stores import SqlStore
from kafkasaga.stores.trips import Trips
from tests.contract.stores.store_kit import until
from tests.contract.stores.test_store_driver import PLACE

ADD = b"INSERT INTO t SELECT unnest($1::int[]) RETURNING n"
ONE = bytes.fromhex("00000001 00000000 00000017 00000001 00000001 00000004 00000001")
"""The array {1}, as PostgreSQL sends it."""
DROP_BY_NAME = """DO $$ DECLARE one text; BEGIN
    FOR one IN SELECT name FROM pg_prepared_statements LOOP EXECUTE 'DEALLOCATE ' || quote_ident(one); END LOOP;
END $$"""


def connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True)


@pytest.fixture
def driver(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(postgres_url) as connection:
        connection.execute("CREATE TABLE t (n int)")
        yield connection


def prepared(driver: psycopg.Connection[Any]) -> int:
    row = driver.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone()
    assert row is not None
    return int(row[0])


def test_answers_belong_to_their_statements(driver: psycopg.Connection[Any]) -> None:
    trips = Trips(driver)
    with trips.together():
        first, second = trips.send(b"SELECT 1::int"), trips.send(ADD, [ONE], prepare=True)
        third = trips.send(b"SELECT 'three'::text, n FROM t")
    assert (first.rows(), second.rows(), second.count(), third.rows()) == ([(1,)], [(1,)], 1, [("three", 1)])


def test_who_asks_for_an_answer_does_not_wait_for_the_end_of_the_block(driver: psycopg.Connection[Any]) -> None:
    trips = Trips(driver)
    with trips.together():
        assert trips.send(b"SELECT 1::int").rows() == [(1,)]
        assert trips.send(b"SELECT 2::int").rows() == [(2,)]


def test_behind_a_statement_that_failed_none_is_executed(driver: psycopg.Connection[Any]) -> None:
    trips = Trips(driver)
    with pytest.raises(psycopg.errors.DivisionByZero), trips.together():  # noqa: PT012
        trips.send(b"SELECT 1 / 0")
        trips.send(ADD, [ONE], prepare=True)
    assert not trips.interrupted
    assert driver.execute("SELECT * FROM t").fetchall() == []
    assert trips.send(ADD, [ONE], prepare=True).count() == 1, "it is prepared now"


def test_what_was_sent_before_somebody_raised_is_over(driver: psycopg.Connection[Any]) -> None:
    trips = Trips(driver)
    with pytest.raises(ZeroDivisionError), trips.together():  # noqa: PT012
        trips.send(ADD, [ONE])
        raise ZeroDivisionError
    assert not trips.interrupted
    assert driver.execute("SELECT 1").fetchone() == (1,)


def test_a_statement_is_prepared_once(driver: psycopg.Connection[Any]) -> None:
    trips = Trips(driver)
    with trips.together():
        for _ in range(3):
            trips.send(ADD, [ONE], prepare=True)
    trips.send(ADD, [ONE], prepare=True)
    assert (prepared(driver), driver.execute("SELECT count(*) FROM t").fetchone()) == (1, (4,))


def test_nothing_is_prepared_where_psycopg_prepares_nothing(driver: psycopg.Connection[Any]) -> None:
    """As behind a pooler, which may give the next statement to another connection."""
    driver.prepare_threshold = None
    trips = Trips(driver)
    assert trips.send(ADD, [ONE], prepare=True).count() == 1
    assert prepared(driver) == 0


def test_nothing_is_prepared_where_psycopgs_cache_of_names_is_not_found(
    driver: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would hear of what psycopg drops."""
    with monkeypatch.context() as another_psycopg:
        another_psycopg.delattr(driver, "_prepared")
        trips = Trips(driver)
    for _ in range(2):
        assert trips.send(ADD, [ONE], prepare=True).count() == 1
    assert prepared(driver) == 0


@pytest.mark.parametrize("how", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_a_statement_that_somebody_dropped_is_prepared_again(driver: psycopg.Connection[Any], how: str) -> None:
    trips = Trips(driver)
    trips.send(ADD, [ONE], prepare=True)
    driver.execute(how)
    assert trips.send(ADD, [ONE], prepare=True).count() == 1
    assert prepared(driver) == 1


def test_one_that_was_dropped_unnoticed_is_prepared_again_after_its_error(driver: psycopg.Connection[Any]) -> None:
    trips = Trips(driver)
    trips.send(ADD, [ONE], prepare=True)
    driver.execute(DROP_BY_NAME)
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        trips.send(ADD, [ONE], prepare=True)
    assert trips.send(ADD, [ONE], prepare=True).count() == 1


@pytest.mark.parametrize("savepoint", [False, True])
def test_what_psycopg_drops_after_a_rollback_is_prepared_again(
    driver: psycopg.Connection[Any], *, savepoint: bool
) -> None:
    """It drops whatever is prepared as soon as it has prepared something itself."""
    driver.autocommit = False
    trips = Trips(driver)
    for _ in range(3):
        trips.send(ADD, [ONE], prepare=True)
        for _ in range(7):
            driver.execute("SELECT 42")
        if savepoint:
            driver.execute("SAVEPOINT s")
            driver.execute("ROLLBACK TO SAVEPOINT s")
            assert trips.send(ADD, [ONE], prepare=True).count() == 1
        driver.rollback()
        assert trips.send(ADD, [ONE], prepare=True).count() == 1
    driver.rollback()


def test_inside_a_pipeline_of_psycopgs_the_remedy_is_said(driver: psycopg.Connection[Any]) -> None:
    trips = Trips(driver)
    with driver.pipeline(), pytest.raises(psycopg.ProgrammingError, match="a pipeline is under way"):
        trips.send(ADD, [ONE])
    assert trips.send(ADD, [ONE]).count() == 1


def test_outside_of_autocommit_a_transaction_begins_as_psycopg_begins_it(driver: psycopg.Connection[Any]) -> None:
    driver.autocommit = False
    driver.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    driver.deferrable, driver.read_only = False, False
    trips = Trips(driver)
    assert trips.send(b"SHOW transaction_isolation").rows() == [("repeatable read",)]
    trips.send(ADD, [ONE])
    assert driver.info.transaction_status == TransactionStatus.INTRANS
    driver.rollback()
    driver.read_only = True
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        trips.send(ADD, [ONE])
    driver.rollback()
    assert driver.execute("SELECT * FROM t").fetchall() == []


def test_more_than_fits_into_the_socket_goes_both_ways(driver: psycopg.Connection[Any]) -> None:
    trips, much = Trips(driver), b"x" * 8_000_000
    with trips.together():
        replies = [trips.send(b"SELECT $1::bytea", [much]) for _ in range(4)]
    assert [reply.rows() for reply in replies] == [[(much,)]] * 4
    assert trips.send(b"SELECT length($1::bytea)", [much * 8]).rows() == [(64_000_000,)], "also alone"


def test_blocks_within_a_block_end_with_it(driver: psycopg.Connection[Any]) -> None:
    trips = Trips(driver)
    with pytest.raises(psycopg.errors.DivisionByZero), trips.together():  # noqa: PT012
        with trips.together():
            trips.send(ADD, [ONE])
        trips.send(b"SELECT 1 / 0")
    assert driver.execute("SELECT * FROM t").fetchall() == [], "one trip is one transaction"
    assert trips.send(ADD, [ONE]).count() == 1, "no block is open any more"
    assert driver.execute("SELECT * FROM t").fetchall() == [(1,)]


@pytest.fixture
def _ctrl_c_raises() -> Iterator[None]:
    """A service that ran in this process has left its own answer to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_raises")
@pytest.mark.parametrize("alone", [True, False])
def test_ctrl_c_ends_the_wait_for_an_answer(driver: psycopg.Connection[Any], postgres_url: str, *, alone: bool) -> None:
    trips, main = Trips(driver), threading.get_ident()
    driver.execute("SET lock_timeout = '30s'")  # who waits inside of libpq hears of nothing else
    with connect(postgres_url) as other, ThreadPoolExecutor() as threads:

        def is_waited_for() -> bool:
            return other.execute("SELECT FROM pg_locks WHERE NOT granted").fetchone() is not None

        def interrupt() -> None:
            until(is_waited_for)
            signal.pthread_kill(main, signal.SIGINT)
            until(lambda: not is_waited_for())

        other.execute("SELECT pg_advisory_lock(7)")
        over = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt), nullcontext() if alone else trips.together():
            trips.send(b"SELECT pg_advisory_lock(7)")
        over.result()
    assert trips.interrupted is not alone
    if alone:
        assert trips.send(b"SELECT 1::int").rows() == [(1,)]


def test_a_batch_that_meets_a_dropped_statement_is_only_run_again(postgres_store: SqlStore) -> None:
    for offset in (1, 2):
        with postgres_store.begin() as uow:
            uow.advance("shop", {PLACE: offset})
    with postgres_store.begin() as uow:
        uow.session.execute(text(DROP_BY_NAME))
    with pytest.raises(SerializationConflict), postgres_store.begin() as uow:
        uow.advance("shop", {PLACE: 3})
    with postgres_store.begin() as uow:
        uow.advance("shop", {PLACE: 3})
    assert postgres_store.positions("shop", [PLACE]) == {PLACE: 3}


def test_a_trip_that_was_interrupted_costs_its_connection(postgres_store: SqlStore) -> None:
    """What of it was done nobody knows, so nothing may follow on that connection."""

    class Interrupted(BaseException): ...

    def interrupt() -> None:
        raise Interrupted

    with pytest.raises(Interrupted), postgres_store.begin() as uow:  # noqa: PT012
        uow.meanwhile(interrupt)
        uow.advance("shop", {PLACE: 1})
    with postgres_store.begin() as uow:
        uow.advance("shop", {PLACE: 2})
    assert postgres_store.positions("shop", [PLACE]) == {PLACE: 2}


@pytest.mark.parametrize("skip_rollback", [False, True])
@pytest.mark.parametrize("statement", ["BEGIN", "a prepared one"])
def test_a_lone_statement_that_was_interrupted_before_the_wait_costs_its_connection(
    postgres_store: SqlStore, monkeypatch: pytest.MonkeyPatch, statement: str, *, skip_rollback: bool
) -> None:
    """Nothing else is raised than what interrupted it, and the pool's only place is free again."""
    options = {"skip_autocommit_rollback": True} if skip_rollback else {}
    engine = create_engine(postgres_store.engine.url, pool_size=1, max_overflow=0, pool_timeout=0, **options)
    store = SqlStore(engine, postgres_store.tables)
    wait = psycopg.Connection.wait

    def interrupted_before(connection: psycopg.Connection[Any], *args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised, store.begin() as uow:  # noqa: PT012
        if statement == "a prepared one":
            uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        monkeypatch.setattr(psycopg.Connection, "wait", interrupted_before)
        try:
            uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        finally:
            monkeypatch.setattr(psycopg.Connection, "wait", wait)
    assert raised.value.__context__ is None
    with store.begin() as uow:
        assert uow.claim_inbox([key := InboxKey("billing", "shop", uuid4())]) == {key}
    store.close()


def test_a_block_that_was_interrupted_before_its_end_costs_its_connection(driver: psycopg.Connection[Any]) -> None:
    """What is sent would wait for the end of that block."""
    trips = Trips(driver)
    with trips.together():
        inside = trips.interrupted
    assert (inside, trips.interrupted) == (True, False)
