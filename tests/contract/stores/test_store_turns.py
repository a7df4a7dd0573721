"""Batches take turns: beside each other, or alone."""

from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import MetaData

from kafkasaga.ports import InboxKey, Turn, UnitOfWork
from kafkasaga.stores import SqlStore, Tables, create_store
from kafkasaga.stores.migrations import upgrade
from tests.contract.stores.store_kit import Threads
from tests.contract.stores.test_store_driver import engine_of


def begin_batch(uow: UnitOfWork, turn: Turn) -> None:
    uow.look_ahead((), (), turn)
    uow.claim_inbox([InboxKey("billing", "shop", uuid4())])


def commit_batch(store: SqlStore, turn: Turn) -> Turn:
    with store.begin() as uow:
        begin_batch(uow, turn)
    return turn


@pytest.mark.parametrize(
    ("first", "second"), [(Turn.ALONE, Turn.BESIDE), (Turn.BESIDE, Turn.ALONE), (Turn.ALONE, Turn.ALONE)]
)
def test_who_goes_alone_is_alone(store: SqlStore, threads: Threads, first: Turn, second: Turn) -> None:
    with store.begin() as uow:
        begin_batch(uow, first)
        other = threads.start_and_block(partial(commit_batch, store, second))
    assert other.result() is second


@pytest.mark.parametrize("first", [Turn.ALONE, Turn.BESIDE])
def test_a_turn_ends_with_a_transaction_that_failed(store: SqlStore, first: Turn) -> None:
    with pytest.raises(ZeroDivisionError), store.begin() as uow:  # noqa: PT012
        begin_batch(uow, first)
        raise ZeroDivisionError
    assert commit_batch(store, Turn.ALONE) is Turn.ALONE


class TestBesideOthers:
    """Where there is more than one writer at a time."""

    @pytest.mark.parametrize(
        ("first", "second"), [(Turn.BESIDE, Turn.BESIDE), (Turn.ALONE, Turn.NONE), (Turn.NONE, Turn.ALONE)]
    )
    def test_nobody_waits_beside_others_nor_without_a_turn(
        self, postgres_store: SqlStore, first: Turn, second: Turn
    ) -> None:
        with postgres_store.begin() as uow:
            begin_batch(uow, first)
            assert commit_batch(postgres_store, second) is second

    def test_who_waits_for_its_turn_holds_nothing_that_others_wait_for(
        self, postgres_store: SqlStore, postgres_threads: Threads
    ) -> None:
        keys = [InboxKey("billing", "shop", uuid4())]

        def claim(turn: Turn) -> set[InboxKey]:
            with postgres_store.begin() as uow:
                uow.look_ahead((), (), turn)
                return uow.claim_inbox(keys)

        with postgres_store.begin() as uow:
            begin_batch(uow, Turn.ALONE)
            other = postgres_threads.start_and_block(partial(claim, Turn.BESIDE))
            assert claim(Turn.NONE) == set(keys)
        assert other.result() == set()

    @pytest.mark.parametrize("turn", [Turn.ALONE, Turn.BESIDE])
    def test_who_would_see_nothing_of_the_others_does_not_wait_for_them(
        self, postgres_url: str, tables: Tables, turn: Turn
    ) -> None:
        store = SqlStore(engine_of(postgres_url, isolation_level="REPEATABLE READ"), tables)
        upgrade(store.engine, tables)
        with store.begin() as uow:
            begin_batch(uow, Turn.ALONE)
            assert commit_batch(store, turn) is turn
        store.close()

    def test_a_name_may_have_an_apostrophe(self, postgres_url: str) -> None:
        tables = Tables(MetaData(), prefix="o'hara_")
        store = create_store(postgres_url, tables)
        upgrade(store.engine, tables)
        assert commit_batch(store, Turn.ALONE) is Turn.ALONE
        store.close()

    def test_who_waits_to_be_alone_is_not_overtaken(self, postgres_store: SqlStore, postgres_threads: Threads) -> None:
        with postgres_store.begin() as uow:
            begin_batch(uow, Turn.BESIDE)
            alone = postgres_threads.start_and_block(partial(commit_batch, postgres_store, Turn.ALONE))
            beside = postgres_threads.start_and_block(partial(commit_batch, postgres_store, Turn.BESIDE), waiting=2)
        assert alone.result() is Turn.ALONE
        assert beside.result() is Turn.BESIDE
