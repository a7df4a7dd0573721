"""Behind a full batch, the next one is read while this one is committed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from kafkasaga import Service
from kafkasaga.errors import BrokerUnavailable, ConfigurationError, DatabaseUnavailable
from kafkasaga.messages import Record
from kafkasaga.ports import TopicPartition, UnitOfWork
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.testing.broker import MemoryBroker, MemoryConsumer
from kafkasaga.testing.memory import MemoryStore
from tests.unit.runtime.kit import Reserve, VirtualClock, send

BATCH = 2
Poll = Callable[[int, float, float], list[Record]]


class Shop:
    """A service whose database leaves time while it commits, and may be away at the end of it."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock) -> None:
        self.broker, self.clock, self.store = broker, clock, MemoryStore()
        self.called: list[str] = []
        self.away = 0
        """How many of the next commits fail."""
        self.on_failure: Callable[[], object] = lambda: None
        self.service = Service("svc")

        @self.service.handler
        def reserve(command: Reserve) -> None:
            self.called.append(command.id)

        self._begin = self.store.begin
        self.store.begin = self.begin  # type: ignore[method-assign, assignment]
        self.loop, self.consumer = self.new_loop()
        self.loop.step(0)

    @contextmanager
    def begin(self) -> Generator[UnitOfWork]:
        with self._begin() as uow:
            yield uow
            if self.away:
                self.away -= 1
                if uow._meanwhile is not None:
                    uow._meanwhile()
                self.on_failure()
                raise DatabaseUnavailable("gone")

    def new_loop(self) -> tuple[ConsumerLoop, MemoryConsumer]:
        """A replica that has joined the group."""
        consumer, sender = self.broker.consumer("svc"), Sender("svc", self.service.codec, self.clock)
        batches = BatchRunner("svc", self.store, self.service.router(), {}, sender, self.service.parking)
        topics = sorted(self.service.reads)
        loop = ConsumerLoop("svc", consumer, self.store, batches, topics, batch_size=BATCH, clock=self.clock)
        consumer.subscribe(topics, loop._assigned, loop._revoked)
        return loop, consumer


@pytest.fixture
def shop(broker: MemoryBroker, clock: VirtualClock) -> Shop:
    return Shop(broker, clock)


def sent(shop: Shop, ids: str) -> None:
    for id in ids:
        send(shop.broker, Reserve(id=id))


def test_what_was_read_while_a_batch_was_committed_is_the_next_batch(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(shop, "abc")
    assert shop.loop.step(0) == BATCH
    assert shop.broker.offset("svc", TopicPartition("reserve", 0)) == BATCH, "Kafka hears of what is committed only"
    monkeypatch.setattr(shop.consumer, "poll", None)
    assert shop.loop.step(0) == 1
    assert shop.called == ["a", "b", "c"]


def test_behind_a_batch_that_is_not_full_nothing_is_read_ahead(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[int] = []
    poll: Poll = shop.consumer.poll

    def counted(limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        polls.append(limit)
        return poll(limit, timeout, gather)

    monkeypatch.setattr(shop.consumer, "poll", counted)
    sent(shop, "a")
    assert shop.loop.step(0) == 1
    assert polls == [BATCH]


def test_i04_what_comes_while_the_database_is_away_goes_behind_what_was_read_ahead(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll: Poll = shop.consumer.poll

    def not_paused(limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        shop.consumer._paused = False  # a record that librdkafka had already queued
        return poll(limit, timeout, gather)

    monkeypatch.setattr(shop.consumer, "poll", not_paused)
    sent(shop, "abcdef")
    shop.away = 2
    shop.loop.step(0)
    assert shop.away == 0, "the fault was reached"
    while shop.loop.step(0):
        pass
    assert shop.called == [*"ab" * 3, *"cdef"]


def test_a20_what_was_read_ahead_of_a_partition_that_is_taken_away_is_dropped(clock: VirtualClock) -> None:
    shop, place = Shop(MemoryBroker(partitions=2), clock), TopicPartition("reserve", 1)
    sent(shop, "".join(id for id in "abcdefghijklmnop" if _partition(id) == place.partition))
    read_ahead: list[list[Record]] = []
    others: list[ConsumerLoop] = []

    def somebody_joins() -> None:
        read_ahead.append(list(shop.loop._ahead))
        others.append(shop.new_loop()[0])

    shop.away, shop.on_failure = 1, somebody_joins
    shop.loop.step(0)
    assert [len(ahead) for ahead in read_ahead] == [BATCH], "the fault was reached"
    assert shop.loop._ahead == []
    shop.called.clear()
    while shop.loop.step(0):
        pass
    assert shop.called == [], "it is the other's now"
    while others[0].step(0):
        pass
    assert len(shop.store.tables.inbox) == len(shop.broker.log(place))


def _partition(id: str) -> int:
    broker = MemoryBroker(partitions=2)
    send(broker, Reserve(id=id))
    return next(record.partition for record in broker.records("reserve"))


def test_what_goes_wrong_with_reading_ahead_is_raised_by_the_next_step(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll: Poll = shop.consumer.poll
    errors: list[Exception] = [ConfigurationError("fenced"), BrokerUnavailable("away")]

    def failing_ahead(limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        if timeout == 0 and errors:
            raise errors.pop()
        return poll(limit, timeout, gather)

    monkeypatch.setattr(shop.consumer, "poll", failing_ahead)
    sent(shop, "abcdef")
    assert shop.loop.step(0.1) == BATCH
    assert shop.loop.step(0.1) == BATCH, "a broker that is away is met again by the next poll"
    assert shop.called == ["a", "b", "c", "d"], "no batch fails for it"
    with pytest.raises(ConfigurationError, match="fenced"):
        shop.loop.step(0.1)
    assert errors == []
