"""The relay's end of the outbox (invariants I2, I4, I11)."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from random import Random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, delete, text
from sqlalchemy.orm import Session

from kafkasaga.errors import DatabaseUnavailable
from kafkasaga.messages import Envelope, write_headers
from kafkasaga.ports import OutboxRow, Page, RelayQueue, Skip
from kafkasaga.stores import SqlStore, create_store, wake
from kafkasaga.stores.relay_postgresql import PostgresqlRelayQueue
from kafkasaga.stores.relay_sqlite import SqliteRelayQueue
from kafkasaga.stores.store import FEW, GIVES_WAY
from tests.contract.stores.store_kit import Threads, counted_statements, until

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LONG = 60.0  # seconds; a wait that ends by itself after this long has failed


def envelope(topic: str = "orders", key: str = "1", payload: bytes | None = b"{}") -> Envelope:
    return Envelope(topic, key, uuid4(), "shop", "order.created", NOW, payload)


def publish(store: SqlStore, *envelopes: Envelope) -> list[UUID]:
    with store.begin() as uow:
        uow.add_outbox(envelopes)
    return [envelope.id for envelope in envelopes]


@pytest.fixture
def queue(store: SqlStore) -> Iterator[RelayQueue]:
    queue = store.relay_queue()
    assert queue.acquire()
    yield queue
    queue.close()


def ids(queue: RelayQueue, after: int = 0, limit: int = 100) -> list[UUID]:
    return [row.message_id for row in queue.fetch(after, limit)]


class TestRows:
    def test_rows_come_as_they_were_added_and_in_order(self, store: SqlStore, queue: RelayQueue) -> None:
        sent = [envelope(key=f"ü{n}", payload=None if n % 2 else bytes([n])) for n in range(50)]
        publish(store, *sent)
        rows = queue.fetch(0, 100)
        assert [row.message_id for row in rows] == [message.id for message in sent]
        assert [(row.topic, row.key, row.payload) for row in rows] == [(m.topic, m.key, m.payload) for m in sent]
        assert rows[0].headers == write_headers(sent[0])
        assert [row.position for row in rows] == sorted(row.position for row in rows)

    def test_positions_are_in_order_wherever_the_rows_lie(self, store: SqlStore, queue: RelayQueue) -> None:
        with store.engine.begin() as connection:
            for position in (5, 3, 9, 1):
                row = {"id": position, "message_id": uuid4(), "topic": "t", "key": "k", "created_at": NOW}
                connection.execute(store.tables.outbox.insert().values(**row, headers="{}"))
        assert [row.position for row in queue.fetch(1, 10)] == [3, 5, 9]

    def test_fetching_goes_on_behind_a_position(self, store: SqlStore, queue: RelayQueue) -> None:
        sent = publish(store, *[envelope() for _ in range(5)])
        first = queue.fetch(0, 2)
        assert [row.message_id for row in first] == sent[:2]
        assert ids(queue, after=first[-1].position) == sent[2:]

    def test_deleted_rows_are_gone_and_the_store_knows_what_is_unsent(self, store: SqlStore, queue: RelayQueue) -> None:
        sent = publish(store, *[envelope() for _ in range(3)])
        with counted_statements(store) as statements:
            queue.delete(queue.fetch(0, 2))
        assert len(statements) == 2
        assert ids(queue) == sent[2:]
        assert store.unsent([*sent, uuid4()]) == {sent[2]}

    def test_a_delete_reads_the_page_that_is_asked_for(self, store: SqlStore, queue: RelayQueue) -> None:
        sent = publish(store, *[envelope(payload=b"x" * 10) for _ in range(7)])
        rows = queue.fetch(0, 2)
        done: list[str] = []
        with counted_statements(store) as statements:
            found = queue.delete(rows, lambda: done.append("meanwhile"), Page(rows[1].position, 3, None, 1000))
        assert [row.message_id for row in found] == sent[2:5]
        assert done == ["meanwhile"]
        assert len(statements) == 2
        assert queue.delete(rows, lambda: done.append("again"), Page(0, 10, None, 1000)) == queue.fetch(0, 10)
        assert done == ["meanwhile", "again"]
        assert queue.delete([], then=Page(0, 2)) == queue.fetch(0, 2)
        assert ids(queue) == sent[2:]

    def test_i14_large_rows_among_small_ones_are_read_in_order_and_bound_the_page(
        self, store: SqlStore, queue: RelayQueue
    ) -> None:
        """However large they are, and whatever the pages before were like."""
        random = Random(14)
        sizes = [random.choice((0, 1, 10, 50, 51, 99, 100, 101, 1000)) for _ in range(200)]
        payloads = [None if size == 0 else b"x" * size for size in sizes]
        sent = publish(store, *[envelope(payload=payload) for payload in payloads])
        after, read = 0, list[OutboxRow]()
        for _ in range(200):
            limit, size = random.choice(((4, 200), (50, 5000), (10, 100), (3, 2)))
            rows = queue.fetch(after, limit, None, size)
            if not rows:
                break
            assert len(rows) <= limit
            assert sum(row.size for row in rows[:-1]) < size
            assert len(rows) == limit or sum(row.size for row in rows) >= size or rows[-1].message_id == sent[-1]
            read += rows
            after = rows[-1].position
        assert [row.message_id for row in read] == sent
        assert [row.payload for row in read] == payloads

    def test_a33_a_position_that_another_message_has_by_now_is_not_deleted(
        self, store: SqlStore, queue: RelayQueue
    ) -> None:
        publish(store, envelope(), envelope())
        before = queue.fetch(0, 10)
        outbox = store.tables.outbox
        with store.engine.begin() as connection:  # as if restored from a backup, and written to since
            connection.execute(delete(outbox))
            for row in before:
                connection.execute(
                    outbox.insert().values(
                        id=row.position, message_id=uuid4(), topic="t", key="k", headers="{}", created_at=NOW
                    )
                )
        queue.delete(before)
        assert len(ids(queue)) == 2

    def test_a_deleted_position_is_not_used_again(self, store: SqlStore, queue: RelayQueue) -> None:
        publish(store, envelope())
        rows = queue.fetch(0, 10)
        queue.delete(rows)
        publish(store, envelope())
        assert queue.fetch(0, 10)[0].position > rows[0].position

    def test_a_page_ends_with_the_row_that_brings_it_to_its_size(self, store: SqlStore, queue: RelayQueue) -> None:
        sent = publish(store, *[envelope(payload=None if n == 1 else b"x" * 10) for n in range(6)])
        for size, expected in {1: 1, 10: 1, 11: 3, 20: 3, 21: 4, 1000: 6}.items():
            assert [row.message_id for row in queue.fetch(0, 100, None, size)] == sent[:expected]
        behind = queue.fetch(0, 1)[0].position
        assert [row.message_id for row in queue.fetch(behind, 100, None, 20)] == sent[1:4]
        assert [row.message_id for row in queue.fetch(behind, 2, None, 1000)] == sent[1:3]

    def test_a10_what_is_held_back_is_not_read(self, store: SqlStore, queue: RelayQueue) -> None:
        places = [("dead", "a"), ("orders", "a"), ("orders", "b"), ("dead", "b"), ("refunds", "a"), ("orders", "ü'\"")]
        sent = dict(zip(places, publish(store, *[envelope(*place) for place in places]), strict=True))

        def read(skip: Skip, limit: int = 100) -> list[UUID]:
            return [row.message_id for row in queue.fetch(0, limit, None, 10_000, skip)]

        assert read(Skip(topics={"dead"}), 2) == [sent["orders", "a"], sent["orders", "b"]]
        assert read(Skip(lanes={("orders", "a"), ("dead", "b"), ("orders", "ü'\"")})) == [
            sent["dead", "a"],
            sent["orders", "b"],
            sent["refunds", "a"],
        ]
        assert read(Skip({"dead", "refunds"}, {("orders", "b")})) == [sent["orders", "a"], sent["orders", "ü'\""]]
        many = {(f"t{n}", f"k{n}") for n in range(200)}
        assert read(Skip({"dead"}, many)) == [id for place, id in sent.items() if place[0] != "dead"]

    def test_i10_a_blocked_row_is_on_record_until_it_is_unblocked(self, store: SqlStore, queue: RelayQueue) -> None:
        publish(store, envelope(key="a"), envelope(key="b"))
        first, second = queue.fetch(0, 10)
        queue.block([(first, "too large\0")])
        queue.block([(first, "still too large"), (second, "no such topic")])
        assert queue.blocked() == {first.message_id: "still too large", second.message_id: "no such topic"}
        queue.unblock([first])
        assert queue.blocked() == {second.message_id: "no such topic"}
        (found,) = store.queries().blocked()
        assert (found.message_id, found.key) == (second.message_id, "b")
        counts = store.queries().counts()
        assert (counts.outbox, counts.blocked, counts.oldest_unsent) == (2, 1, NOW)

    def test_a_blocked_row_that_is_in_the_outbox_no_more_is_forgotten(self, store: SqlStore, queue: RelayQueue) -> None:
        publish(store, envelope(key="a"), envelope(key="b"), envelope(key="c"))
        first, second, third = queue.fetch(0, 10)
        queue.block([(row, "too large") for row in (first, second, third)])
        queue.delete([first, third])
        assert queue.unblock_absent() == {first.message_id, third.message_id}
        assert queue.unblock_absent() == set()
        assert queue.blocked() == {second.message_id: "too large"}


def test_a08_a_lower_position_that_is_committed_later_is_still_fetched(postgres_store: SqlStore) -> None:
    queue = postgres_store.relay_queue()
    assert queue.acquire()
    early, late = envelope(), envelope()
    with postgres_store.begin() as uow:
        uow.add_outbox([early])
        publish(postgres_store, late)
        (row,) = queue.fetch(0, 10)
        assert row.message_id == late.id
    queue.delete([row])
    (row,) = queue.fetch(0, 10)
    assert row.message_id == early.id
    queue.close()


class TestLock:
    def test_one_relay_at_a_time(self, store: SqlStore, queue: RelayQueue) -> None:
        other = store.relay_queue()
        assert not other.acquire()
        assert queue.acquire()
        queue.close()
        until(other.acquire)
        other.close()

    def test_without_the_lock_nothing_can_be_read(self, postgres_store: SqlStore) -> None:
        queue = postgres_store.relay_queue()
        with pytest.raises(DatabaseUnavailable, match="acquire"):
            queue.fetch(0, 1)
        queue.close()

    @pytest.mark.parametrize(
        "notice",
        [
            lambda holder: holder.fetch(0, 1),
            lambda holder: holder.delete([row_of_nothing()]),
            lambda holder: holder.delete([row_of_nothing()], then=Page(0, 1)),
        ],
        ids=["by reading", "by deleting", "by both at once"],
    )
    def test_i11_when_the_holders_connection_dies_another_takes_over(
        self, postgres_store: SqlStore, notice: Callable[[RelayQueue], object]
    ) -> None:
        holder, standby = postgres_store.relay_queue(), postgres_store.relay_queue()
        assert holder.acquire()
        assert not standby.acquire()
        terminate_holder(postgres_store)
        until(standby.acquire)
        with pytest.raises(DatabaseUnavailable):
            notice(holder)
        assert not holder.acquire()
        standby.close()
        until(holder.acquire)
        holder.close()

    def test_i11_a_holder_that_hangs_loses_the_lock_by_the_servers_clock(self, postgres_store: SqlStore) -> None:
        frozen = PostgresqlRelayQueue(postgres_store.engine, postgres_store._sql, idle_session_timeout=0.3)
        standby = postgres_store.relay_queue()
        assert frozen.acquire()
        until(standby.acquire)  # nobody calls `frozen`, as if its process had been stopped
        with pytest.raises(DatabaseUnavailable):
            frozen.acquire()
        assert not frozen.acquire()
        with pytest.raises(DatabaseUnavailable):
            frozen.delete([row_of_nothing()])
        frozen.close()
        standby.close()

    def test_waiting_keeps_the_lock(self, postgres_store: SqlStore) -> None:
        queue = PostgresqlRelayQueue(postgres_store.engine, postgres_store._sql, idle_session_timeout=0.3)
        assert queue.acquire()
        queue.wait(1.0)
        assert queue.fetch(0, 1) == []
        queue.close()

    def test_looking_again_and_again_keeps_the_lock(self, postgres_store: SqlStore) -> None:
        queue = PostgresqlRelayQueue(postgres_store.engine, postgres_store._sql, idle_session_timeout=0.3)
        for _ in range(20):
            assert queue.acquire()
            queue.wait(0.05)
        queue.close()

    def test_a_connection_that_dies_ends_the_wait(self, postgres_store: SqlStore) -> None:
        queue = PostgresqlRelayQueue(postgres_store.engine, postgres_store._sql, idle_session_timeout=LONG * 10)
        assert queue.acquire()
        threads = Threads(postgres_store)
        waiting = threads.start(lambda: queue.wait(LONG))
        terminate_holder(postgres_store)
        with pytest.raises(DatabaseUnavailable):
            waiting.result(timeout=20)
        threads.close()
        queue.close()

    def test_no_transaction_stays_open(self, postgres_store: SqlStore) -> None:
        queue = postgres_store.relay_queue()
        assert queue.acquire()
        publish(postgres_store, envelope())
        queue.delete(queue.fetch(0, 10))
        with postgres_store.engine.connect() as connection:
            query = "SELECT state FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = current_database()"
            states = connection.scalars(text(query)).all()
        assert "idle in transaction" not in states
        queue.close()


class TestWake:
    """A wait that is not ended by what the test does lasts ``LONG``, and ``ended`` gives up before."""

    @pytest.fixture
    def queue(self, queue: RelayQueue) -> RelayQueue:
        """One that has waited before: on SQLite the first wait ends at once, for it has nothing to compare with."""
        for _ in range(2):
            queue.wait(0.01)
        return queue

    @pytest.fixture
    def waiting(self, queue: RelayQueue, threads: Threads) -> Iterator[Future[None]]:
        future = threads.start(lambda: queue.wait(LONG))
        yield future
        queue.wake()

    def test_a_commit_in_this_process_wakes_the_relay(self, store: SqlStore, waiting: Future[None]) -> None:
        assert not waiting.done()
        publish(store, envelope())
        assert ended(waiting)

    def test_wake_ends_the_wait(self, queue: RelayQueue, waiting: Future[None]) -> None:
        assert not waiting.done()
        queue.wake()
        assert ended(waiting)

    def test_a_wake_that_comes_before_the_wait_is_not_lost(
        self, store: SqlStore, queue: RelayQueue, threads: Threads
    ) -> None:
        publish(store, envelope())
        assert ended(threads.start(lambda: queue.wait(LONG)))

    def test_a_wait_ends_with_its_timeout(self, queue: RelayQueue, threads: Threads) -> None:
        assert not woken(queue), "nothing else ends it"
        assert ended(threads.start(lambda: queue.wait(0.01)))

    def test_a_rollback_wakes_nobody(self, store: SqlStore, queue: RelayQueue) -> None:
        with pytest.raises(ZeroDivisionError), store.begin() as uow:  # noqa: PT012
            uow.add_outbox([envelope()])
            raise ZeroDivisionError
        assert not woken(queue)

    def test_a_commit_in_another_process_wakes_the_relay(self, store: SqlStore, waiting: Future[None]) -> None:
        assert not waiting.done()
        in_another_process(store)
        assert ended(waiting)

    def test_a_notification_needs_no_heartbeat_to_be_noticed(self, postgres_store: SqlStore) -> None:
        queue = PostgresqlRelayQueue(postgres_store.engine, postgres_store._sql, idle_session_timeout=LONG * 10)
        assert queue.acquire()
        threads = Threads(postgres_store)
        waiting = threads.start(lambda: queue.wait(LONG))
        in_another_process(postgres_store)
        assert ended(waiting)
        threads.close()
        queue.close()

    def test_a_commit_beside_a_standby_wakes_the_relay_of_another_process(self, postgres_store: SqlStore) -> None:
        """The relay of this process stands by; the active one hears it from the server."""
        standby = postgres_store.relay_queue()
        assert a_commit_notifies(postgres_store)
        standby.close()

    def test_a_process_with_thousands_of_open_files_waits_like_any_other(self, postgres_store: SqlStore) -> None:
        resource = pytest.importorskip("resource")
        if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2048:
            pytest.skip("this process may not open so many files")
        with ExitStack() as stack:
            for _ in range(1024):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            store = create_store(postgres_store.engine.url, postgres_store.tables)
            queue = store.relay_queue()
            assert queue.acquire()
            threads = stack.enter_context(closing(Threads(store)))
            waiting = threads.start(lambda: queue.wait(LONG))
            in_another_process(postgres_store)
            assert ended(waiting)
            waiting.result()
            queue.close()
            store.close()

    def test_a_notification_that_comes_with_the_answer_to_a_statement_ends_the_next_wait(
        self, postgres_store: SqlStore
    ) -> None:
        queue = postgres_store.relay_queue()
        assert isinstance(queue, PostgresqlRelayQueue)
        assert queue.acquire()
        with postgres_store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"NOTIFY {queue._target.channel}")
        until(lambda: not queue.fetch(0, 1, None, 100) and woken(queue))  # nobody looks at the connection but to read
        queue.close()

    def test_who_commits_sends_the_notification_and_waits_for_nobody(self, postgres_store: SqlStore) -> None:
        """Once there is a connection; each commit is told of, also while the last notification is not answered."""
        channel = listening_channel(postgres_store)
        notifier = wake.notifier(postgres_store.engine)
        with postgres_store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
            listener.exec_driver_sql(f"LISTEN {channel}")
            driver = listener.connection.driver_connection
            assert driver is not None

            def heard() -> bool:
                return bool(list(driver.notifies(timeout=20, stop_after=1)))

            publish(postgres_store, envelope())
            assert heard()
            until(lambda: notifier._line is not None)
            line = notifier._line
            assert line is not None
            for _ in range(3):
                until(lambda: line._is_answered or line._hear())  # who listens may hear of it before who sent it
                publish(postgres_store, envelope())
                assert heard()
            assert notifier._line is line, "the thread slept"
            for _ in range(200):
                wake.wake(postgres_store.engine, postgres_store.tables)
            assert heard()
            until(lambda: not list(driver.notifies(timeout=0.2)))
            publish(postgres_store, envelope())
            assert heard()

    def test_a_relay_of_this_process_goes_first_behind_a_lone_message(
        self, store: SqlStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thread that has just committed keeps the interpreter for as long as it may, unless it waits."""
        waited: list[float] = []
        woken: list[None] = []

        def sleep(seconds: float) -> None:
            assert len(woken) > len(waited), "first it is woken"
            waited.append(seconds)

        monkeypatch.setattr("kafkasaga.stores.store.sleep", sleep)
        publish(store, envelope())
        assert waited == [], "the relay is elsewhere"
        queue = store.relay_queue()
        assert queue.acquire()
        monkeypatch.setattr(queue, "wake", lambda: woken.append(None))
        publish(store, *(envelope() for _ in range(FEW)))
        assert waited == [GIVES_WAY]
        with store.begin() as uow:
            uow.add_outbox([envelope() for _ in range(FEW)])
            uow.add_outbox([envelope()])
        assert waited == [GIVES_WAY], "of many messages none is waited for"
        with store.begin():
            pass
        assert waited == [GIVES_WAY], "there is nothing to send"
        queue.close()

    def test_who_has_a_share_here_wakes_those_of_other_processes_too(self, postgres_store: SqlStore) -> None:
        channel = listening_channel(postgres_store)
        here, elsewhere = postgres_store.relay_queues(2)
        with postgres_store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
            listener.exec_driver_sql(f"LISTEN {channel}")
            listener.exec_driver_sql("LISTEN nothing_else")
            driver = listener.connection.driver_connection
            assert driver is not None

            def heard() -> str:
                return str(next(iter(driver.notifies(timeout=20, stop_after=1))).channel)

            assert here.acquire()
            assert not woken(here)
            publish(postgres_store, envelope())
            assert woken(here)
            assert heard() == channel
            until(elsewhere.acquire)  # now all of them are here
            publish(postgres_store, envelope())
            assert woken(elsewhere)
            wake.notifier(postgres_store.engine).notify("nothing_else")
            assert heard() == "nothing_else"
        here.close()
        elsewhere.close()

    def test_relays_of_another_number_do_not_stand_for_a_share_that_is_elsewhere(
        self, postgres_store: SqlStore
    ) -> None:
        """As in a rolling deployment: three relays are here, of four."""
        former, (first, second, third) = postgres_store.relay_queue(), postgres_store.relay_queues(3)
        with ExitStack() as stack:
            for relay in (former, first, second, third):
                stack.callback(relay.close)
            for relay in (former, first, second):
                until(relay.acquire)
            assert a_commit_notifies(postgres_store)

    def test_a_notifier_whose_connection_was_lost_connects_again(self, postgres_store: SqlStore) -> None:
        channel = listening_channel(postgres_store)
        notifier = wake.notifier(postgres_store.engine)
        publish(postgres_store, envelope())
        until(lambda: notifier._line is not None)
        assert notifier._line is not None
        pid = notifier._line._server.backend_pid
        with postgres_store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
            listener.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 10000)")
            listener.exec_driver_sql(f"LISTEN {channel}")
            driver = listener.connection.driver_connection
            assert driver is not None

            def heard() -> bool:  # a wake-up or two are lost with the connection
                publish(postgres_store, envelope())
                return bool(list(driver.notifies(timeout=0.5, stop_after=1)))

            until(heard)

    def test_a_fork_sends_nothing_on_its_parents_connection(self, postgres_store: SqlStore) -> None:
        notifier = wake.notifier(postgres_store.engine)
        publish(postgres_store, envelope())
        until(lambda: notifier._line is not None)
        line = notifier._line
        assert line is not None
        line._process += 1
        assert not line.send("kafkasaga_channel")
        assert not line.settle()

    def test_a_thread_that_cannot_be_started_does_not_spoil_the_commit(
        self, postgres_store: SqlStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        session = Session(postgres_store.engine)
        postgres_store.enlist(session).add_outbox([envelope()])
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            session.commit()
        assert "can't start new thread" in caplog.text
        assert a_commit_notifies(postgres_store)
        session.close()


@pytest.mark.parametrize("then", [None, Page(0, 10)], ids=["alone", "with the next page"])
def test_while_a_relay_waits_for_the_database_the_process_goes_on(postgres_store: SqlStore, then: Page | None) -> None:
    """Whoever waits with the GIL held waits here for ever: nobody else could end the other transaction."""
    threads, queue = Threads(postgres_store), postgres_store.relay_queue()
    assert queue.acquire()
    publish(postgres_store, envelope(), envelope(key="2"))
    rows = queue.fetch(0, 10)
    with postgres_store.engine.connect() as other:
        other.execute(text("SELECT 1 FROM outbox FOR UPDATE"))

        def let_go() -> None:
            until(lambda: threads._waiting() == 1)
            other.rollback()

        over = threads.start(let_go)
        assert queue.delete(rows[:1], then=then) == ([] if then is None else rows[1:])
        over.result()
    assert queue.fetch(0, 10) == rows[1:]
    queue.close()
    threads.close()


def test_plans_are_kept_of_what_a_lone_row_takes_and_of_nothing_else(postgres_store: SqlStore) -> None:
    """A kept plan for a list of rows would compare each with each, and one with sums would read the whole backlog."""
    queue = postgres_store.relay_queue()
    assert isinstance(queue, PostgresqlRelayQueue)
    assert queue.acquire()
    publish(postgres_store, *[envelope() for _ in range(12)])
    for _ in range(2):
        queue.delete(queue.fetch(0, 1, None, 1000), then=Page(0, 2, None, 1000))
        queue.delete(queue.fetch(0, 2, None, 1000))
        queue.fetch(0, 2)
        queue.fetch(0, 2, None, 1000, Skip(frozenset({"returns"})))
    assert queue._connection is not None
    query = """SELECT split_part(statement, ' ', 1), statement LIKE '%%sum(%%', generic_plans + custom_plans
    FROM pg_prepared_statements WHERE name LIKE 'kafkasaga%%' ORDER BY 1"""
    assert queue._connection.exec_driver_sql(query).all() == [("DELETE", False, 2), ("SELECT", False, 6)]
    queue.close()


def ended(waiting: Future[None]) -> bool:
    """Whether it ends well before ``LONG``."""
    return not wait([waiting], timeout=LONG / 3).not_done


def a_commit_notifies(store: SqlStore) -> bool:
    """Whether PostgreSQL tells other processes of a commit of this one."""
    channel = listening_channel(store)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
        listener.exec_driver_sql(f"LISTEN {channel}")
        publish(store, envelope())
        driver = listener.connection.driver_connection
        assert driver is not None
        return [note.channel for note in driver.notifies(timeout=20, stop_after=1)] == [channel]


def woken(queue: RelayQueue) -> bool:
    """Whether a wait would end at once."""
    if isinstance(queue, SqliteRelayQueue):
        return queue._event.is_set()
    assert isinstance(queue, PostgresqlRelayQueue)
    return queue._woken()


def in_another_process(store: SqlStore) -> None:
    """Publish a message from a process of its own."""
    script = """
import sys
from sqlalchemy import MetaData
from kafkasaga.stores import Tables, create_store
from tests.contract.stores.test_store_relay_queue import envelope, publish
store = create_store(sys.argv[1], Tables(MetaData()))
publish(store, envelope())
store.close()
"""
    url = store.engine.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", script, url], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def listening_channel(store: SqlStore) -> str:
    queue = store.relay_queue()
    assert isinstance(queue, PostgresqlRelayQueue)
    channel = queue._target.channel
    queue.close()
    return channel


def terminate_holder(store: SqlStore) -> None:
    """Have the server end the connection that holds the advisory lock."""
    query = """SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    connection: Connection
    with store.engine.begin() as connection:
        assert connection.scalars(text(query)).all() == [True]


def row_of_nothing() -> OutboxRow:
    return OutboxRow(1, uuid4().bytes, "t", "k", None, "{}")


def test_a_url_without_a_driver_works(postgres_store: SqlStore) -> None:
    url = postgres_store.engine.url.set(drivername="postgresql")
    store = create_store(url, postgres_store.tables)
    store.check_schema()
    store.close()


def test_what_another_process_commits_between_two_waits_is_not_missed(store: SqlStore, threads: Threads) -> None:
    queue = store.relay_queue()
    assert queue.acquire()
    queue.wait(0.01)
    queue.wait(0.01)
    in_another_process(store)
    assert ended(threads.start(lambda: queue.wait(LONG)))
    assert len(ids(queue)) == 1
    queue.close()
