"""Forgetting what is old (A35): only that, nothing that is needed, and without a dead-lock."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierEntry, BarrierKey, InboxKey, LogEntry, Outcome, ParkedStatus, Prunable, SagaChange
from kafkasaga.saga.events import Completed, Event, Ignored, Started
from kafkasaga.saga.instance import Instance, SagaStatus, saga_id
from kafkasaga.saga.transitions import fold
from kafkasaga.stores import SqlStore
from kafkasaga.testing.memory import MemoryStore
from tests.contract.stores.store_kit import Threads
from tests.contract.stores.test_store_parked import park, parked

NONE, HOUR, DAY = timedelta(), timedelta(hours=1), timedelta(days=1)
ACTION, COMPENSATION = Operation.ACTION, Operation.COMPENSATION


def ended(key: str, *, hours_ago: float = 2, incarnation: int = 0, ends: bool = True) -> SagaChange:
    """A saga that has ended, or (``ends=False``) goes on."""
    at = datetime.now(UTC) - timedelta(hours=hours_ago)
    events: list[Event] = [
        Started(saga="buy", version=1, key=key, incarnation=incarnation, message="begun", data='{"secret": 1}')
    ]
    if ends:
        events.append(Completed(messages=()))
    instance = fold(events)
    assert instance is not None
    return SagaChange(0, instance, tuple(LogEntry(n, event, at) for n, event in enumerate(events, 1)))


def save(store: SqlStore, *changes: SagaChange) -> list[UUID]:
    with store.begin() as uow:
        uow.save_sagas(changes)
    return [change.instance.id for change in changes]


def claim(store: SqlStore, *keys: InboxKey) -> None:
    with store.begin() as uow:
        uow.claim_inbox(keys)


def settle(store: SqlStore, *keys: BarrierKey) -> None:
    with store.begin() as uow:
        uow.claim_barrier(keys)
        uow.settle_barrier(dict.fromkeys(keys, BarrierEntry(Outcome.DONE)))


def known(store: SqlStore, *keys: InboxKey) -> set[InboxKey]:
    """Which of these the inbox remembers."""
    with pytest.raises(ZeroDivisionError), store.begin() as uow:  # noqa: PT012
        fresh = uow.claim_inbox(keys)
        raise ZeroDivisionError
    return set(keys) - fresh


def done(store: SqlStore, *keys: BarrierKey) -> set[BarrierKey]:
    with store.begin() as uow:
        return uow.carried_out(keys)


def find(store: SqlStore, *ids: UUID) -> dict[UUID, Instance]:
    with store.begin() as uow:
        return uow.load_sagas(ids)


def key(name: str = "billing") -> InboxKey:
    return InboxKey(name, "shop", uuid4())


def is_old(store: SqlStore | MemoryStore, asked: BarrierKey) -> None:
    """It was claimed two hours ago."""
    then = datetime.now(UTC) - 2 * HOUR
    if isinstance(store, MemoryStore):
        store.ages.barrier[asked] = then
        return
    barrier = store.tables.barrier
    with store.engine.begin() as connection:
        mine = (barrier.c.saga_id == asked.saga_id) & (barrier.c.op == asked.operation.value)
        connection.execute(update(barrier).where(mine).values(claimed_at=then))


def asks(saga: UUID, operation: Operation = ACTION, step: str = "pay") -> BarrierKey:
    return BarrierKey(saga, step, 0, operation)


class TestInbox:
    def test_only_what_is_old_is_forgotten(self, store: SqlStore) -> None:
        message = key()
        claim(store, message)
        assert store.prune(Prunable.INBOX, HOUR, 10) == 0
        assert known(store, message) == {message}
        assert store.prune(Prunable.INBOX, NONE, 10) == 1
        assert known(store, message) == set()

    def test_a_piece_is_no_larger_than_its_limit(self, store: SqlStore) -> None:
        claim(store, *(key() for _ in range(5)))
        assert [store.prune(Prunable.INBOX, NONE, 2) for _ in range(4)] == [2, 2, 1, 0]

    def test_i03_a_message_that_is_parked_is_recognised_when_it_comes_again(self, store: SqlStore) -> None:
        message = parked()
        mine = InboxKey(message.consumer, message.source, message.message_id)
        other = mine._replace(source="another shop")
        claim(store, mine, other)
        park(store, message)
        assert store.prune(Prunable.INBOX, NONE, 10) == 1
        assert known(store, mine, other) == {mine}


class TestBarrier:
    def test_only_what_is_old_is_forgotten(self, store: SqlStore, saga: UUID) -> None:
        settle(store, asks(saga))
        assert store.prune(Prunable.BARRIER, HOUR, 10) == 0
        assert store.prune(Prunable.BARRIER, NONE, 10) == 1
        assert done(store, asks(saga)) == set()

    def test_i09_what_a_saga_under_way_here_has_asked_for_is_kept(self, store: SqlStore) -> None:
        live, over = save(store, ended("1", ends=False), ended("2"))
        settle(store, asks(live), asks(over))
        assert store.prune(Prunable.BARRIER, NONE, 10) == 1
        assert done(store, asks(live), asks(over)) == {asks(live)}

    def test_a02_an_action_is_not_forgotten_before_its_compensation(self, store: SqlStore, saga: UUID) -> None:
        """Else it would run if it came again, and hang."""
        settle(store, asks(saga), asks(saga, COMPENSATION))
        is_old(store, asks(saga))
        assert store.prune(Prunable.BARRIER, HOUR, 10) == 0
        is_old(store, asks(saga, COMPENSATION))
        assert store.prune(Prunable.BARRIER, HOUR, 10) == 2

    @pytest.mark.parametrize("status", list(ParkedStatus))
    def test_i09_a_compensation_that_is_parked_finds_what_there_is_to_undo(
        self, store: SqlStore, saga: UUID, status: ParkedStatus
    ) -> None:
        """A person may have it tried again, whenever."""
        settle(store, asks(saga))
        park(store, replace(parked(), asks=asks(saga, COMPENSATION), status=status))
        assert store.prune(Prunable.BARRIER, NONE, 10) == 0


class TestSagas:
    def test_an_old_saga_keeps_how_it_ended_and_no_more(self, store: SqlStore) -> None:
        (id,) = save(store, ended("1"))
        assert store.prune(Prunable.SAGAS, DAY, 10) == 0
        assert store.queries().log(id) != []
        assert store.prune(Prunable.SAGAS, HOUR, 10) == 1
        assert store.queries().log(id) == []
        left = find(store, id)[id]
        assert (left.id, left.status, left.seq, left.data) == (id, SagaStatus.COMPLETED, 2, "{}")
        assert store.prune(Prunable.SAGAS, HOUR, 10) == 0, "once is enough"

    def test_a_saga_under_way_is_kept_however_old_it_is(self, store: SqlStore) -> None:
        (id,) = save(store, ended("1", ends=False))
        assert [store.prune(what, NONE, 10) for what in (Prunable.SAGAS, Prunable.SAGA_KEYS)] == [0, 0]
        assert find(store, id)[id].data == '{"secret": 1}'

    def test_what_is_left_takes_late_messages(self, store: SqlStore) -> None:
        (id,) = save(store, ended("1"))
        store.prune(Prunable.SAGAS, HOUR, 10)
        event = Ignored(message="begun", reason="this saga has been started already")
        with store.begin() as uow:
            before = uow.load_sagas([id])[id]
            uow.save_sagas([SagaChange(2, replace(before, seq=3), (LogEntry(3, event, datetime.now(UTC)),))])
        assert [entry.seq for entry in store.queries().log(id)] == [3]

    def test_a_piece_is_no_larger_than_its_limit(self, store: SqlStore) -> None:
        save(store, *(ended(str(n)) for n in range(5)))
        assert [store.prune(Prunable.SAGAS, HOUR, 2) for _ in range(4)] == [2, 2, 1, 0]


class TestSagaKeys:
    def test_a_key_is_free_when_its_saga_is_forgotten(self, store: SqlStore) -> None:
        save(store, ended("1"), ended("2", hours_ago=0))
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 1
        assert list(find(store, saga_id("buy", "1"), saga_id("buy", "2"))) == [saga_id("buy", "2")]
        with store.begin() as uow:
            assert uow.current_sagas([("buy", "1")]) == {}
        save(store, ended("1"))

    def test_a24_the_incarnations_of_a_key_go_together(self, store: SqlStore) -> None:
        """Were the newest forgotten alone, a message by its key would be taken for an older one's."""
        save(
            store, ended("1", incarnation=1), ended("1", ends=False), ended("2", incarnation=1), ended("2", hours_ago=0)
        )
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 0
        with store.begin() as uow:
            assert uow.current_sagas([("buy", "1")]) == {("buy", "1"): saga_id("buy", "1", 1)}


