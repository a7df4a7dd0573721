"""A connection on which a NOTIFY is sent without waiting for its answer."""

import pytest
from sqlalchemy import text

from kafkasaga.stores import SqlStore, wake
from kafkasaga.stores.line import Line
from tests.contract.stores.store_kit import Threads, until


def asked(line: Line, statement: str) -> None:
    """Something else than a NOTIFY, whose answer can be made to come late, or to be a refusal."""
    line._server.send_query(statement.encode())
    line._is_answered = False


def test_while_an_answer_is_waited_for_the_process_goes_on(postgres_store: SqlStore) -> None:
    """Whoever waits with the GIL held waits here in vain: nobody else can let go of the lock."""
    threads, engine = Threads(postgres_store), postgres_store.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(7)"))
        line = Line(connection)
        asked(line, "SELECT pg_advisory_lock(7)")

        def let_go() -> None:
            until(lambda: threads._waiting() == 1)
            other.execute(text("SELECT pg_advisory_unlock(7)"))

        over = threads.start(let_go)
        assert line.settle()
        over.result()
        assert connection.scalar(text("SELECT pg_advisory_unlock(7)")), "it had got it"
    threads.close()


@pytest.mark.parametrize("settled", [False, True])
def test_i10_a_refusal_is_said(postgres_store: SqlStore, caplog: pytest.LogCaptureFixture, *, settled: bool) -> None:
    engine = postgres_store.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        line = Line(connection)
        asked(line, "SELECT 1 / 0")
        if settled:
            assert line.settle()
        else:
            until(lambda: line.send("kafkasaga_test"))
            assert line.settle()
    assert "the relay was not woken, and will look by itself: " in caplog.text
    assert "division by zero" in caplog.text


def test_one_that_was_lost_since_it_was_used_ends_like_any_other(postgres_store: SqlStore) -> None:
    engine = postgres_store.engine
    wake.wake(engine, postgres_store.tables)
    notifier = wake.notifier(engine)
    until(lambda: notifier._line is not None)
    thread = notifier._thread
    assert thread is not None
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as other:
        other.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))
        until(lambda: other.scalar(text(f"SELECT count(*) {others}")) == 0)
    wake.wake(engine, postgres_store.tables)  # nobody answers
    wake.close(engine)
    assert not thread.is_alive()
