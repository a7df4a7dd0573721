"""The relay: nothing lost, no key reordered, whatever is refused, committed late, or done twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert
from structlog.testing import capture_logs

from kafkasaga import Outbox, Service
from kafkasaga.errors import DatabaseUnavailable, SerializationConflict
from kafkasaga.ports import Failures, OutboxRow, Page, RelayQueue, SendError, nothing
from kafkasaga.runtime.relay import Relay
from kafkasaga.runtime.relay_blocks import LOOK_FOR_ABSENT, MOST_LANES, RETRY_BLOCKED, RETRY_BLOCKED_MOST, RETRY_PASSING
from kafkasaga.runtime.relay_stream import PATIENCE
from kafkasaga.runtime.relay_window import STALLED
from kafkasaga.testing.broker import MemoryBroker, MemoryProducer
from tests.unit.runtime.kit import Node, VirtualClock, until


@pytest.fixture
def node(broker: MemoryBroker, clock: VirtualClock) -> Node:
    return Node(Service("svc", outbox=Outbox()), broker, clock)


def put(node: Node, topic: str, key: str, body: str, position: int | None = None) -> UUID:
    """A committed row."""
    identity = uuid4()
    values = {"message_id": identity, "topic": topic, "key": key, "payload": body.encode(), "headers": "{}"}
    values |= {"created_at": datetime.now(UTC)} | ({} if position is None else {"id": position})
    with node.store.engine.begin() as connection:
        connection.execute(insert(node.store.tables.outbox).values(**values))
    return identity


def sent(broker: MemoryBroker, topic: str, key: str | None = None) -> list[str]:
    records = broker.records(topic)
    return [(r.value or b"").decode() for r in records if key is None or r.key == key.encode()]


class Queue:
    """A real queue, and what happens around it: another process takes or gives the lock, or commits in between."""

    def __init__(self, node: Node, **hooks: Callable[..., Any]) -> None:
        self._queue: RelayQueue = node.store.relay_queue()
        self._hooks = hooks

    def delete(
        self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None] = nothing, then: Page | None = None
    ) -> Any:
        """A page that is read with it is read all the same."""
        found = self.__getattr__("delete")(rows, meanwhile, then)
        hook = self._hooks.get("fetch")
        return found if hook is None or then is None else hook(lambda *_: found, *then)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._queue, name)
        hook = self._hooks.get(name)
        return real if hook is None else lambda *args, **kwargs: hook(real, *args, **kwargs)


class Producer(MemoryProducer):
    """Shows what is under way."""

    @property
    def under_way(self) -> list[tuple[str, str]]:
        """One by one."""
        return [(topic, key) for topic, key, *_, done in self._waiting if done not in self._streaming]


def test_rows_are_published_in_order_and_deleted(node: Node, broker: MemoryBroker) -> None:
    for n in range(30):
        put(node, "t", f"k{n % 3}", str(n))
    node.publish()
    for k in range(3):
        assert sent(broker, "t", f"k{k}") == [str(n) for n in range(k, 30, 3)]
    assert node.count("outbox") == 0


def test_i04_of_what_is_sent_at_most_one_row_of_a_lane_is_unacknowledged(node: Node, broker: MemoryBroker) -> None:
    producers: list[Producer] = []

    def connect() -> Producer:
        producers.append(Producer(broker))
        return producers[0]

    relay = Relay(node.store.relay_queue(), connect, node.clock, poll_interval=0.001)
    broker.reject = lambda topic, key, value: TIMED_OUT if value == b"never" else None
    put(node, "t", "k0", "never")
    put(node, "u", "k0", "never")
    relay.step()  # both topics fail: they are not trusted for a while
    node.clock.sleep(RETRY_PASSING / 2)
    for n in range(20):
        put(node, "t", f"k{1 + n % 2}", str(n))
        put(node, "u", "k1", str(n))
    relay.step()  # `poll` served what had been sent; what follows each of them is under way now
    lanes = producers[0].under_way
    assert sorted(lanes) == [("t", "k1"), ("t", "k2"), ("u", "k1")]
    assert not producers[0]._streaming


def trust(node: Node, *topics: str) -> None:
    """Have the node's relay publish a row of each."""
    for topic in topics:
        put(node, topic, "first", "first")
    node.publish()


def test_rows_of_one_key_leave_together_while_all_goes_well(node: Node, broker: MemoryBroker) -> None:
    trust(node, "t")
    for n in range(500):
        put(node, "t", "hot", str(n))
    node.relay.step()
    assert sent(broker, "t", "hot") == [str(n) for n in range(500)]
    assert node.count("outbox") == 0