class TestDeadLetters:
    def test_only_old_dead_letters_are_deleted(self, store: SqlStore) -> None:
        old, new = datetime.now(UTC) - DAY, datetime.now(UTC)
        park(store, *(replace(parked(), status=status, parked_at=old) for status in ParkedStatus))
        park(store, replace(parked(), status=ParkedStatus.DEAD_LETTER, parked_at=new))
        assert store.prune(Prunable.DEAD_LETTERS, HOUR, 10) == 1
        assert [message.status for message in store.queries().parked()] == [
            *list(ParkedStatus)[:2],
            ParkedStatus.DEAD_LETTER,
        ]


class TestAtWork:
    """Beside transactions that claim, and beside others that prune."""

    def test_a35_it_waits_for_nobody(self, postgres_store: SqlStore) -> None:
        store = postgres_store
        held, free = save(store, ended("1"), ended("2"))
        with store.begin() as uow:
            uow.load_sagas([held])
            assert store.prune(Prunable.SAGAS, HOUR, 10) == 1
            assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 1
        assert list(find(store, held, free)) == [held]
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 1

    def test_a35_it_leaves_out_rows_that_somebody_holds(self, postgres_store: SqlStore | MemoryStore) -> None:
        store = postgres_store
        if isinstance(store, MemoryStore):
            pytest.skip("about row locks")
        old = datetime.now(UTC) - DAY
        park(store, *(replace(parked(), status=ParkedStatus.DEAD_LETTER, parked_at=old) for _ in range(2)))
        table = store.tables.parked_message
        with store.engine.begin() as connection:
            connection.execute(select(table).order_by(table.c.id).limit(1).with_for_update())
            assert store.prune(Prunable.DEAD_LETTERS, HOUR, 10) == 1

    def test_a35_a_batch_that_locks_what_is_being_pruned_does_not_dead_lock(self, postgres_store: SqlStore) -> None:
        """A batch holds the second of two sagas and wants the first, which a plain DELETE holds, wanting the second."""
        store = postgres_store
        first, second = sorted(save(store, ended("1"), ended("2")))
        with store.begin() as uow:
            uow.load_sagas([second])
            assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 1
            assert uow.load_sagas([first]) == {}
        assert list(find(store, first, second)) == [second]

    @pytest.mark.parametrize("what", [Prunable.INBOX, Prunable.BARRIER, Prunable.SAGAS, Prunable.SAGA_KEYS])
    def test_a35_many_that_prune_and_claim_at_once_do_all_and_never_dead_lock(
        self, store: SqlStore, threads: Threads, what: Prunable
    ) -> None:
        keys, sagas = [key() for _ in range(300)], [uuid4() for _ in range(300)]
        claim(store, *keys)
        settle(store, *(asks(saga) for saga in sagas))
        ids = save(store, *(ended(str(n)) for n in range(300)))

        def prunes() -> int:
            count = 0
            while last := store.prune(what, HOUR if what in (Prunable.SAGAS, Prunable.SAGA_KEYS) else NONE, 7):
                count += last
            return count

        def works() -> int:
            for start in range(0, 300, 10):
                with store.begin() as uow:
                    uow.claim_inbox(keys[start : start + 10])
                    claimed = uow.claim_barrier([asks(saga) for saga in sagas[start : start + 10]])
                    new = {asks(saga) for saga in sagas[start : start + 10]} - claimed.keys()
                    uow.settle_barrier(dict.fromkeys(new, BarrierEntry(Outcome.DONE)))
                    uow.load_sagas(ids[start : start + 10])
            return 0

        work: list[Callable[[], int]] = [prunes, works, prunes, works]
        counts = [future.result(60) for future in [threads.start(one) for one in work]]
        rest = prunes()
        assert sum(counts) + rest >= 300
        assert store.prune(what, NONE if what in (Prunable.INBOX, Prunable.BARRIER) else HOUR, 7) == 0
