"""Several relays of one outbox, each with its share of the keys (ADR 23)."""

from collections import Counter
from contextlib import ExitStack, closing

import pytest
from sqlalchemy import QueuePool

from kafkasaga.errors import ConfigurationError
from kafkasaga.ports import RelayQueue
from kafkasaga.stores import SqlStore
from kafkasaga.stores.relay_share import PAUSE, Share, ShareTurns
from tests.contract.stores.store_kit import until
from tests.contract.stores.test_store_relay_queue import envelope, publish


def held(*queues: RelayQueue) -> int:
    return sum(queue.acquire() for queue in queues)


def test_a36_relays_with_shares_work_side_by_side_and_have_every_key_once(postgres_store: SqlStore) -> None:
    with ExitStack() as stack:
        queues = [stack.enter_context(closing(queue)) for queue in postgres_store.relay_queues(3)]
        until(lambda: held(*queues) == 3)
        sent = [envelope(key=f"k{n % 60}") for n in range(120)]
        publish(postgres_store, *sent)
        rows = [queue.fetch(0, 1000) for queue in queues]
        assert all(rows), "each has some"
        owners = {(row.key, number) for number, page in enumerate(rows) for row in page}
        assert len(owners) == 60, "each key is one's"
        assert Counter(row.message_id for page in rows for row in page) == Counter(message.id for message in sent)
        for queue, page in zip(queues, rows, strict=True):
            queue.delete(page)
        assert postgres_store.queries().counts().outbox == 0


def test_a_row_that_is_blocked_is_its_own_shares_business(postgres_store: SqlStore) -> None:
    """Another relay would wait for ever to hear that it is mended."""
    with ExitStack() as stack:
        queues = [stack.enter_context(closing(queue)) for queue in postgres_store.relay_queues(2)]
        until(lambda: held(*queues) == 2)
        publish(postgres_store, envelope(key="k"))
        (owner,) = [queue for queue in queues if queue.fetch(0, 10)]
        (other,) = [queue for queue in queues if queue is not owner]
        (row,) = owner.fetch(0, 10)
        owner.block([(row, "too large")])
        assert list(owner.blocked()) == [row.message_id]
        assert not other.blocked()


def test_who_is_not_its_turn_takes_no_connection(postgres_store: SqlStore) -> None:
    """They come from the pool of the whole service."""
    first, second, third = postgres_store.relay_queues(3)
    pool = postgres_store.engine.pool
    assert isinstance(pool, QueuePool)
    assert first.acquire()
    assert not second.acquire()
    assert not third.acquire()
    assert pool.checkedout() == 1
    for queue in (first, second, third):
        queue.close()


def test_i11_each_share_has_one_relay_and_is_taken_over_by_another_process(postgres_store: SqlStore) -> None:
    ours, others = postgres_store.relay_queues(2), postgres_store.relay_queues(2)
    until(lambda: held(*ours) == 2)
    assert held(*others) == 0
    ours[0].close()
    until(lambda: held(*others) == 1)
    ours[1].close()
    until(lambda: held(*others) == 2)
    for queue in others:
        queue.close()


def test_i11_relays_of_another_number_of_shares_repeat_and_keep_the_order(postgres_store: SqlStore) -> None:
    """While a service is deployed with another number, both are there."""
    whole, halves = postgres_store.relay_queue(), postgres_store.relay_queues(2)
    until(lambda: held(whole, *halves) == 3)
    publish(postgres_store, *(envelope(key="k", payload=b"%d" % n) for n in range(6)))
    first = whole.fetch(0, 3)
    whole.delete(first[:2])
    (found,) = [page for half in halves if (page := half.fetch(0, 10))]
    assert [row.payload for row in found] == [b"2", b"3", b"4", b"5"], "from the first that is not known to be there"
    for queue in (whole, *halves):
        queue.close()


def test_sqlite_has_one_relay(sqlite_store: SqlStore) -> None:
    with pytest.raises(ConfigurationError, match="remove KAFKASAGA_RELAYS"):
        sqlite_store.relay_queues(2)


def test_who_holds_less_asks_earlier() -> None:
    now = [0.0]
    busy, idle = ShareTurns(lambda: now[0]), ShareTurns(lambda: now[0])
    assert busy.wait() == 0
    busy.took(Share(0, 4))
    assert busy.wait() == PAUSE
    assert idle.wait() == 0
    now[0] += PAUSE
    assert busy.wait() == 0
    busy.took(Share(1, 4))
    assert busy.wait() == 2 * PAUSE
    busy.lost(Share(0, 4))
    assert busy.wait() == PAUSE
    busy.lost(Share(1, 4))
    assert busy.wait() == 0, "who has lost everything asks at once"
    assert busy.wait() == 0, "who holds nothing need not wait"