def publish_with(relay: Relay, node: Node, topic: str) -> None:
    """Have it publish a row of a topic, which is trusted then."""
    put(node, topic, "first", "first")
    until(lambda: node.count("outbox") == 0, relay.step)


@pytest.mark.parametrize("pages", [6, 60])
def test_a_backlog_takes_one_round_trip_for_each_page(node: Node, broker: MemoryBroker, pages: int) -> None:
    alone: list[Page] = []
    with_a_delete: list[Page | None] = []

    def fetch(real: Callable[..., Sequence[OutboxRow]], *args: Any) -> Sequence[OutboxRow]:
        alone.append(Page(*args))
        return real(*args)

    def delete(real: Callable[..., Any], *args: Any) -> Any:
        with_a_delete.append(args[2])
        return real(*args)

    relay = node.new_relay(Queue(node, fetch=fetch, delete=delete), window=12)
    publish_with(relay, node, "t")
    put_many(node, "t", 4 * pages)
    alone.clear()
    with_a_delete.clear()
    until(lambda: node.count("outbox") == 0, relay.step)
    assert sent(broker, "t") == ["first", *["x"] * 4 * pages]
    assert len(with_a_delete) == pages
    read_with_it = [page for page in with_a_delete if page is not None]
    others = [(page.after, page.upto) for page in alone if page not in read_with_it]
    top = 1 + 4 * pages
    # The first page; the next one, in a sweep that knows its end; the one behind it, while that one is under way; and
    # the sweep that finds what was committed late.
    assert others == [(0, None), (0, top), (13, top), (0, top)]


def test_a_lone_row_is_read_once_and_deleted_once(node: Node, broker: MemoryBroker) -> None:
    asked: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        def note(real: Callable[..., Any], *args: Any) -> Any:
            asked.append(name)
            return None if name == "wait" else real(*args)

        return note

    relay = node.new_relay(Queue(node, **{name: noting(name) for name in ("last", "fetch", "delete", "wait")}))
    publish_with(relay, node, "t")
    asked.clear()
    put(node, "t", "k", "1")
    relay.step()
    assert asked == ["fetch", "delete", "wait"]
    assert sent(broker, "t", "k") == ["1"]


def test_a09_a_row_that_is_refused_in_a_stream_blocks_its_lane_only(node: Node, broker: MemoryBroker) -> None:
    trust(node, "t")
    broker.reject = lambda topic, key, value: TOO_LARGE if value == b"big" else None
    for n in range(30):
        put(node, "t", f"k{n % 3}", str(n))
    big = put(node, "t", "k0", "big")
    for n in range(30, 60):
        put(node, "t", f"k{n % 3}", str(n))
    until(lambda: node.count("outbox") == 11, node.relay.step)
    assert sent(broker, "t", "k0") == [str(n) for n in range(0, 30, 3)]
    assert sent(broker, "t", "k1") == [str(n) for n in range(1, 60, 3)]
    assert node.store.relay_queue().blocked() == {big: "too large"}
    node.clock.sleep(RETRY_BLOCKED)
    for n in range(60, 90):
        put(node, "t", f"k{n % 3}", str(n))
    until(lambda: node.count("outbox") == 21, node.relay.step)
    assert sent(broker, "t", "k2") == [str(n) for n in range(2, 90, 3)]


def test_a_stream_that_failed_makes_its_topics_wait_longer_and_longer_for_the_next(
    node: Node, broker: MemoryBroker
) -> None:
    trust(node, "t")
    times: list[float] = []

    class Flaky(MemoryProducer):
        """Every stream ends before its first row."""

        works = False

        def stream(self, rows: Sequence[OutboxRow]) -> None:
            times.append(node.clock.monotonic())
            if self.works:
                super().stream(rows)
            else:
                self._failures += [(row, TIMED_OUT) for row in rows]

    node.relay._producer = producer = Flaky(broker)
    n = 0

    def step() -> None:
        nonlocal n
        put(node, "t", "k", str(n))
        n += 1
        node.relay.step()
        node.clock.sleep(0.5)

    for _ in range(100):
        step()
    pauses = [after - before for before, after in pairwise(times)]
    assert 3 < len(pauses) < 7
    assert pauses == sorted(pauses)
    producer.works = True
    until(lambda: node.count("outbox") == 0, node.relay.step)
    assert sent(broker, "t", "k") == [str(each) for each in range(n)]


