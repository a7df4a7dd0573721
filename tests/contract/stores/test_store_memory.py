"""The store in memory keeps the contract of the SQL stores: their suites run against it, less what is about SQL."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from kafkasaga.errors import DatabaseUnavailable, SerializationConflict
from kafkasaga.testing.memory import MemoryRelayQueue, MemoryStore
from tests.contract.stores import (
    test_store_claims,
    test_store_parked,
    test_store_parked_commands,
    test_store_relay_queue,
    test_store_retention,
    test_store_sagas,
    test_store_turns,
)
from tests.contract.stores.store_kit import Threads, until

SUITES: tuple[ModuleType, ...] = (
    test_store_claims,
    test_store_parked,
    test_store_parked_commands,
    test_store_relay_queue,
    test_store_retention,
    test_store_sagas,
    test_store_turns,
)
# They count statements, ask the operator's queries, write rows by SQL, or try what only PostgreSQL or its text can do.
ABOUT_SQL = {
    "TestStatementCounts",
    "TestQueries",
    "TestWake",
    "TestActs",
    "test_two_that_ask_for_what_was_done_do_not_wait_for_each_other",
    "test_a02_what_is_forgotten_while_it_is_read_is_written_like_any_other",
    "test_after_a_known_key_there_is_hope_again",
    "test_i01_what_was_done_before_the_claim_is_kept",
    "test_who_would_see_nothing_of_the_others_does_not_wait_for_them",
    "test_a_name_may_have_an_apostrophe",
    "test_positions_are_in_order_wherever_the_rows_lie",
    "test_i11_when_the_holders_connection_dies_another_takes_over",
    "test_i11_a_holder_that_hangs_loses_the_lock_by_the_servers_clock",
    "test_waiting_keeps_the_lock",
    "test_looking_again_and_again_keeps_the_lock",
    "test_a_connection_that_dies_ends_the_wait",
    "test_no_transaction_stays_open",
    "test_a_url_without_a_driver_works",
    "test_more_rows_than_a_statement_has_parameters",
    "test_a_parked_message_comes_back_as_it_was",
    "test_lanes_in_which_something_is_parked_are_known",
    "test_deleted_rows_are_gone_and_the_store_knows_what_is_unsent",
    "test_a33_a_position_that_another_message_has_by_now_is_not_deleted",
    "test_i10_a_blocked_row_is_on_record_until_it_is_unblocked",
    "test_without_the_lock_nothing_can_be_read",
    "test_i6_a_saga_is_started_once",
    "test_when_it_ended_stays_what_it_was",
    "test_parked_messages_are_found_by_an_index",
    "test_a_later_wish_leaves_the_timer_and_costs_nothing",
    "test_what_another_process_commits_between_two_waits_is_not_missed",
    "test_a_delete_reads_the_page_that_is_asked_for",
    "test_while_a_relay_waits_for_the_database_the_process_goes_on",
    "test_plans_are_kept_of_what_a_lone_row_takes_and_of_nothing_else",
}


class _Threads(Threads):
    """Who waits is seen in the store's own locks."""

    def start_and_block(self, work: Any, *, waiting: int = 1) -> Any:
        store: Any = self._store
        future = self.start(work)
        until(lambda: future.done() or store.waiting == waiting)
        assert not future.done(), "it did not wait"
        return future


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def postgres_store(store: MemoryStore) -> MemoryStore:
    """It behaves as PostgreSQL does."""
    return store


@pytest.fixture
def threads(store: MemoryStore) -> Iterator[Threads]:
    threads = _Threads(store)  # type: ignore[arg-type]
    yield threads
    threads.close()


@pytest.fixture
def postgres_threads(threads: Threads) -> Threads:
    return threads


@pytest.fixture
def queue(store: MemoryStore) -> Iterator[MemoryRelayQueue]:
    queue = store.relay_queue()
    assert queue.acquire()
    yield queue
    queue.close()


@pytest.fixture(autouse=True)
def _without_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def uncounted(_: object) -> Generator[list[str]]:
        yield []

    def timer(store: MemoryStore, saga_id: UUID) -> datetime | None:
        return store.tables.timers.get(saga_id)

    for suite in SUITES:
        if hasattr(suite, "counted_statements"):
            monkeypatch.setattr(suite, "counted_statements", uncounted)
    monkeypatch.setattr(test_store_sagas, "timer", timer)


def _without_parts_about_sql(suite: type) -> type:
    return type(suite.__name__, (suite,), {name: None for name in ABOUT_SQL if hasattr(suite, name)})


for _suite in SUITES:
    for _name, _test in vars(_suite).items():
        if _name.lower().startswith("test") and _name not in ABOUT_SQL:
            globals()[_name] = _without_parts_about_sql(_test) if isinstance(_test, type) else _test


# ---- what the suites ask by SQL, asked here otherwise ----


def test_i06_a_saga_is_started_once_and_the_refused_transaction_leaves_nothing(store: MemoryStore) -> None:
    with store.begin() as uow:
        uow.save_sagas([test_store_sagas.new("1")])
    with pytest.raises(SerializationConflict), store.begin() as uow:
        uow.save_sagas([test_store_sagas.new("2"), test_store_sagas.new("1")])
    assert len(store.queries().saga_ids()) == 1


def test_i11_a_holder_that_was_given_up_loses_the_outbox(store: MemoryStore, queue: MemoryRelayQueue) -> None:
    queue.lose()
    successor = store.relay_queue()
    assert successor.acquire()
    with pytest.raises(DatabaseUnavailable):
        queue.fetch(0, 10)
    assert not queue.acquire()


def test_i01_a_transaction_that_was_ended_by_the_database_cannot_go_on(store: MemoryStore) -> None:
    keys = test_store_claims.inbox_keys(2)

    def work() -> None:
        with store.begin() as uow:
            uow.claim_inbox(keys[:1])
            for unit in store.under_way:
                unit.abort("it stood still")
            uow.claim_inbox(keys[1:])

    with pytest.raises(DatabaseUnavailable):
        work()
    assert not store.tables.inbox
