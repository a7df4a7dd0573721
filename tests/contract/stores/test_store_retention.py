"""Forgetting what is old (A35): only that, nothing that is needed, and without a dead-lock."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select, update

from kafkasaga.errors import SerializationConflict
from kafkasaga.messages import Operation
from kafkasaga.ports import (
    BarrierEntry,
    BarrierKey,
    InboxKey,
    LogEntry,
    Outcome,
    Parked,
    ParkedStatus,
    Prunable,
    SagaChange,
)
from kafkasaga.saga.events import Completed, Event, Ignored, Started
from kafkasaga.saga.instance import Instance, SagaStatus, saga_id
from kafkasaga.saga.transitions import evolve, fold
from kafkasaga.stores import Act, SqlStore
from kafkasaga.testing.memory import MemoryStore
from tests.contract.stores.store_kit import Threads
from tests.contract.stores.test_store_parked import park, parked

NONE, HOUR, DAY = timedelta(), timedelta(hours=1), timedelta(days=1)
ACTION, COMPENSATION = Operation.ACTION, Operation.COMPENSATION


def ended(key: str, *, incarnation: int = 0, ends: bool = True, at: datetime | None = None) -> SagaChange:
    """A saga that has ended, or (``ends=False``) goes on; ``at`` some moment by the clock of its process."""
    at = at or datetime.now(UTC)
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


def save_old(store: SqlStore | MemoryStore, *changes: SagaChange) -> list[UUID]:
    """They ended two hours ago."""
    ids, then = save(store, *changes), datetime.now(UTC) - 2 * HOUR  # type: ignore[arg-type]
    if isinstance(store, MemoryStore):
        for ages in (store.ages.heard, store.ages.logged):
            ages |= {id: then for id in ids if id in ages}
        return ids
    saga = store.tables.saga
    with store.engine.begin() as connection:
        for at in (saga.c.ended_at, saga.c.heard_at, saga.c.logged_since):
            connection.execute(update(saga).where(saga.c.saga_id.in_(ids), at.is_not(None)).values({at: then}))
    return ids


def hear(store: SqlStore, id: UUID, *, entries: int = 1) -> None:
    """Something comes for a saga that has ended; without entries, its timer fires."""
    event = Ignored(message="begun", reason="this saga has been started already")
    with store.begin() as uow:
        before = uow.load_sagas([id])[id]
        logged = tuple(LogEntry(before.seq + n, event, datetime.now(UTC)) for n in range(1, entries + 1))
        after = replace(before, seq=before.seq + entries)
        uow.save_sagas([SagaChange(before.seq, after, logged, woken=not entries)])


def park_old(store: SqlStore | MemoryStore, *messages: Parked) -> None:
    """Those that are dead letters have been so for a day."""
    park(store, *messages)  # type: ignore[arg-type]
    then = datetime.now(UTC) - DAY
    if isinstance(store, MemoryStore):
        store.ages.dead = dict.fromkeys(store.ages.dead, then)
        return
    parked = store.tables.parked_message
    with store.engine.begin() as connection:
        connection.execute(update(parked).where(parked.c.dead_at.is_not(None)).values(dead_at=then))


def claim(store: SqlStore, *keys: InboxKey) -> None:
    with store.begin() as uow:
        uow.claim_inbox(keys)


def settle(store: SqlStore, *keys: BarrierKey) -> None:
    with store.begin() as uow:
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

    def test_i09_no_piece_cuts_through_a_saga(self, store: SqlStore) -> None:
        sagas = [uuid4() for _ in range(5)]
        rows = {saga: [asks(saga, op, step) for step in ("pay", "ship", "thank") for op in Operation] for saga in sagas}
        for op in range(6):  # a saga's rows lie apart
            settle(store, *(rows[saga][op] for saga in sagas))
        gone, left = 0, [6] * 5
        while piece := store.prune(Prunable.BARRIER, NONE, 4):
            gone += piece
            left = [len(done(store, *rows[saga])) for saga in sagas]
            assert set(left) <= {0, 6}
        assert (gone, left) == (30, [0] * 5)


class TestSagas:
    def test_an_old_saga_keeps_how_it_ended_and_no_more(self, store: SqlStore) -> None:
        (id,) = save_old(store, ended("1"))
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
        (id,) = save_old(store, ended("1"))
        store.prune(Prunable.SAGAS, HOUR, 10)
        hear(store, id)
        assert [entry.seq for entry in store.queries().log(id)] == [3]

    def test_i14_one_for_which_messages_still_come_is_forgotten_all_the_same(self, store: SqlStore) -> None:
        (id,) = save_old(store, ended("1"))
        hear(store, id)
        hear(store, id, entries=0)
        assert store.prune(Prunable.SAGAS, HOUR, 10) == 1
        assert store.queries().log(id) == []

    def test_i14_what_comes_after_it_was_forgotten_is_kept_as_long_and_forgotten_too(self, store: SqlStore) -> None:
        (id,) = save_old(store, ended("1"))
        store.prune(Prunable.SAGAS, HOUR, 10)
        hear(store, id, entries=2)
        assert store.prune(Prunable.SAGAS, HOUR, 10) == 0
        assert store.prune(Prunable.SAGAS, NONE, 10) == 1
        assert store.queries().log(id) == []
        assert find(store, id)[id].seq == 4
        hear(store, id)
        assert store.prune(Prunable.SAGAS, NONE, 10) == 1

    def test_when_it_ended_stays_what_it_was(self, store: SqlStore) -> None:
        (id,) = save_old(store, ended("1"))
        hear(store, id)
        saga = store.tables.saga
        with store.engine.connect() as connection:
            ended_at, heard_at = connection.execute(select(saga.c.ended_at, saga.c.heard_at)).one()
        assert heard_at - ended_at > HOUR

    def test_a_piece_is_no_larger_than_its_limit(self, store: SqlStore) -> None:
        save_old(store, *(ended(str(n)) for n in range(5)))
        assert [store.prune(Prunable.SAGAS, HOUR, 2) for _ in range(4)] == [2, 2, 1, 0]

    def test_i12_when_a_saga_ended_is_not_said_by_the_clock_of_a_process(self, store: SqlStore) -> None:
        (id,) = save(store, ended("1", at=datetime(1999, 1, 1, tzinfo=UTC)))
        assert [store.prune(what, HOUR, 10) for what in (Prunable.SAGAS, Prunable.SAGA_KEYS)] == [0, 0]
        goes_on = ended("2", ends=False, at=datetime(2999, 1, 1, tzinfo=UTC))
        (late,) = save(store, goes_on)
        events = (LogEntry(2, Completed(messages=()), datetime(2999, 1, 1, tzinfo=UTC)),)
        ends = evolve(goes_on.instance, Completed(messages=()))
        with store.begin() as uow:
            uow.load_sagas([late])
            uow.save_sagas([SagaChange(1, ends, events)])
        assert store.prune(Prunable.SAGAS, NONE, 10) == 2, "nor that of one that is ahead"
        assert find(store, id, late).keys() == {id, late}


class TestSagaKeys:
    def test_a_key_is_free_when_its_saga_is_forgotten(self, store: SqlStore) -> None:
        save_old(store, ended("1"))
        save(store, ended("2"))
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 1
        assert list(find(store, saga_id("buy", "1"), saga_id("buy", "2"))) == [saga_id("buy", "2")]
        with store.begin() as uow:
            assert uow.current_sagas([("buy", "1")]) == {}
        save(store, ended("1"))

    def test_a_key_is_not_free_while_this_database_remembers_what_its_saga_asked_for(self, store: SqlStore) -> None:
        """A second saga of the key has the same ids: what it asks for would be answered from memory."""
        (id,) = save_old(store, ended("1"))
        settle(store, asks(id))
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 0
        assert store.prune(Prunable.BARRIER, NONE, 10) == 1
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 1

    def test_a_key_is_not_free_as_long_as_messages_for_its_saga_come(self, store: SqlStore) -> None:
        """A participant that carried out a command as late as that remembers it from then on."""
        (id,) = save_old(store, ended("1"))
        hear(store, id, entries=0)
        store.prune(Prunable.SAGAS, HOUR, 10)
        hear(store, id)
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 0
        assert store.prune(Prunable.SAGA_KEYS, NONE, 10) == 1
        save_old(store, ended("1"))
        assert store.prune(Prunable.SAGAS, HOUR, 10) == 1, "nothing is left of the one before"

    def test_a24_no_piece_cuts_through_the_incarnations_of_a_key(self, store: SqlStore) -> None:
        ids = save_old(store, *(ended(key, incarnation=n) for n in range(3) for key in ("1", "2")))
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 1) == 3
        assert len({find(store, id)[id].key for id in ids if find(store, id)}) == 1
        assert [store.prune(Prunable.SAGA_KEYS, HOUR, 1) for _ in range(2)] == [3, 0]

    def test_a24_the_incarnations_of_a_key_go_together(self, store: SqlStore) -> None:
        """Were the newest forgotten alone, a message by its key would be taken for an older one's."""
        save_old(store, ended("1", incarnation=1), ended("1", ends=False), ended("2", incarnation=1))
        save(store, ended("2"))
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 0
        with store.begin() as uow:
            assert uow.current_sagas([("buy", "1")]) == {("buy", "1"): saga_id("buy", "1", 1)}