def test_a10_a_stream_without_an_answer_is_given_up_and_others_go_on(node: Node, broker: MemoryBroker) -> None:
    """Its topic is silent, as one that was deleted is for a while."""

    class Silent(MemoryProducer):
        def send(self, topic: str, *args: Any) -> None:
            if topic != "silent" or not sent(broker, "silent"):
                super().send(topic, *args)

    relay = Relay(node.store.relay_queue(), lambda: Silent(broker), node.clock, poll_interval=0.001)
    for topic in ("silent", "alive"):
        put(node, topic, "k", "0")
    until(lambda: node.count("outbox") == 0, relay.step)
    put(node, "silent", "k", "1")
    relay.step()
    put(node, "alive", "k", "1")

    def step() -> None:
        relay.step()
        node.clock.sleep(0.1)

    until(lambda: sent(broker, "alive") == ["0", "1"], step, rounds=10 * (int(PATIENCE) + 1))


def test_i04_what_is_streamed_is_not_followed_by_what_is_sent(node: Node, broker: MemoryBroker) -> None:
    """The topic loses its trust while a stream of its rows is under way: what comes later waits in the table."""
    trust(node, "t")
    broker.down = True
    put(node, "t", "k", "1")
    node.relay.step()
    node.relay._held.failed("t", node.clock.monotonic())
    put(node, "t", "k", "2")
    node.relay.step()
    producer = node.relay._producer
    assert isinstance(producer, MemoryProducer)
    assert [(key, value) for _, key, value, *_ in producer._waiting] == [("k", b"1")]
    broker.down = False
    until(lambda: node.count("outbox") == 0, node.relay.step)
    assert sent(broker, "t", "k") == ["1", "2"]


def test_i04_what_is_sent_is_not_followed_by_what_is_streamed(node: Node, broker: MemoryBroker) -> None:
    """The topic is trusted while a row of the lane is on its way by itself: what comes later waits for its answer."""
    broker.down = True
    put(node, "t", "k", "1")
    node.relay.step()
    node.relay._held.acknowledged("t", node.clock.monotonic())
    put(node, "t", "k", "2")
    node.clock.sleep(1)
    node.relay.step()
    producer = node.relay._producer
    assert isinstance(producer, MemoryProducer)
    assert [(key, value) for _, key, value, *_ in producer._waiting] == [("k", b"1")]
    broker.down = False
    until(lambda: node.count("outbox") == 0, node.relay.step)
    assert sent(broker, "t", "k") == ["1", "2"]


def test_i02_a_row_is_deleted_only_when_it_was_acknowledged(node: Node, broker: MemoryBroker) -> None:
    put(node, "t", "k", "1")
    broker.down = True
    for _ in range(5):
        node.relay.step()
    assert node.count("outbox") == 1
    broker.down = False
    node.clock.sleep(10)
    node.publish()
    assert sent(broker, "t") == ["1"]
    assert node.count("outbox") == 0


def test_a09_a_row_that_cannot_be_delivered_blocks_its_lane_only_and_is_recorded(
    node: Node, broker: MemoryBroker
) -> None:
    broker.reject = lambda topic, key, value: SendError("too large", permanent=True) if value == b"big" else None
    put(node, "t", "k", "1")
    big = put(node, "t", "k", "big")
    put(node, "t", "k", "3")
    put(node, "t", "other", "4")
    node.publish()
    assert sent(broker, "t", "k") == ["1"]
    assert sent(broker, "t", "other") == ["4"]
    assert node.store.relay_queue().blocked() == {big: "too large"}
    put(node, "t", "k", "5")
    node.publish()
    assert sent(broker, "t", "k") == ["1"]


def test_a09_what_follows_a_refused_row_on_a_later_page_of_the_same_sweep_waits_behind_it(
    node: Node, broker: MemoryBroker
) -> None:
    broker.reject = lambda topic, key, value: TOO_LARGE if value == b"big" else None
    relay = node.new_relay(window=80)
    put(node, "t", "first", "0")
    until(lambda: node.count("outbox") == 0, relay.step)
    put(node, "t", "first", "big")  # from here on row by row, for a moment
    put_many(node, "t", 100)
    put(node, "t", "k", "big")
    put_many(node, "t", 100)
    put(node, "t", "k", "behind")
    until(lambda: node.count("outbox") == 3, relay.step)
    assert sent(broker, "t", "k") == []


def test_a_blocked_lane_goes_on_in_order_when_the_cause_is_gone(node: Node, broker: MemoryBroker) -> None:
    broker.reject = lambda topic, key, value: SendError("too large", permanent=True) if value == b"big" else None
    for body in ("big", "2", "3"):
        put(node, "t", "k", body)
    node.publish()
    broker.reject = None
    node.publish()
    assert sent(broker, "t") == [], "it is not tried again at once"
    node.clock.sleep(RETRY_BLOCKED + 1)
    node.publish()
    assert sent(broker, "t") == ["big", "2", "3"]
    assert node.store.relay_queue().blocked() == {}


