"""The inbox and the barrier (invariants I1, I3 and I9)."""

import sqlite3
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text

from kafkasaga.errors import SerializationConflict
from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierEntry, BarrierKey, InboxKey, Outcome, TopicPartition, Turn
from kafkasaga.stores import SqlStore
from kafkasaga.stores.inbox import WITHOUT_HOPE
from tests.contract.stores.store_kit import Threads, counted_statements


def inbox_keys(count: int, consumer: str = "billing") -> list[InboxKey]:
    return [InboxKey(consumer, "shop", uuid4()) for _ in range(count)]


def action(saga_id: UUID) -> BarrierKey:
    return BarrierKey(saga_id, "pay", 0, Operation.ACTION)


def compensation(saga_id: UUID) -> BarrierKey:
    return BarrierKey(saga_id, "pay", 0, Operation.COMPENSATION)


DONE = BarrierEntry(Outcome.DONE, "payment.replies", "payment.succeeded", b'{"a": "\\"\x00"}')


class TestInbox:
    def test_keys_are_new_once(self, store: SqlStore) -> None:
        old, new = inbox_keys(3), inbox_keys(2)
        with store.begin() as uow:
            assert uow.claim_inbox(old) == set(old)
        with store.begin() as uow:
            assert uow.claim_inbox([*new, *old]) == set(new)

    def test_a04_a_key_twice_in_one_batch_is_claimed_once(self, store: SqlStore) -> None:
        (key,) = inbox_keys(1)
        with store.begin() as uow:
            assert uow.claim_inbox([key, key]) == {key}

    def test_a38_consumers_and_sources_are_told_apart(self, store: SqlStore) -> None:
        id = uuid4()
        keys = {InboxKey("a", "s", id), InboxKey("b", "s", id), InboxKey("a", "t", id)}
        with store.begin() as uow:
            assert uow.claim_inbox(keys) == keys

    def test_text_that_looks_like_sql_or_an_array_is_kept_as_it_is(self, store: SqlStore) -> None:
        keys = {
            InboxKey(name, 'a"b\\c{}', uuid4()) for name in ("NULL", "", "{a,b}", "it's", "ü\n\t", '"', "\\", ":r0")
        }
        with store.begin() as uow:
            assert uow.claim_inbox(keys) == keys

    def test_a_claim_that_was_rolled_back_is_free(self, store: SqlStore) -> None:
        keys = inbox_keys(1)
        with pytest.raises(ZeroDivisionError), store.begin() as uow:  # noqa: PT012
            uow.claim_inbox(keys)
            raise ZeroDivisionError
        with store.begin() as uow:
            assert uow.claim_inbox(keys) == set(keys)

    def test_a05_a_second_claim_waits_and_then_finds_the_key_taken(self, store: SqlStore, threads: Threads) -> None:
        keys = inbox_keys(1)

        def claim() -> set[InboxKey]:
            with store.begin() as uow:
                return uow.claim_inbox(keys)

        with store.begin() as uow:
            uow.claim_inbox(keys)
            other = threads.start_and_block(claim)
        assert other.result() == set()

    def test_batches_that_share_keys_in_any_order_do_not_deadlock(self, store: SqlStore, threads: Threads) -> None:
        low, middle, high = sorted(inbox_keys(3))

        def claim(*keys: InboxKey) -> set[InboxKey]:
            with store.begin() as uow:
                return uow.claim_inbox(keys)

        with store.begin() as uow:  # both have to wait in the middle, each perhaps with a key that the other one wants
            uow.claim_inbox([middle])
            up = threads.start_and_block(partial(claim, low, middle, high))
            down = threads.start_and_block(partial(claim, high, middle, low), waiting=2)
        assert up.result() | down.result() == {low, high}

    def test_more_rows_than_a_statement_has_parameters(self, store: SqlStore) -> None:
        keys = inbox_keys(25_000)
        with store.begin() as uow:
            driver = uow.session.connection().connection.driver_connection
            if isinstance(driver, sqlite3.Connection):
                driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)  # its default; Debian's is built for more
            assert uow.claim_inbox(keys) == set(keys)

    def test_no_keys_no_statement(self, store: SqlStore) -> None:
        with store.begin() as uow, counted_statements(store) as statements:
            assert uow.claim_inbox([]) == set()
            assert uow.read_barrier([]) == {}
            assert uow.load_sagas([]) == {}
            uow.add_outbox([])
        assert statements == []