class TestDeadLetters:
    def test_only_old_dead_letters_are_deleted(self, store: SqlStore) -> None:
        park_old(store, *(replace(parked(), status=status) for status in ParkedStatus))
        park(store, replace(parked(), status=ParkedStatus.DEAD_LETTER))
        assert store.prune(Prunable.DEAD_LETTERS, HOUR, 10) == 1
        assert [message.status for message in store.queries().parked()] == [
            *list(ParkedStatus)[:2],
            ParkedStatus.DEAD_LETTER,
        ]

    def test_i10_its_time_begins_when_it_becomes_one_and_by_the_databases_clock(self, store: SqlStore) -> None:
        """It may have been tried for weeks before, and the clock of who parked it may be wrong."""
        then = datetime(1999, 1, 1, tzinfo=UTC)
        park(
            store, replace(parked(), parked_at=then), replace(parked(), status=ParkedStatus.DEAD_LETTER, parked_at=then)
        )
        first = store.queries().parked()[0]
        with store.begin() as uow:
            uow.repark(first.id, error="no", status=ParkedStatus.DEAD_LETTER, attempts=9, next_at=then)
        assert store.prune(Prunable.DEAD_LETTERS, HOUR, 10) == 0
        assert store.prune(Prunable.DEAD_LETTERS, NONE, 10) == 2