def test_a_blocked_row_that_an_operator_deleted_lets_its_lane_go_on(node: Node, broker: MemoryBroker) -> None:
    broker.reject = lambda topic, key, value: SendError("too large", permanent=True) if value == b"big" else None
    big = put(node, "t", "k", "big")
    put(node, "t", "k", "2")
    node.publish()
    outbox = node.store.tables.outbox
    with node.store.engine.begin() as connection:
        connection.execute(delete(outbox).where(outbox.c.message_id == big))
    node.clock.sleep(RETRY_BLOCKED + 1)
    node.publish()
    assert sent(broker, "t") == ["2"]


def test_a_passing_failure_is_tried_again_without_a_record(node: Node, broker: MemoryBroker) -> None:
    broker.reject = lambda topic, key, value: TIMED_OUT
    for body in ("1", "2"):
        put(node, "t", "k", body)
    node.publish()
    broker.reject = None
    node.clock.sleep(RETRY_PASSING)
    node.publish()
    assert sent(broker, "t") == ["1", "2"]
    assert node.count("outbox_block") == 0


TIMED_OUT = SendError("timed out", permanent=False)
NO_TOPIC = SendError("no topic", permanent=True, scope="topic")
TOO_LARGE = SendError("too large", permanent=True)


def put_many(node: Node, topic: str, count: int, body: bytes = b"x", keys: int | None = None) -> None:
    """Committed rows with keys of their own, or with ``keys`` keys in turn."""
    common = {"topic": topic, "payload": body, "headers": "{}", "created_at": datetime.now(UTC)}
    rows = [{**common, "message_id": uuid4(), "key": f"k{n % (keys or count)}"} for n in range(count)]
    with node.store.engine.begin() as connection:
        connection.execute(insert(node.store.tables.outbox), rows)


def refuse(broker: MemoryBroker, error: SendError, *topics: str) -> None:
    broker.reject = lambda topic, key, value: error if topic in topics else None


def test_a10_a_dead_topic_does_not_hold_others_back(node: Node, broker: MemoryBroker) -> None:
    refuse(broker, NO_TOPIC, "dead")
    relay = node.new_relay(window=8)
    waits: list[float] = []
    relay._queue = Queue(node, wait=lambda real, timeout: waits.append(timeout))
    put_many(node, "dead", 100)
    put(node, "alive", "k", "1")
    until(lambda: sent(broker, "alive") == ["1"], relay.step)
    assert waits == [], "it reads on until the end before it rests"
    assert node.count("outbox_block") == 1


class Hesitant(MemoryProducer):
    """Finds out only after a while that there is no topic ``dead``, as librdkafka does."""

    def __init__(self, broker: MemoryBroker, polls: int) -> None:
        super().__init__(broker)
        self._polls = polls
        self._unknown: list[Callable[[SendError | None], None]] = []

    def send(self, topic: str, key: str, value: bytes | None, headers: Any, done: Any) -> None:
        if topic.startswith("dead"):
            self._unknown.append(done)
        else:
            super().send(topic, key, value, headers, done)

    def poll(self, timeout: float) -> None:
        self._polls -= 1
        if self._polls <= 0:
            unknown, self._unknown = self._unknown, []
            for done in unknown:
                done(NO_TOPIC)
        super().poll(timeout)


def test_a10_a_topic_with_its_share_in_memory_is_not_read_over_and_over(node: Node, broker: MemoryBroker) -> None:
    """Its rows lie before all others, and librdkafka has not found out yet that it does not exist."""
    read: list[str] = []

    def fetch(real: Callable[..., Sequence[OutboxRow]], *args: Any) -> Sequence[OutboxRow]:
        rows = real(*args)
        read.extend(row.topic for row in rows)
        return rows

    queue = Queue(node, fetch=fetch)
    relay = Relay(queue, lambda: Hesitant(broker, 10_000), node.clock, poll_interval=0.001, window=80)
    put_many(node, "dead", 500)
    for n in range(50):
        put(node, "alive", "k", str(n))
        until(lambda n=n: len(sent(broker, "alive")) > n, relay.step, rounds=30)  # type: ignore[misc]
    assert 10 <= read.count("dead") <= 2 * 80