class TestInboxAhead:
    """As a batch claims: in the hope that all is new."""

    def test_known_and_new_keys_are_told_apart_again_and_again(self, store: SqlStore) -> None:
        old, saga = inbox_keys(3), uuid4()
        assert claim_ahead(store, old, action(saga)) == set(old)
        for _ in range(3):
            new = inbox_keys(2)
            assert claim_ahead(store, [*new, *old], action(uuid4())) == set(new)
            assert claim_ahead(store, new) == set()
            old += new
        with store.begin() as uow:
            assert uow.claim_inbox(old) == set(), "what was claimed beside a known one is known too"

    def test_after_a_known_key_there_is_hope_again(self, postgres_store: SqlStore) -> None:
        old = inbox_keys(1)
        claim_ahead(postgres_store, old)
        refused: list[object] = []
        event.listen(postgres_store.engine, "handle_error", refused.append)
        for _ in range(WITHOUT_HOPE):
            assert claim_ahead(postgres_store, old) == set()
        assert len(refused) == 1
        for _ in range(WITHOUT_HOPE + 2):
            claim_ahead(postgres_store, inbox_keys(1))
        assert claim_ahead(postgres_store, old) == set()
        assert len(refused) == 2

    def test_i01_what_was_done_before_the_claim_is_kept(self, store: SqlStore) -> None:
        old, place = inbox_keys(1), TopicPartition("orders", 0)
        claim_ahead(store, old)
        with store.begin() as uow:
            uow.session.execute(text("CREATE TABLE before_it (n int)"))
            uow.look_ahead(set())
            assert uow.claim_inbox(old) == set()
            uow.advance("shop", {place: 7})
        with store.begin() as uow:
            assert uow.session.scalar(text("SELECT count(*) FROM before_it")) == 0

    def test_i01_what_was_kept_for_the_end_before_the_claim_is_kept(self, store: SqlStore) -> None:
        old, place = inbox_keys(1), TopicPartition("orders", 0)
        claim_ahead(store, old)
        with store.begin() as uow:
            uow.advance("shop", {place: 7})
            uow.look_ahead(set())
            assert uow.claim_inbox(old) == set()
        assert store.positions("shop", [place]) == {place: 7}

    def test_a05_a_second_claim_waits_and_then_finds_the_key_taken(self, store: SqlStore, threads: Threads) -> None:
        keys = inbox_keys(1)
        with store.begin() as uow:
            uow.claim_inbox(keys)
            other = threads.start_and_block(partial(claim_ahead, store, keys))
        assert other.result() == set()

    def test_a_second_claim_waits_and_gets_what_the_first_one_gave_up(self, store: SqlStore, threads: Threads) -> None:
        keys = inbox_keys(1)
        with pytest.raises(ZeroDivisionError), store.begin() as uow:  # noqa: PT012
            uow.claim_inbox(keys)
            other = threads.start_and_block(partial(claim_ahead, store, keys))
            raise ZeroDivisionError
        assert other.result() == set(keys)


def claim_ahead(store: SqlStore, keys: Collection[InboxKey], step: BarrierKey | None = None) -> set[InboxKey]:
    """A batch that settles a step; it sees what it has looked for ahead."""
    with store.begin() as uow:
        uow.look_ahead({step} if step else set(), (), Turn.BESIDE)
        fresh = uow.claim_inbox(keys)
        if step:
            assert uow.read_barrier([step]) == {}
            uow.settle_barrier({step: DONE})
    if step:
        with store.begin() as uow:
            assert uow.read_barrier([step]) == {step: DONE}
    return fresh


