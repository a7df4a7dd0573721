"""Batches take turns: beside each other, or alone."""

from functools import partial
from uuid import uuid4

import pytest

from kafkasaga.ports import InboxKey, Turn, UnitOfWork
from kafkasaga.stores import SqlStore
from tests.contract.stores.store_kit import Threads


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

    def test_who_waits_to_be_alone_is_not_overtaken(self, postgres_store: SqlStore, postgres_threads: Threads) -> None:
        with postgres_store.begin() as uow:
            begin_batch(uow, Turn.BESIDE)
            alone = postgres_threads.start_and_block(partial(commit_batch, postgres_store, Turn.ALONE))
            beside = postgres_threads.start_and_block(partial(commit_batch, postgres_store, Turn.BESIDE), waiting=2)
        assert alone.result() is Turn.ALONE
        assert beside.result() is Turn.BESIDE