@pytest.mark.parametrize("dead", [("dead",), ("dead1", "dead2", "dead3")])
@pytest.mark.parametrize("polls", [1, 5, 10_000])
def test_a10_thousands_of_dead_keys_do_not_hold_others_back(
    node: Node, broker: MemoryBroker, dead: tuple[str, ...], polls: int
) -> None:
    writes: list[int] = []

    def block(real: Callable[..., None], rows: Sequence[Any]) -> None:
        writes.append(len(rows))
        real(rows)

    queue = Queue(node, block=block)
    relay = Relay(queue, lambda: Hesitant(broker, polls), node.clock, poll_interval=0.001, window=1000)
    for topic in dead:
        put_many(node, topic, 5000)
    put_many(node, "alive", 500)
    until(lambda: len(sent(broker, "alive")) == 500, relay.step, rounds=30)
    until(lambda: len(node.rows(node.store.tables.outbox_block)) == len(dead) or polls > 10, relay.step, rounds=30)
    assert len(writes) <= len(dead), "the records are written together, a topic has one"
    assert len(relay._held.rows) <= 1000


def test_a10_a_topic_that_falls_silent_in_a_long_backlog_does_not_stop_the_reading(
    node: Node, broker: MemoryBroker
) -> None:
    """Pages are read when the ones before are deleted; not where nothing is deleted any more."""

    class Silent(MemoryProducer):
        def send(self, topic: str, *arguments: Any) -> None:
            if topic != "big" or not sent(broker, "big"):
                super().send(topic, *arguments)

    relay = Relay(node.store.relay_queue(), lambda: Silent(broker), node.clock, window=100)
    publish_with(relay, node, "big")
    put_many(node, "big", 1000)
    put(node, "small", "k", "1")
    began = node.clock.monotonic()

    def step() -> None:
        relay.step()
        node.clock.sleep(0.05)

    until(lambda: sent(broker, "small"), step)
    assert node.clock.monotonic() - began < STALLED + 1


def test_a10_a_topic_that_falls_silent_leaves_room_for_others(node: Node, broker: MemoryBroker) -> None:
    """It had acknowledged, so it had the whole window; then it was deleted, and librdkafka has not noticed yet.

    It had failed just before, so its rows are sent one by one: a stream is given up as a whole.
    """

    class Silent(MemoryProducer):
        def send(self, topic: str, *args: Any) -> None:
            if topic != "big" or not sent(broker, "big"):
                super().send(topic, *args)

    refusals = [SendError("not now", permanent=False)] * 9  # so often that it is not trusted yet
    broker.reject = lambda *_: refusals.pop() if refusals else None
    relay = Relay(node.store.relay_queue(), lambda: Silent(broker), node.clock, poll_interval=0.001, window=100)

    def step() -> None:
        relay.step()
        node.clock.sleep(0.1)
        assert len(relay._held.rows) <= 150

    put(node, "big", "k", "1")
    until(lambda: node.count("outbox") == 0, step)
    assert not relay._held.trusts("big", node.clock.monotonic()), "the fault was reached"
    put_many(node, "big", 1000)
    put(node, "small", "k", "1")
    until(lambda: sent(broker, "small") == ["1"], step, rounds=40)


def test_a10_a_topic_that_refuses_a_part_of_each_stream_is_trusted_less_and_less(
    node: Node, broker: MemoryBroker
) -> None:
    """As one does that takes less than librdkafka puts into a batch."""
    streams = 0

    class Narrow(MemoryProducer):
        def stream(self, rows: Sequence[OutboxRow]) -> None:
            nonlocal streams
            streams += 1
            super().stream(rows[:1])
            self.refused = [(row, SendError("too much at once", permanent=False)) for row in rows[1:]]

        def streamed(self, timeout: float) -> Failures | None:
            failures = super().streamed(timeout)
            return None if failures is None else [*failures, *self.refused]

    relay = Relay(node.store.relay_queue(), lambda: Narrow(broker), node.clock, poll_interval=0.001, window=100)
    for _ in range(300):
        put_many(node, "t", 3)
        relay.step()
        node.clock.sleep(0.1)
    until(lambda: node.count("outbox") == 0, relay.step)
    assert len(sent(broker, "t")) == 900
    assert 3 < streams < 15, "half a minute, and each time twice as long until the next one"