class TestBarrier:
    def test_an_entry_gives_its_first_reply_again(self, store: SqlStore) -> None:
        key = action(uuid4())
        with store.begin() as uow:
            assert uow.read_barrier([key]) == {}
            uow.settle_barrier({key: DONE})
        with store.begin() as uow:
            assert uow.read_barrier([key, action(uuid4())]) == {key: DONE}

    def test_an_entry_without_a_reply_comes_back_as_it_was(self, store: SqlStore) -> None:
        key = compensation(uuid4())
        entries = {key: BarrierEntry(Outcome.EMPTY), action(key.saga_id): BarrierEntry(Outcome.SUPERSEDED)}
        with store.begin() as uow:
            uow.settle_barrier(entries)
        with store.begin() as uow:
            assert uow.read_barrier(entries) == entries

    def test_a_transaction_reads_what_it_has_settled(self, store: SqlStore) -> None:
        key = action(uuid4())
        with store.begin() as uow:
            uow.look_ahead({key})
            assert uow.claim_inbox(inbox_keys(1))
            assert uow.read_barrier([key]) == {}
            uow.settle_barrier({key: DONE})
            assert uow.read_barrier([key]) == {key: DONE}

    def test_what_is_looked_for_ahead_comes_with_the_inbox(self, store: SqlStore) -> None:
        known, new, other = (action(uuid4()) for _ in range(3))
        with store.begin() as uow:
            uow.settle_barrier({known: DONE, other: DONE})
        with store.begin() as uow:
            uow.look_ahead({known, new})
            uow.claim_inbox(inbox_keys(1))
            with counted_statements(store) as statements:
                assert uow.read_barrier([known, new]) == {known: DONE}
                assert uow.read_barrier([new]) == {}
                assert statements == []
                assert uow.read_barrier([known, other]) == {known: DONE, other: DONE}, "asked for, if it was not"

    def test_a03_of_an_action_and_its_compensation_at_once_one_is_done_again(
        self, store: SqlStore, threads: Threads
    ) -> None:
        id = uuid4()

        def compensate() -> None:
            with store.begin() as uow:
                assert uow.read_barrier([compensation(id), action(id)]) == {}
                uow.settle_barrier(
                    {action(id): BarrierEntry(Outcome.SUPERSEDED), compensation(id): BarrierEntry(Outcome.EMPTY)}
                )

        with store.begin() as uow:
            assert uow.read_barrier([action(id)]) == {}
            uow.settle_barrier({action(id): DONE})
            assert uow.read_barrier([action(id)]) == {action(id): DONE}
            other = threads.start_and_block(compensate)
        # Where one writes at a time, it has read what the first one has left.
        with pytest.raises((SerializationConflict, AssertionError)):
            other.result()
        with store.begin() as uow:
            assert uow.read_barrier([action(id), compensation(id)]) == {action(id): DONE}

    def test_a02_an_action_after_its_compensation_finds_itself_superseded(self, store: SqlStore) -> None:
        id = uuid4()
        with store.begin() as uow:
            uow.settle_barrier(
                {action(id): BarrierEntry(Outcome.SUPERSEDED), compensation(id): BarrierEntry(Outcome.EMPTY)}
            )
        with store.begin() as uow:
            assert uow.read_barrier([action(id)]) == {action(id): BarrierEntry(Outcome.SUPERSEDED)}

    def test_a03_batches_that_share_keys_in_any_order_do_not_deadlock(self, store: SqlStore, threads: Threads) -> None:
        low, middle, high = sorted(action(uuid4()) for _ in range(3))

        def settle(*keys: BarrierKey) -> set[BarrierKey]:
            with store.begin() as uow:
                known = uow.read_barrier(keys)
                new = [key for key in keys if key not in known]  # in the order in which they were given
                uow.settle_barrier(dict.fromkeys(new, DONE))
                return set(new)

        def until_done(*keys: BarrierKey) -> set[BarrierKey]:
            while True:
                try:
                    return settle(*keys)
                except SerializationConflict as conflict:
                    if "answered the same command" not in str(conflict):
                        raise  # a dead-lock

        with suppress(ZeroDivisionError), store.begin() as uow:
            uow.settle_barrier({middle: DONE})
            assert uow.read_barrier([middle]) == {middle: DONE}
            up = threads.start_and_block(partial(until_done, low, middle, high))
            down = threads.start_and_block(partial(until_done, high, middle, low), waiting=2)
            raise ZeroDivisionError
        assert up.result() | down.result() == {low, middle, high}

    def test_generations_are_told_apart(self, store: SqlStore) -> None:
        key = action(uuid4())
        with store.begin() as uow:
            uow.settle_barrier({key: DONE})
        with store.begin() as uow:
            assert uow.read_barrier([key._replace(generation=1)]) == {}


class TestOffsets:
    def test_a_group_reads_on_where_it_was(self, store: SqlStore) -> None:
        first, second = TopicPartition("orders", 0), TopicPartition("orders", 1)
        with store.begin() as uow:
            uow.advance("shop", {first: 5, second: 7})
        with store.begin() as uow:
            uow.advance("shop", {first: 6})
        assert store.positions("shop", [first, second, TopicPartition("orders", 2)]) == {first: 6, second: 7}
        assert store.positions("billing", [first]) == {}

    def test_an_offset_does_not_go_back_by_an_old_batch(self, store: SqlStore) -> None:
        place = TopicPartition("orders", 0)
        for offset in (2**40, 3):
            with store.begin() as uow:
                uow.advance("shop", {place: offset})
        assert store.positions("shop", [place]) == {place: 2**40}

    def test_an_offset_goes_back_where_the_topic_begins_again(self, store: SqlStore) -> None:
        place = TopicPartition("orders", 0)
        with store.begin() as uow:
            uow.advance("shop", {place: 2**40})
        with store.begin() as uow:
            uow.rewind("shop", {place: 3})
        assert store.positions("shop", [place]) == {place: 3}
