"""Parked messages (invariants I4, I10, I13)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import event

from kafkasaga.messages import Operation, Record
from kafkasaga.ports import UNMATCHED, BarrierKey, InboxKey, Parked, ParkedKey, ParkedStatus, Progress, TopicPartition
from kafkasaga.stores import SqlStore
from tests.contract.stores.store_kit import Threads, counted_statements

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def parked(key: bytes | None = b"a", *, offset: int = 0, due: datetime = NOW) -> Parked:
    headers = {"ce_id": b"1", "raw": bytes(range(256))}
    record = Record("orders", 3, offset, key, b"\x00\xffbody", headers)
    return Parked("billing", record, uuid4(), "shop", "boom\0", ParkedStatus.WAITING, 1, due, NOW)


def park(store: SqlStore, *messages: Parked) -> None:
    with store.begin() as uow:
        uow.park(messages)


def test_a_parked_message_comes_back_as_it_was(store: SqlStore) -> None:
    message = parked()
    tombstone = parked(b"\xfe", offset=1, due=NOW + timedelta(seconds=1))
    tombstone = replace(tombstone, record=replace(tombstone.record, value=None))
    park(store, message, tombstone)
    first, second = store.queries().parked()
    assert replace(first, id=0) == replace(message, error="boom�")
    assert replace(second, id=0) == replace(tombstone, error="boom�")


def test_parked_messages_are_found_by_who_parked_them(store: SqlStore) -> None:
    mine, dead = parked(), replace(parked(offset=1), status=ParkedStatus.DEAD)
    theirs = replace(mine, consumer="stock")
    park(store, mine, dead, theirs)
    keys = [InboxKey(one.consumer, one.source, one.message_id) for one in (mine, dead)]
    absent = [keys[0]._replace(source="x"), keys[0]._replace(consumer="x"), keys[0]._replace(message_id=uuid4())]
    with store.begin() as uow:
        found = uow.parked_ids("orders", [*keys, *absent])
        assert uow.parked_ids("other", keys) == uow.parked_ids("orders", []) == {}
    assert found == {key: one.id for key, one in zip(keys, store.queries().parked(), strict=False)}


def test_parked_messages_are_found_by_an_index(store: SqlStore) -> None:
    asked: list[tuple[str, Any]] = []
    event.listen(store.engine, "before_cursor_execute", lambda _, __, *what: asked.append(what[:2]))
    with store.begin() as uow:
        uow.parked_ids("orders", [InboxKey("billing", "shop", uuid4())])
    (found,) = [(statement, given) for statement, given in asked if "parked_message" in statement]
    explain = "EXPLAIN QUERY PLAN"
    with store.engine.connect() as connection:
        if store.engine.dialect.name == "postgresql":
            explain = "EXPLAIN"
            connection.exec_driver_sql("SET enable_seqscan = off")  # an empty table would be read as a whole
        plan = connection.exec_driver_sql(f"{explain} {found[0]}", found[1]).all()
    assert "parked_message_message" in str(plan)


def test_i4_only_the_head_of_a_lane_is_given(store: SqlStore) -> None:
    park(store, parked(offset=1, due=NOW + timedelta(hours=1)), parked(offset=2), parked(b"b", offset=3))
    with store.begin() as uow:
        found = uow.claim_parked(NOW)
    assert found is not None
    assert found.record.offset == 3


def test_i4_a_dead_message_holds_its_lane(store: SqlStore) -> None:
    park(store, parked(offset=1), parked(offset=2))
    with store.begin() as uow:
        head = uow.claim_parked(NOW)
        assert head is not None
        uow.repark(head.id, error="gave up", status=ParkedStatus.DEAD, attempts=9, next_at=NOW)
    with store.begin() as uow:
        assert uow.claim_parked(NOW) is None
    dead = store.queries().parked()[0]
    assert (dead.error, dead.attempts, dead.status) == ("gave up", 9, ParkedStatus.DEAD)


def test_a06_a_dead_message_that_no_saga_knows_holds_nothing(store: SqlStore) -> None:
    dead, later = [replace(parked(offset=n), consumer=f"saga:buy{UNMATCHED}") for n in (1, 2)]
    park(store, replace(dead, status=ParkedStatus.DEAD), later)
    with store.begin() as uow:
        found = uow.claim_parked(NOW)
    assert found is not None
    assert found.record.offset == 2


def test_the_next_of_a_lane_follows_when_the_head_was_handled(store: SqlStore) -> None:
    park(store, parked(offset=1), parked(offset=2))
    offsets = []
    for _ in range(2):
        with store.begin() as uow:
            head = uow.claim_parked(NOW)
            assert head is not None
            offsets.append(head.record.offset)
            uow.unpark(head.id)
    assert offsets == [1, 2]
    with store.begin() as uow:
        assert uow.claim_parked(NOW) is None


def test_nothing_is_given_before_it_is_due(store: SqlStore) -> None:
    park(store, parked(due=NOW + timedelta(seconds=1)))
    with store.begin() as uow:
        assert uow.claim_parked(NOW) is None
        assert uow.claim_parked(NOW + timedelta(seconds=1)) is not None


def test_messages_without_a_key_do_not_wait_for_each_other(store: SqlStore) -> None:
    park(store, parked(None, offset=1, due=NOW + timedelta(hours=1)), parked(None, offset=2))
    with store.begin() as uow:
        found = uow.claim_parked(NOW)
    assert found is not None
    assert found.record.offset == 2


def test_lanes_in_which_something_is_parked_are_known(store: SqlStore) -> None:
    park(store, parked(b"a\x00"), parked(None))
    lane = ParkedKey("billing", "orders", b"a\x00")
    others = {lane._replace(consumer="x"), lane._replace(topic="x"), lane._replace(key=b"a"), lane._replace(key=b"")}
    with store.begin() as uow, counted_statements(store) as statements:
        assert uow.parked_lanes({lane, *others}) == {lane}
    assert len(statements) == 1


def test_i4_two_replicas_never_get_two_messages_of_one_lane(postgres_store: SqlStore) -> None:
    park(postgres_store, parked(offset=1), parked(offset=2), parked(b"b", offset=3))
    with postgres_store.begin() as one, postgres_store.begin() as two, postgres_store.begin() as three:
        found = [uow.claim_parked(NOW) for uow in (one, two, three)]
    assert [message and message.record.offset for message in found] == [1, 3, None]


def test_i4_a_lane_is_emptied_in_order_by_many_replicas(store: SqlStore) -> None:
    park(store, *[parked(key, offset=n) for n in range(15) for key in (b"a", b"b", b"c")])
    handled: list[tuple[bytes | None, int]] = []

    def replica() -> None:
        while True:
            with store.begin() as uow:
                head = uow.claim_parked(NOW)
                if head is None:
                    if not uow.parked_lanes([ParkedKey("billing", "orders", key) for key in (b"a", b"b", b"c")]):
                        return
                    continue
                handled.append((head.record.key, head.record.offset))
                uow.unpark(head.id)

    threads = Threads(store)
    for future in [threads.start(replica) for _ in range(4)]:
        future.result()
    threads.close()
    assert len(handled) == 45
    for key in (b"a", b"b", b"c"):
        assert [offset for lane, offset in handled if lane == key] == list(range(15))


def lane(*messages: Parked) -> tuple[Parked, ...]:
    """The first is due, the others wait behind it."""
    first, *others = messages
    return (first, *(replace(other, next_at=None, attempts=0) for other in others))


def offsets_of(store: SqlStore) -> list[int]:
    """What is due, one after the other, each handled before the next is asked for."""
    found: list[int] = []
    while True:
        with store.begin() as uow:
            head = uow.claim_parked(NOW)
            if head is None:
                return found
            found.append(head.record.offset)
            uow.unpark(head.id)


def test_i04_what_waits_behind_becomes_due_when_the_one_before_it_leaves(store: SqlStore) -> None:
    park(store, *lane(*[parked(offset=n) for n in range(4)]), parked(b"b", offset=9, due=NOW + timedelta(hours=1)))
    assert offsets_of(store) == [0, 1, 2, 3]


def test_i04_a_dead_letter_lets_its_lane_go_on_and_is_kept(store: SqlStore) -> None:
    park(store, *lane(parked(offset=1), parked(offset=2), parked(offset=3)))
    with store.begin() as uow:
        head = uow.claim_parked(NOW)
        assert head is not None
        uow.repark(head.id, error="gave up", status=ParkedStatus.DEAD_LETTER, attempts=9, next_at=NOW)
    assert offsets_of(store) == [2, 3]
    assert [message.record.offset for message in store.queries().parked()] == [1]
    with store.begin() as uow:
        assert uow.parked_lanes([ParkedKey("billing", "orders", b"a")]) == set()


def test_removing_one_from_the_middle_of_a_lane_makes_nothing_due(store: SqlStore) -> None:
    park(store, *lane(parked(offset=1, due=NOW + timedelta(hours=1)), parked(offset=2), parked(offset=3)))
    middle = store.queries().parked()[1]
    with store.begin() as uow:
        uow.unpark(middle.id)
    assert offsets_of(store) == []
    assert [message.next_at for message in store.queries().parked()] == [NOW + timedelta(hours=1), None]


def test_i10_a_message_parked_while_the_one_before_it_left_is_found(postgres_store: SqlStore) -> None:
    park(postgres_store, parked(offset=1))
    with postgres_store.begin() as parking:
        assert parking.parked_lanes([ParkedKey("billing", "orders", b"a")])
        assert offsets_of(postgres_store) == [1]
        parking.park(lane(parked(offset=1), parked(offset=2))[1:])
    assert offsets_of(postgres_store) == []
    with postgres_store.begin() as uow:
        assert uow.free_lanes() == 1
    assert offsets_of(postgres_store) == [2]


def test_nobody_is_freed_behind_a_message_that_waits_or_is_dead(store: SqlStore) -> None:
    later = NOW + timedelta(hours=1)
    dead = replace(parked(b"b", offset=3), status=ParkedStatus.DEAD)
    park(store, *lane(parked(offset=1, due=later), parked(offset=2)), *lane(dead, parked(b"b", offset=4)))
    with store.begin() as uow:
        assert uow.free_lanes() == 0


def test_an_attempt_is_made_by_who_recorded_it_last(store: SqlStore) -> None:
    park(store, parked())
    with store.begin() as uow:
        head = uow.claim_parked(NOW)
        assert head is not None
        uow.repark(head.id, error="boom", status=ParkedStatus.WAITING, attempts=2, next_at=NOW, deaths=1)
    with store.begin() as uow:
        assert not uow.lock_parked(head.id, 1)
        assert uow.lock_parked(head.id, 2)
        assert not uow.lock_parked(head.id + 1, 2)
    assert store.queries().parked()[0].deaths == 1


def test_i04_a_message_whose_attempt_is_under_way_is_nobody_elses(postgres_store: SqlStore) -> None:
    park(postgres_store, *lane(parked(offset=1), parked(offset=2)))
    with postgres_store.begin() as one, postgres_store.begin() as two:
        head = postgres_store.queries().parked()[0]
        assert one.lock_parked(head.id, 1)
        assert two.claim_parked(NOW) is None


def test_who_only_looks_for_a_head_does_not_keep_an_attempt_from_being_made(store: SqlStore, threads: Threads) -> None:
    """PostgreSQL locks a row before it sees that it is not due any more: the attempt waits for the one who looks."""
    park(store, parked())
    head = store.queries().parked()[0]

    def attempt() -> bool:
        with store.begin() as uow:
            return uow.lock_parked(head.id, 1)

    with store.begin() as looking:
        assert looking.claim_parked(NOW) is not None
        made = threads.start_and_block(attempt)
    assert made.result(30)


def test_what_a_saga_asked_for_is_kept_with_its_command(store: SqlStore) -> None:
    key = BarrierKey(uuid4(), "pay", 2, Operation.COMPENSATION)
    park(store, replace(parked(), asks=key))
    assert store.queries().parked()[0].asks == key


def test_messages_are_counted_by_partition(store: SqlStore) -> None:
    dead, letter = (replace(parked(b"b"), status=status) for status in (ParkedStatus.DEAD, ParkedStatus.DEAD_LETTER))
    park(store, parked(), parked(b"c"), dead, letter)
    place, other = TopicPartition("orders", 3), TopicPartition("orders", 4)
    assert store.parked_counts([place, other]) == {place: 3, other: 0}


class TestOwners:
    """Who reads a partition, and whether the one before left it in good order (A21)."""

    place = TopicPartition("orders", 3)

    def test_a_partition_that_was_given_up_is_taken_over_without_suspicion(self, store: SqlStore) -> None:
        one, two = uuid4(), uuid4()
        assert store.take_over("shop", one, [self.place]) == {}
        with store.begin() as uow:
            uow.advance("shop", {self.place: 5})
        store.give_up("shop", one, [self.place])
        assert store.take_over("shop", two, [self.place]) == {self.place: Progress(5, given_up=True)}

    def test_a21_a_partition_whose_owner_died_is_suspicious(self, store: SqlStore) -> None:
        store.take_over("shop", uuid4(), [self.place])
        assert store.take_over("shop", uuid4(), [self.place]) == {self.place: Progress(None, given_up=False)}
        assert store.positions("shop", [self.place]) == {}, "nothing was read"

    def test_the_same_process_may_lose_a_partition_and_get_it_again(self, store: SqlStore) -> None:
        owner = uuid4()
        store.take_over("shop", owner, [self.place])
        assert store.take_over("shop", owner, [self.place]) == {self.place: Progress(None, given_up=True)}

    def test_who_was_replaced_cannot_give_up(self, store: SqlStore) -> None:
        late, owner = uuid4(), uuid4()
        store.take_over("shop", late, [self.place])
        store.take_over("shop", owner, [self.place])
        store.give_up("shop", late, [self.place])
        assert store.take_over("shop", uuid4(), [self.place]) == {self.place: Progress(None, given_up=False)}

    def suspected(self, store: SqlStore) -> int | None:
        return store.take_over("shop", uuid4(), [self.place])[self.place].suspect_end

    def test_a21_a_batch_is_suspected_until_it_is_handled(self, store: SqlStore) -> None:
        store.take_over("shop", uuid4(), [self.place])
        with store.begin() as uow:
            uow.note_attempt("shop", self.place, 3)
            uow.note_batch("shop", {self.place: 9, TopicPartition("orders", 4): 2})
        assert self.suspected(store) == 9
        with store.begin() as uow:
            uow.advance("shop", {self.place: 8})
        assert self.suspected(store) == 9
        with store.begin() as uow:
            uow.advance("shop", {self.place: 9})
        assert self.suspected(store) is None

    def test_a21_a_partition_that_begins_anew_suspects_nothing(self, store: SqlStore) -> None:
        other = TopicPartition("orders", 4)
        store.take_over("shop", uuid4(), [self.place, other])
        with store.begin() as uow:
            uow.advance("shop", {self.place: 7, other: 7})
            uow.note_batch("shop", {self.place: 9, other: 9})
        with store.begin() as uow:
            uow.rewind("shop", {self.place: 0})
        found = store.take_over("shop", uuid4(), [self.place, other])
        assert found == {self.place: Progress(0, given_up=False), other: Progress(7, given_up=False, suspect_end=9)}

    def test_a21_attempts_at_what_is_read_next_are_counted(self, store: SqlStore) -> None:
        def note(offset: int) -> int:
            with store.begin() as uow:
                return uow.note_attempt("shop", self.place, offset)

        assert [note(7), note(7), note(8), note(7), note(7)] == [1, 2, 1, 1, 2]
        assert self.suspected(store) == 8
        with store.begin() as uow:
            uow.advance("shop", {self.place: 9})
        assert store.positions("shop", [self.place]) == {self.place: 9}