class TestActs:
    """What a person does to a dead letter begins its time anew."""

    def test_i10_what_is_skipped_stays_from_then_on(self, store: SqlStore) -> None:
        park(store, replace(parked(), parked_at=datetime(1999, 1, 1, tzinfo=UTC), status=ParkedStatus.DEAD))
        (message,) = store.queries().parked()
        store.parked_acts().carry_out(message.id, Act("skip", "ann", "no use", datetime(1999, 1, 1, tzinfo=UTC)))
        assert store.prune(Prunable.DEAD_LETTERS, HOUR, 10) == 0
        assert store.prune(Prunable.DEAD_LETTERS, NONE, 10) == 1

    def test_i10_what_is_tried_again_is_no_dead_letter(self, store: SqlStore) -> None:
        park_old(store, replace(parked(), status=ParkedStatus.DEAD_LETTER))
        (message,) = store.queries().parked()
        store.parked_acts().carry_out(message.id, Act("retry", "ann", "again", datetime.now(UTC)))
        with store.begin() as uow:
            uow.repark(message.id, error="no", status=ParkedStatus.DEAD_LETTER, attempts=9, next_at=datetime.now(UTC))
        assert store.prune(Prunable.DEAD_LETTERS, HOUR, 10) == 0, "its time begins anew"