def test_a10_a_dead_topic_is_tried_less_and_less_often_and_goes_on_in_key_order(
    node: Node, broker: MemoryBroker
) -> None:
    tries: list[float] = []

    def reject(topic: str, key: str, value: bytes | None) -> SendError:
        tries.append(node.clock.monotonic())
        return NO_TOPIC

    broker.reject = reject
    for n in range(60):
        put(node, "dead", f"k{n % 6}", str(n))
    relay = node.new_relay(window=8)

    def step() -> None:
        relay.step()
        node.clock.sleep(0.25)

    for _ in range(4 * 300):
        step()
    times = list(dict.fromkeys(tries))
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[0] >= RETRY_BLOCKED
    assert max(pauses) >= RETRY_BLOCKED_MOST
    assert len(times) < 12
    assert node.count("outbox_block") == 1
    broker.reject = None
    until(lambda: node.count("outbox") == 0, step)
    for k in range(6):
        assert sent(broker, "dead", f"k{k}") == [str(n) for n in range(k, 60, 6)]
    assert node.count("outbox_block") == 0


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("error", [NO_TOPIC, TOO_LARGE])
def test_a_record_goes_with_the_rows_that_a_person_deletes(
    node: Node, broker: MemoryBroker, error: SendError, restarted: bool
) -> None:
    looks: list[float] = []

    def look(real: Callable[..., set[UUID]]) -> set[UUID]:
        looks.append(node.clock.monotonic())
        return real()

    refuse(broker, error, "bad")
    put_many(node, "bad", 6, keys=2)
    relay = node.new_relay(Queue(node, unblock_absent=look))
    until(lambda: node.count("outbox_block") == (1 if error is NO_TOPIC else 2), relay.step)
    if restarted:
        relay._stand_back(None)
    outbox = node.store.tables.outbox
    with node.store.engine.begin() as connection:
        connection.execute(delete(outbox))

    def step() -> None:
        relay.step()
        node.clock.sleep(0.5)

    until(lambda: node.count("outbox_block") == 0, step, rounds=int(2 * LOOK_FOR_ABSENT) + 2)
    for _ in range(200):
        step()
    assert len(looks) <= 2, "nothing is on record any more"


def test_i14_a_topic_with_many_refused_keys_is_held_back_as_a_whole(node: Node, broker: MemoryBroker) -> None:
    broker.reject = lambda topic, key, value: TOO_LARGE if value == b"x" else None
    put_many(node, "bad", 3 * MOST_LANES)
    put(node, "alive", "k", "1")
    relay = node.new_relay()
    until(lambda: sent(broker, "alive") == ["1"] and node.count("outbox_block") == 1, relay.step, rounds=30)
    (record,) = node.rows(node.store.tables.outbox_block)
    assert "as a whole" in record.error
    broker.reject = None
    node.clock.sleep(RETRY_BLOCKED + 1)
    until(lambda: node.count("outbox") == 0, relay.step)
    assert node.count("outbox_block") == 0


@pytest.mark.parametrize("keys", [3, 3 * MOST_LANES])
def test_a_long_outage_blocks_nothing_and_is_over_when_kafka_is_back(
    node: Node, broker: MemoryBroker, keys: int
) -> None:
    records: list[Any] = []
    relay = node.new_relay(Queue(node, block=lambda real, rows: records.extend(rows)))
    broker.reject = lambda topic, key, value: TIMED_OUT
    put_many(node, "t", 2 * keys, keys=keys)

    def step() -> None:
        relay.step()
        node.clock.sleep(0.05)

    with capture_logs() as logs:
        for _ in range(20 * 120):  # two minutes
            step()
        broker.reject = None
        until(lambda: node.count("outbox") == 0, step, rounds=60)  # three seconds
    assert records == []
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.parametrize("late", [TOO_LARGE, TIMED_OUT])
def test_i10_a_refused_key_stays_on_record_through_an_outage(node: Node, broker: MemoryBroker, late: SendError) -> None:
    """Whichever comes last: more keys than are held back one by one, of which one is refused and the rest time out."""
    broker.reject = lambda topic, key, value: TOO_LARGE if value == b"big" else None
    big = put(node, "t", "big", "big")
    relay = node.new_relay()
    until(lambda: node.count("outbox_block") == 1, relay.step)
    put_many(node, "t", 3 * MOST_LANES)
    broker.reject = lambda topic, key, value: late if value == b"big" else TIMED_OUT
    for _ in range(20 * 30):
        relay.step()
        node.clock.sleep(0.05)
        assert node.store.relay_queue().blocked() == {big: "too large"}
    broker.reject = None
    node.clock.sleep(RETRY_BLOCKED_MOST)
    until(lambda: node.count("outbox") == 0, relay.step)
    assert node.count("outbox_block") == 0


def test_i14_the_window_is_bounded_in_bytes(node: Node, broker: MemoryBroker) -> None:
    fetched: list[int] = []

    def fetch(real: Callable[..., Sequence[OutboxRow]], *args: Any) -> Sequence[OutboxRow]:
        rows = real(*args)
        fetched.append(sum(len(row.payload or b"") for row in rows))
        return rows

    queue = Queue(node, fetch=fetch)
    relay = Relay(queue, broker.producer, node.clock, poll_interval=0.001, window_bytes=10_000)
    put_many(node, "t", 100, body=b"x" * 1000, keys=7)
    put(node, "t", "k", "y" * 50_000)
    put(node, "t", "k", "z")
    until(lambda: node.count("outbox") == 0, relay.step)
    assert sent(broker, "t", "k") == ["y" * 50_000, "z"]
    assert sorted(fetched)[-2] <= 15_000 + 1000
    assert len(sent(broker, "t")) == 102


