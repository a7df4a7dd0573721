"""Parked commands of sagas: one that is sent again, and one whose step was undone first (I4, I9, I10)."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from kafkasaga.messages import Operation, Record
from kafkasaga.ports import BarrierEntry, BarrierKey, InboxKey, Outcome, Parked, ParkedKey, ParkedStatus, TopicPartition
from kafkasaga.stores import SqlStore
from tests.contract.stores.test_store_parked import NOW, lane, park, parked

LATER = NOW + timedelta(hours=1)


def asks(saga: UUID, operation: Operation = Operation.ACTION, generation: int = 0) -> BarrierKey:
    return BarrierKey(saga, "pay", generation, operation)


def command(key: BarrierKey, *, offset: int = 0, due: datetime = LATER) -> Parked:
    return replace(parked(offset=offset, due=due), asks=key)


def again(key: BarrierKey, *, offset: int = 9) -> Parked:
    record = Record("orders", 4, offset, b"a", b"new body", {"ce_id": b"2"})
    behind = Parked("billing", record, uuid4(), "other", "waits behind", ParkedStatus.WAITING, 0, None, LATER)
    return replace(behind, asks=key)


def stored(store: SqlStore) -> list[Parked]:
    return [replace(message, id=0) for message in store.queries().parked()]


def test_a_command_that_is_sent_again_takes_the_place_of_its_predecessor(store: SqlStore, saga: UUID) -> None:
    first, second = replace(command(asks(saga)), attempts=4, deaths=2), parked(offset=1)
    park(store, *lane(first, second))
    new = again(asks(saga))
    with store.begin() as uow:
        assert uow.replace_parked([new]) == {InboxKey("billing", "other", new.message_id)}
    head, follower = stored(store)
    kept = replace(first, record=new.record, message_id=new.message_id, source=new.source)
    assert replace(head, error="") == replace(kept, error="")
    assert (head.attempts, head.deaths, head.next_at, head.parked_at) == (4, 2, LATER, NOW)
    assert follower.record.offset == 1
    assert follower.next_at is None


def test_only_what_asks_the_same_in_the_same_lane_is_replaced(store: SqlStore, saga: UUID) -> None:
    key = asks(saga)
    others = [
        command(asks(uuid4())),
        command(asks(saga, Operation.COMPENSATION)),
        command(asks(saga, generation=1)),
        command(key._replace(step="ship")),
        replace(command(key), consumer="audit"),
        replace(command(key), record=replace(parked().record, topic="x")),
        replace(command(key), record=replace(parked().record, key=b"b")),
        replace(command(key), status=ParkedStatus.DEAD_LETTER),
    ]
    park(store, *others)
    before = stored(store)
    with store.begin() as uow:
        assert uow.replace_parked([again(key)]) == set()
    assert stored(store) == before


def test_what_was_sent_again_stays_dead_and_keeps_its_place(store: SqlStore, saga: UUID) -> None:
    park(store, replace(command(asks(saga)), status=ParkedStatus.DEAD, attempts=20))
    with store.begin() as uow:
        assert len(uow.replace_parked([again(asks(saga))])) == 1
    (dead,) = stored(store)
    assert (dead.status, dead.attempts, dead.record.value) == (ParkedStatus.DEAD, 20, b"new body")


def test_i09_what_was_undone_first_leaves_its_lane_which_goes_on(store: SqlStore, saga: UUID) -> None:
    dead = replace(command(asks(saga)), status=ParkedStatus.DEAD)
    park(store, *lane(dead, parked(offset=1), parked(offset=2)))
    with store.begin() as uow:
        assert uow.drop_parked([asks(saga)]) == [(ParkedKey("billing", "orders", b"a"), asks(saga))]
    assert [(m.record.offset, m.next_at) for m in stored(store)] == [(1, NOW), (2, None)]


def test_i04_dropping_from_the_middle_of_a_lane_makes_nothing_due(store: SqlStore, saga: UUID) -> None:
    park(store, *lane(parked(offset=1, due=LATER), command(asks(saga), offset=2), parked(offset=3)))
    with store.begin() as uow:
        assert len(uow.drop_parked([asks(saga)])) == 1
    assert [(m.record.offset, m.next_at) for m in stored(store)] == [(1, LATER), (3, None)]


def test_i10_only_the_action_that_was_superseded_is_dropped(store: SqlStore, saga: UUID) -> None:
    letter = replace(command(asks(saga)), status=ParkedStatus.DEAD_LETTER)
    others = [command(asks(saga, Operation.COMPENSATION)), command(asks(saga, generation=1)), command(asks(uuid4()))]
    park(store, letter, parked(), *others)
    with store.begin() as uow:
        assert uow.drop_parked([asks(saga)]) == []
    assert len(stored(store)) == 5


def test_a_command_without_a_key_is_dropped_too(store: SqlStore, saga: UUID) -> None:
    message = command(asks(saga))
    park(store, replace(message, record=replace(message.record, key=None)))
    with store.begin() as uow:
        assert len(uow.drop_parked([asks(saga)])) == 1
    assert stored(store) == []


def test_a03_a_command_that_is_being_tried_is_left_alone_and_nobody_waits(postgres_store: SqlStore, saga: UUID) -> None:
    """Who tries it may wait for our claim of the barrier: waiting for its row would be a dead-lock."""
    store = postgres_store
    park(store, replace(command(asks(saga), due=NOW), attempts=1))
    head = store.queries().parked()[0]
    with store.begin() as trying, store.begin() as other:
        assert trying.lock_parked(head.id, 1)
        assert other.replace_parked([again(asks(saga))]) == set()
        assert other.drop_parked([asks(saga)]) == []
    assert [message.record.value for message in stored(store)] == [b"\x00\xffbody"]


def test_i09_an_action_is_carried_out_when_its_handler_ran(store: SqlStore) -> None:
    done, superseded, unknown = (asks(uuid4()) for _ in range(3))
    entries = {done: BarrierEntry(Outcome.DONE), superseded: BarrierEntry(Outcome.SUPERSEDED)}
    with store.begin() as uow:
        uow.settle_barrier(entries)
    with store.begin() as uow:
        assert uow.carried_out([done, superseded, unknown]) == {done}
        assert uow.read_barrier([unknown]) == {}, "it claims nothing"
        uow.settle_barrier({unknown: BarrierEntry(Outcome.DONE)})
        assert uow.carried_out([unknown]) == {unknown}


def test_i14_messages_are_counted_for_their_own_partition_only(store: SqlStore) -> None:
    """Of one topic, of whichever consumer; another topic's partition of the same number is another one."""
    place = TopicPartition("orders", 3)
    unmatched = replace(parked(), consumer="saga:buy:unmatched")
    neighbour = replace(parked(), record=replace(parked().record, partition=4))
    foreign = replace(parked(), record=replace(parked().record, topic="x"))
    park(store, parked(), unmatched, neighbour, foreign)
    places = [place, place._replace(partition=4), place._replace(partition=5), TopicPartition("x", 3)]
    assert store.parked_counts(places) == dict(zip(places, (2, 1, 0, 1), strict=True))
