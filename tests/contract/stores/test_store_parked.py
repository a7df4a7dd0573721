"""Parked messages (invariants I4, I10, I13)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from kafkasaga.messages import Record
from kafkasaga.ports import Parked, ParkedKey, ParkedStatus
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