@pytest.mark.parametrize("seed", range(20))
def test_i04_key_order_survives_topics_that_die_and_come_back(node: Node, broker: MemoryBroker, seed: int) -> None:
    random = Random(seed)
    errors = [NO_TOPIC, TOO_LARGE, TIMED_OUT]
    broker.reject = lambda topic, key, value: random.choice(errors) if random.random() < 0.2 else None
    relay = Relay(node.store.relay_queue(), lambda: Slow(broker, random), node.clock, poll_interval=0.001, window=16)

    def step() -> None:
        relay.step()
        node.clock.sleep(random.random() * 4)

    for n in range(120):
        put(node, f"t{n % 2}", f"k{n % 6}", str(n))
        for _ in range(random.randrange(3)):
            step()
    until(lambda: node.count("outbox") == 0, step, rounds=5000)
    for k in range(6):
        assert list(dict.fromkeys(sent(broker, f"t{k % 2}", f"k{k}"))) == [str(n) for n in range(k, 120, 6)]
    until(lambda: node.count("outbox_block") == 0, step)


def test_a08_a_lower_position_committed_late_is_still_published(node: Node, broker: MemoryBroker) -> None:
    put(node, "t", "k", "1", position=1)
    put(node, "t", "k", "3", position=3)
    node.publish()
    put(node, "t", "late", "2", position=2)
    node.publish()
    assert sent(broker, "t", "late") == ["2"]


@pytest.mark.parametrize("page", range(1, 12))
def test_a08_a_row_does_not_overtake_one_that_was_committed_behind_the_reader(
    node: Node, broker: MemoryBroker, page: int
) -> None:
    """One writer, two transactions, one key: the first took position 3 early, and committed during a sweep."""
    pages: list[int] = []

    def fetch(real: Callable[..., Sequence[OutboxRow]], *args: Any) -> Sequence[OutboxRow]:
        rows = real(*args)
        pages.append(len(rows))
        if len(pages) == page:
            put(node, "t", "k", "first", position=3)
            put(node, "t", "k", "second")
        return rows

    for n in range(1, 40):
        if n != 3:
            put(node, "t", f"other{n}", "x", position=n)
    relay = node.new_relay(Queue(node, fetch=fetch), window=8)
    until(lambda: len(pages) > page and node.count("outbox") == 0, relay.step)
    assert sent(broker, "t", "k") == ["first", "second"]


def test_a11_the_oldest_rows_go_first_however_many_come(node: Node, broker: MemoryBroker) -> None:
    def fetch(real: Callable[..., Sequence[OutboxRow]], *args: Any) -> Sequence[OutboxRow]:
        rows = real(*args)
        if node.count("outbox"):
            put_many(node, "t", 8, body=b"new")  # as many as one read takes
        return rows

    for n in range(40):
        put(node, "t", f"old{n}", str(n))
    relay = node.new_relay(Queue(node, fetch=fetch), window=12)
    for _ in range(20):
        relay.step()
    everything = sent(broker, "t")
    assert "new" in everything, "the fault was reached: they kept coming"
    assert sorted(everything[:40], key=int) == [str(n) for n in range(40)]


class Late(MemoryProducer):
    """What Kafka was asked for may arrive long after the lock went to another relay."""

    delivers = False

    def poll(self, timeout: float) -> None:
        if self.delivers:
            super().poll(timeout)


def test_a14_a_lock_that_is_lost_before_kafka_answers_reorders_nothing(node: Node, broker: MemoryBroker) -> None:
    """The lock may be lost at any time, and a send may last far longer: what it had begun arrives in the end."""
    holder, late = "first", Late(broker)
    first = Relay(Queue(node, acquire=lambda real: holder == "first"), lambda: late, node.clock, poll_interval=0.001)
    second = node.new_relay(Queue(node, acquire=lambda real: holder == "second"))
    for body in "123":
        put(node, "t", "k", body)
    first.step()
    holder = "second"
    until(lambda: node.count("outbox") == 0, second.step)
    late.delivers = True
    for _ in range(5):
        first.step()
        second.step()
    holder = "first"
    put(node, "t", "k", "4")
    until(lambda: node.count("outbox") == 0, first.step)
    assert sent(broker, "t") == ["1", "2", "3", "1", "4"], "what was under way is repeated, and nothing behind it"


def test_a_second_relay_stands_by_and_takes_over(node: Node, broker: MemoryBroker) -> None:
    first, second = node.relay, node.new_relay()
    first.step()
    put(node, "t", "k", "1")
    second.step()
    assert (first.active, second.active) == (True, False)
    assert sent(broker, "t") == []
    first._queue.close()
    until(lambda: node.count("outbox") == 0, second.step)
    assert sent(broker, "t") == ["1"]