class TestAtWork:
    """Beside transactions that claim, and beside others that prune."""

    @pytest.mark.parametrize("held", list(Operation))
    def test_a02_a_saga_is_left_whole_while_a_transaction_builds_on_a_part_of_it(
        self, postgres_store: SqlStore, saga: UUID, held: Operation
    ) -> None:
        """A compensation that has just read that its action ran would otherwise be all that is remembered."""
        store = postgres_store
        settle(store, *(asks(saga, op, step) for step in ("pay", "ship") for op in Operation))
        with store.begin() as uow:
            assert uow.read_barrier([asks(saga, held)]).keys() == {asks(saga, held)}
            assert store.prune(Prunable.BARRIER, NONE, 10) == 0
        assert store.prune(Prunable.BARRIER, NONE, 10) == 4

    def test_two_that_ask_for_what_was_done_do_not_wait_for_each_other(
        self, postgres_store: SqlStore, saga: UUID
    ) -> None:
        store = postgres_store
        settle(store, asks(saga))
        with store.begin() as first:
            first.read_barrier([asks(saga)])
            with store.begin() as second:
                assert second.read_barrier([asks(saga)]).keys() == {asks(saga)}

    def test_a02_what_is_forgotten_while_it_is_read_is_written_like_any_other(
        self, postgres_store: SqlStore, saga: UUID
    ) -> None:
        """Else a compensation leaves its own row alone, and the action that comes later runs, and hangs."""
        store = postgres_store
        both = [asks(saga), asks(saga, COMPENSATION)]
        settle(store, *both)

        def settle_again() -> dict[BarrierKey, BarrierEntry]:
            with store.begin() as uow:
                known = uow.read_barrier(both)
                uow.settle_barrier(dict.fromkeys(both, BarrierEntry(Outcome.DONE)))
                return known

        threads = Threads(store)
        with store.engine.begin() as pruning:
            pruning.execute(delete(store.tables.barrier))
            other = threads.start_and_block(settle_again)
        assert other.result() == {}
        assert done(store, *both) == set(both)
        threads.close()

    def test_a24_a_key_is_kept_while_one_of_its_incarnations_is_held(self, postgres_store: SqlStore) -> None:
        store = postgres_store
        ids = save_old(store, ended("1"), ended("1", incarnation=1))
        for held in ids:
            with store.begin() as uow:
                uow.load_sagas([held])
                assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 0
        assert store.prune(Prunable.SAGA_KEYS, HOUR, 10) == 2

    def test_a35_it_waits_for_nobody(self, postgres_store: SqlStore) -> None:
        store = postgres_store
        held, free = save_old(store, ended("1"), ended("2"))
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
        park_old(store, *(replace(parked(), status=ParkedStatus.DEAD_LETTER) for _ in range(2)))
        table = store.tables.parked_message
        with store.engine.begin() as connection:
            connection.execute(select(table).order_by(table.c.id).limit(1).with_for_update())
            assert store.prune(Prunable.DEAD_LETTERS, HOUR, 10) == 1

    def test_a35_a_batch_that_locks_what_is_being_pruned_does_not_dead_lock(self, postgres_store: SqlStore) -> None:
        """A batch holds the second of two sagas and wants the first, which a plain DELETE holds, wanting the second."""
        store = postgres_store
        first, second = sorted(save_old(store, ended("1"), ended("2")))
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
        ids = save_old(store, *(ended(str(n)) for n in range(300)))

        def prunes() -> int:
            count = 0
            while last := store.prune(what, HOUR if what in (Prunable.SAGAS, Prunable.SAGA_KEYS) else NONE, 7):
                count += last
            return count

        def works() -> int:
            for start in range(0, 300, 10):
                # Two that find the same entry gone write it both: one is to do it again, which is not needed here.
                with suppress(SerializationConflict), store.begin() as uow:
                    uow.claim_inbox(keys[start : start + 10])
                    known = uow.read_barrier([asks(saga) for saga in sagas[start : start + 10]])
                    new = {asks(saga) for saga in sagas[start : start + 10]} - known.keys()
                    uow.settle_barrier(dict.fromkeys(new, BarrierEntry(Outcome.DONE)))
                    uow.load_sagas(ids[start : start + 10])
            return 0

        work: list[Callable[[], int]] = [prunes, works, prunes, works]
        counts = [future.result(60) for future in [threads.start(one) for one in work]]
        rest = prunes()
        assert sum(counts) + rest >= 300
        assert store.prune(what, NONE if what in (Prunable.INBOX, Prunable.BARRIER) else HOUR, 7) == 0
