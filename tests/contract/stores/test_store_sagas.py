"""Sagas: snapshot, log and timer in one step, fenced (invariants I6 and I7)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from kafkasaga.errors import SerializationConflict
from kafkasaga.ports import InboxKey, LogEntry, SagaChange
from kafkasaga.saga.events import CompensationBegan, Event, Ignored, Started
from kafkasaga.saga.instance import Instance, SagaStatus, StepState, StepStatus, Turned
from kafkasaga.stores import SqlStore
from tests.contract.stores.store_kit import Threads, counted_statements

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


def minutes(count: int) -> datetime:
    return NOW + timedelta(minutes=count)


def new(key: str, *, incarnation: int = 0, due: datetime | None = None) -> SagaChange:
    instance = Instance("place-order", 1, key, incarnation, "{}", seq=1)
    event = Started(
        saga="place-order", version=1, key=key, incarnation=incarnation, message="order.created", data='{"ü": "\\""}'
    )
    return SagaChange(0, waking(instance, due), (LogEntry(1, event, NOW, uuid4()),))


def waking(instance: Instance, due: datetime | None) -> Instance:
    return replace(instance, steps={"pay": StepState(StepStatus.PENDING, due=due, command_id=uuid4())})


def next_change(
    change: SagaChange, *, due: datetime | None = None, woken: bool = False, event: Event | None = None
) -> SagaChange:
    seq = change.instance.seq + 1
    entry = LogEntry(seq, event or Ignored(message="late", reason="too late"), NOW + timedelta(seconds=seq))
    return SagaChange(change.instance.seq, waking(replace(change.instance, seq=seq), due), (entry,), woken)


def save(store: SqlStore, *changes: SagaChange) -> list[str]:
    """Load and save, as the runtime does; the statements that saving took, those included that go with COMMIT."""
    with counted_statements(store) as statements:
        with store.begin() as uow:
            uow.load_sagas([change.instance.id for change in changes])
            loaded = len(statements)
            uow.save_sagas(changes)
        return statements[loaded:]


def timer(store: SqlStore, saga_id: UUID) -> datetime | None:
    due = store.tables.saga_timer.c
    with store.engine.connect() as connection:
        found: datetime | None = connection.scalar(select(due.due_at).where(due.saga_id == saga_id))
        copied: datetime | None = connection.scalar(
            select(store.tables.saga.c.timer_at).where(store.tables.saga.c.saga_id == saga_id)
        )
    assert found == copied
    return found


def test_what_was_saved_is_loaded(store: SqlStore) -> None:
    first, second = new("1"), new("2", due=minutes(1))
    save(store, second, first)
    with store.begin() as uow:
        loaded = uow.load_sagas([second.instance.id, first.instance.id, uuid4()])
    assert loaded == {change.instance.id: change.instance for change in (first, second)}


def test_i7_the_log_is_what_was_saved(store: SqlStore) -> None:
    change = new("1")
    changes = [change, next_change(change)]
    save(store, changes[0])
    save(store, changes[1])
    assert store.queries().log(change.instance.id) == [entry for change in changes for entry in change.entries]


def test_the_current_saga_is_that_of_the_highest_incarnation(store: SqlStore) -> None:
    first, second, other = new("1"), new("1", incarnation=1), new("2")
    save(store, first, second, other)
    with store.begin() as uow:
        found = uow.current_sagas([("place-order", "1"), ("place-order", "2"), ("place-order", "3"), ("x", "1")])
    assert found == {("place-order", "1"): second.instance.id, ("place-order", "2"): other.instance.id}


def test_i6_a_saga_is_started_once(store: SqlStore) -> None:
    save(store, new("1"))
    with pytest.raises(SerializationConflict):
        save(store, new("2"), new("1"))
    assert len(store.queries().sagas()) == 1


def test_i6_of_two_changes_from_one_state_one_is_saved(store: SqlStore) -> None:
    change = new("1")
    save(store, change)
    save(store, next_change(change))
    with pytest.raises(SerializationConflict), store.begin() as uow:
        uow.save_sagas([next_change(change)])
    assert len(store.queries().log(change.instance.id)) == 2


def test_a12_two_orchestrators_that_meet_save_one_change(store: SqlStore, threads: Threads) -> None:
    change = new("1")
    save(store, change)

    def orchestrate() -> str:
        try:
            with store.begin() as uow:
                uow.save_sagas([next_change(change)])
        except SerializationConflict:
            return "fenced"
        return "saved"

    with store.begin() as uow:
        uow.save_sagas([next_change(change)])
        other = threads.start_and_block(orchestrate)
    assert other.result() == "fenced"


def test_a12_of_two_that_begin_one_saga_at_once_one_is_fenced(store: SqlStore, threads: Threads) -> None:
    def begin() -> str:
        try:
            save(store, new("1"))
        except SerializationConflict:
            return "fenced"
        return "begun"

    with store.begin() as uow:
        assert uow.load_sagas([new("1").instance.id]) == {}
        uow.save_sagas([new("1")])
        uow.current_sagas([("place-order", "2")])  # before this it was sent
        other = threads.start_and_block(begin)
    assert other.result() == "fenced"
    assert len(store.queries().log(new("1").instance.id)) == 1


def test_sagas_that_are_looked_for_ahead_come_with_the_inbox(store: SqlStore) -> None:
    known, later, unknown = new("1"), new("2"), uuid4()
    save(store, known, later)
    id, changed = known.instance.id, next_change(known)
    with store.begin() as uow:
        uow.look_ahead((), [id, unknown])
        uow.claim_inbox([InboxKey("saga:place-order", "shop", uuid4())])
        with counted_statements(store) as statements:
            assert uow.load_sagas([id, unknown]) == {id: known.instance}
            assert statements == []
        asked = uow.load_sagas([id, later.instance.id])
        assert asked == {id: known.instance, later.instance.id: later.instance}, "asked for, if one was not"
        uow.save_sagas([changed])
        assert uow.load_sagas([id]) == {id: changed.instance}, "as it is by now"


def test_a39_who_looks_ahead_for_a_saga_waits_and_then_reads_what_the_other_left(
    store: SqlStore, threads: Threads
) -> None:
    change = new("1")
    save(store, change)
    id, changed = change.instance.id, next_change(change)

    def look_ahead() -> dict[UUID, Instance]:
        with store.begin() as uow:
            uow.look_ahead((), [id])
            uow.claim_inbox([InboxKey("saga:place-order", "shop", uuid4())])
            loaded = uow.load_sagas([id])
            uow.save_sagas([next_change(changed)])
            return loaded

    with store.begin() as uow:
        uow.load_sagas([id])
        other = threads.start_and_block(look_ahead)
        uow.save_sagas([changed])
    assert other.result() == {id: changed.instance}
    assert len(store.queries().log(id)) == 3


def test_a39_loading_waits_and_then_reads_what_the_other_left(store: SqlStore, threads: Threads) -> None:
    change = new("1", due=minutes(9))
    save(store, change)
    changed = next_change(change, due=minutes(5))

    def load_and_drop_the_timer() -> Instance:
        with store.begin() as uow:
            loaded = uow.load_sagas([change.instance.id])[change.instance.id]
            uow.save_sagas([next_change(changed, due=minutes(7))])
            return loaded

    with store.begin() as uow:
        uow.load_sagas([change.instance.id])
        other = threads.start_and_block(load_and_drop_the_timer)
        uow.save_sagas([changed])
    assert other.result() == changed.instance
    assert timer(store, change.instance.id) == minutes(5)  # the lazy timer that the other one had set


class TestTimers:
    def test_a_saga_with_a_deadline_gets_a_timer(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        save(store, change, new("2"))
        assert timer(store, change.instance.id) == minutes(5)
        assert store.next_due() == minutes(5)
        assert store.due_sagas(minutes(5), 10) == [change.instance.id]
        assert store.due_sagas(minutes(5) - timedelta(microseconds=1), 10) == []

    def test_the_oldest_timer_is_first(self, store: SqlStore) -> None:
        changes = [new(str(n), due=minutes(-n)) for n in (1, 3, 2)]
        save(store, *changes)
        assert store.due_sagas(NOW, 2) == [changes[1].instance.id, changes[2].instance.id]

    def test_an_earlier_wish_moves_the_timer(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        save(store, change)
        save(store, next_change(change, due=minutes(4)))
        assert timer(store, change.instance.id) == minutes(4)

    def test_a_later_wish_leaves_the_timer_and_costs_nothing(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        save(store, change)
        assert len(save(store, next_change(change, due=minutes(6)))) == 2
        assert timer(store, change.instance.id) == minutes(5)

    def test_a_timer_that_fired_is_set_to_a_later_time(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        save(store, change)
        save(store, next_change(change, due=minutes(6), woken=True))
        assert timer(store, change.instance.id) == minutes(6)

    def test_a_timer_that_fired_for_nothing_is_set_without_any_event(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        save(store, change)
        save(store, SagaChange(1, waking(change.instance, minutes(6)), (), woken=True))
        assert timer(store, change.instance.id) == minutes(6)

    def test_without_a_wish_the_timer_goes(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        save(store, change)
        save(store, next_change(change))
        assert timer(store, change.instance.id) is None
        assert store.next_due() is None

    def test_a_saga_that_was_not_loaded_gets_the_timer_it_wishes(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        save(store, change)
        with store.begin() as uow:
            uow.save_sagas([next_change(change, due=minutes(6))])
        assert timer(store, change.instance.id) == minutes(6)

    def test_a_saga_that_was_not_loaded_loses_the_timer_that_it_no_longer_wishes(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        save(store, change)
        with store.begin() as uow:
            uow.save_sagas([next_change(change)])
        assert timer(store, change.instance.id) is None

    def test_two_changes_of_one_saga_in_one_transaction_know_each_others_timer(self, store: SqlStore) -> None:
        change = new("1", due=minutes(5))
        with store.begin() as uow:
            uow.save_sagas([change])
            uow.save_sagas([next_change(change, due=minutes(6))])
        assert timer(store, change.instance.id) == minutes(5)


class TestStatementCounts:
    def test_sagas_that_go_on_take_two_statements_however_many(self, store: SqlStore) -> None:
        changes = [new(str(n)) for n in range(100)]
        save(store, *changes)
        assert len(save(store, *[next_change(change) for change in changes])) == 2

    def test_new_sagas_take_two_and_one_for_their_timers(self, store: SqlStore) -> None:
        assert len(save(store, *[new(str(n)) for n in range(100)])) == 2
        assert len(save(store, *[new(str(n), due=NOW) for n in range(100, 200)])) == 3

    def test_loading_takes_one(self, store: SqlStore) -> None:
        with store.begin() as uow, counted_statements(store) as statements:
            uow.load_sagas([uuid4() for _ in range(100)])
            uow.current_sagas([("a", str(n)) for n in range(100)])
        assert len(statements) == 2


class TestQueries:
    def test_sagas_are_found_by_name_status_and_key(self, store: SqlStore) -> None:
        running, ended = new("1"), new("2")
        ended = replace(ended, instance=replace(ended.instance, ended=SagaStatus.COMPLETED))
        save(store, running, ended)
        queries = store.queries()
        assert {saga.key for saga in queries.sagas()} == {"1", "2"}
        assert [saga.key for saga in queries.sagas(status=SagaStatus.COMPLETED)] == ["2"]
        assert [saga.saga_id for saga in queries.sagas(name="place-order", key="1")] == [running.instance.id]
        assert queries.sagas(name="other") == []
        assert len(queries.sagas(limit=1, order="longest-idle")) == 1
        assert queries.counts().sagas == {SagaStatus.RUNNING: 1}
        assert store.live_versions() == {("place-order", 1): 1}

    def test_a_summary_says_when_and_why(self, store: SqlStore) -> None:
        change = new("1")
        save(store, change)
        turned = CompensationBegan(step="pay", reason="no money", message=None, body=None)
        back = next_change(change, event=turned)
        back = replace(back, instance=replace(back.instance, turned=Turned("pay", "no money")))
        save(store, back)
        save(store, next_change(back))
        (found,) = store.queries().sagas()
        assert (found.status, found.reason, found.seq) == (SagaStatus.COMPENSATING, "no money", 3)
        assert (found.started_at, found.updated_at) == (NOW, NOW + timedelta(seconds=3))
        assert store.queries().saga(found.saga_id) == found

    def test_an_unknown_saga_is_none(self, store: SqlStore) -> None:
        assert store.queries().saga(uuid4()) is None
        assert store.queries().instance(uuid4()) is None
        assert store.queries().log(uuid4()) == []