class Slow(MemoryProducer):
    """Acknowledges when it likes."""

    def __init__(self, broker: MemoryBroker, random: Random) -> None:
        super().__init__(broker)
        self._random = random

    def poll(self, timeout: float) -> None:
        if self._random.random() < 0.3:
            super().poll(timeout)


@pytest.mark.parametrize("seed", range(20))
def test_i04_twins_repeat_but_never_reorder(node: Node, broker: MemoryBroker, seed: int) -> None:
    """Two relays that both believe that they hold the queue, interleaved at random; each may also lose its memory."""
    random = Random(seed)
    relays = [
        Relay(
            Queue(node, acquire=lambda real: True),
            lambda: Slow(broker, random),
            node.clock,
            poll_interval=0.001,
            window=8,
        )
        for _ in range(2)
    ]

    def step() -> None:
        relay = random.choice(relays)
        relay.step()
        node.clock.sleep(0.001)
        if random.random() < 0.1:
            relay._stand_back(None)

    for n in range(60):
        put(node, "t", f"k{n % 4}", str(n))
        for _ in range(random.randrange(3)):
            step()
    until(lambda: node.count("outbox") == 0, step)
    for k in range(4):
        seen = sent(broker, "t", f"k{k}")
        assert list(dict.fromkeys(seen)) == [str(n) for n in range(k, 60, 4)]
    assert len(sent(broker, "t")) > 60, "they did repeat"


def test_an_acknowledged_row_whose_delete_met_a_conflict_is_deleted_later(node: Node, broker: MemoryBroker) -> None:
    conflicts = iter(range(3))

    def conflict(real: Callable[..., None], *args: Any) -> None:
        if next(conflicts, None) is not None:
            raise SerializationConflict("busy")
        real(*args)
        relay.stop()

    relay = node.new_relay(Queue(node, delete=conflict))
    put(node, "t", "k", "1")
    relay.run()
    assert sent(broker, "t") == ["1"]
    assert node.count("outbox") == 0


def test_a_database_that_goes_away_makes_it_begin_again(node: Node, broker: MemoryBroker) -> None:
    outages = iter(range(3))

    def away(real: Callable[..., None], *args: Any) -> None:
        if next(outages, None) is not None:
            raise DatabaseUnavailable("gone")
        real(*args)
        if not node.count("outbox"):
            relay.stop()

    relay = node.new_relay(Queue(node, delete=away))
    for n in range(5):
        put(node, "t", "k", str(n))
    relay.run()
    assert list(dict.fromkeys(sent(broker, "t"))) == [str(n) for n in range(5)]


def test_i14_while_kafka_is_away_the_same_rows_are_not_read_over_and_over(node: Node, broker: MemoryBroker) -> None:
    reads: list[int] = []

    def fetch(real: Callable[..., Sequence[OutboxRow]], *args: Any) -> Sequence[OutboxRow]:
        reads.append(1)
        return real(*args)

    relay = Relay(Queue(node, fetch=fetch), broker.producer, node.clock, poll_interval=1.0)
    for n in range(10):
        put(node, "t", f"k{n}", str(n))
    broker.down = True
    for _ in range(500):  # ten seconds
        relay.step()
        node.clock.sleep(0.02)
    assert len(reads) < 25
    broker.down = False
    for _ in range(5):
        relay.step()
    assert node.count("outbox") == 0


def test_a_relay_that_is_told_to_stop_publishes_what_is_there(node: Node, broker: MemoryBroker) -> None:
    def fetch(real: Callable[..., Sequence[OutboxRow]], *args: Any) -> Sequence[OutboxRow]:
        rows = real(*args)
        relay.stop()
        return rows

    relay = node.new_relay(Queue(node, fetch=fetch), window=8)
    for n in range(50):
        put(node, "t", f"k{n % 3}", str(n))
    relay.run()
    assert node.count("outbox") == 0
    assert len(sent(broker, "t")) == 50


def test_a_relay_that_is_told_to_stop_while_kafka_is_away_ends_and_loses_nothing(
    node: Node, broker: MemoryBroker
) -> None:
    broker.down = True
    put(node, "t", "k", "1")
    ticks = MemoryProducer.poll

    class Waiting(MemoryProducer):
        def poll(self, timeout: float) -> None:
            node.clock.sleep(timeout)
            relay.stop()
            ticks(self, timeout)

    relay = Relay(node.store.relay_queue(), lambda: Waiting(broker), node.clock, poll_interval=0.001)
    relay.run()
    assert node.count("outbox") == 1
