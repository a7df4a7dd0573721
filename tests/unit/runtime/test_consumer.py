"""The consumer loop: offsets follow commits, and nothing is lost while something is away."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session

from kafkasaga import Service
from kafkasaga.errors import BrokerUnavailable, DatabaseUnavailable, KafkasagaError, SerializationConflict
from kafkasaga.messages import Record
from kafkasaga.ports import Progress, TopicPartition, UnitOfWork
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.pace import CROWDED, WORTH
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Ledger, Node, Reserve, VirtualClock, send, until

PLACE = TopicPartition("reserve", 0)


class Shop:
    """A service whose database can be away."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock) -> None:
        self.broker, self.ledger = broker, Ledger()
        service = Service("svc", outbox=self.ledger.outbox)

        @service.handler
        def reserve(command: Reserve, session: Session) -> None:
            session.execute(insert(self.ledger.entries).values(id=command.id))

        self.node = Node(service, broker, clock)
        self.away = 0
        """How often the next transactions fail."""
        self.error: KafkasagaError = DatabaseUnavailable("gone")
        self.on_failure: Any = lambda: None
        self._begin = self.node.store.begin
        self.node.store.begin = self.begin  # type: ignore[method-assign, assignment]

    @contextmanager
    def begin(self) -> Generator[UnitOfWork]:
        with self._begin() as uow:
            yield uow
            if self.away:
                self.away -= 1
                self.on_failure()
                raise self.error

    def handled(self) -> list[str]:
        return self.ledger.ids(self.node)

    def offset(self) -> int:
        return self.broker.offset("svc", PLACE)


@pytest.fixture
def shop(broker: MemoryBroker, clock: VirtualClock) -> Shop:
    return Shop(broker, clock)


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), SerializationConflict("locked")])
def test_i05_while_the_database_takes_nothing_offsets_stay_and_the_batch_is_kept(
    shop: Shop, error: KafkasagaError
) -> None:
    offsets: list[int] = []
    shop.away, shop.error = 20, error
    shop.on_failure = lambda: offsets.append(shop.offset())
    for id in "abc":
        send(shop.broker, Reserve(id=id))
    shop.node.consume()
    assert set(offsets) == {0}
    assert len(offsets) == 20
    parked = [(parked.record.key or b"").decode() for parked in shop.node.parked()]
    assert sorted(shop.handled() + parked) == ["a", "b", "c"]
    assert bool(parked) is isinstance(error, SerializationConflict), "a message may be what meets the conflict"
    assert shop.offset() == 3


def test_i05_the_databases_position_commits_with_the_batch(shop: Shop) -> None:
    send(shop.broker, Reserve(id="a"))
    shop.node.consume()
    assert shop.node.store.positions("svc", [PLACE]) == {PLACE: 1}


def test_i05_a_crash_between_commit_and_offset_repeats_nothing(shop: Shop) -> None:
    send(shop.broker, Reserve(id="a"))
    shop.node.consume()
    shop.broker.commit("svc", {PLACE: 0})
    shop.node.loop._consumer.close()
    second = shop.node.new_loop()
    assert second.step(0) == 0, "the database knows where to read on, whatever Kafka remembers"
    send(shop.broker, Reserve(id="b"))
    second.step(0)
    assert shop.handled() == ["a", "b"]


def test_a33_a_database_that_was_restored_reads_again_what_it_forgot(shop: Shop) -> None:
    for id in "ab":
        send(shop.broker, Reserve(id=id))
    shop.node.consume()
    with shop.node.store.begin() as uow:
        uow.rewind("svc", {PLACE: 1})
    shop.node.loop._consumer.close()
    assert shop.node.new_loop().step(0) == 1
    assert shop.handled() == ["a", "b"], "the inbox was not restored, so it knows the message"


def sent(shop: Shop, *ids: str) -> None:
    for id in ids:
        send(shop.broker, Reserve(id=id))


def positions(shop: Shop) -> dict[TopicPartition, int]:
    return shop.node.store.positions("svc", [PLACE])


def test_i02_a_topic_that_was_made_anew_while_it_was_read_is_read_from_its_beginning(shop: Shop) -> None:
    sent(shop, "a", "b")
    shop.node.consume()
    shop.broker.make_anew("reserve")
    sent(shop, "c")
    shop.node.consume()
    assert shop.handled() == ["a", "b", "c"]
    assert positions(shop) == {PLACE: 1}, "offsets count from the new beginning"
    assert shop.offset() == 1
    shop.node.loop._consumer.close()
    later = shop.node.new_loop()
    sent(shop, "d")
    later.step(0)
    assert shop.handled() == ["a", "b", "c", "d"], "a stored position of the old topic would pass over it"


def test_i02_a_topic_that_was_made_anew_while_nobody_read_is_read_from_its_beginning(shop: Shop) -> None:
    sent(shop, "a", "b")
    shop.node.consume()
    shop.node.loop._consumer.close()
    shop.broker.make_anew("reserve")
    sent(shop, "c")
    later = shop.node.new_loop()
    while later.step(0):
        pass
    assert shop.handled() == ["a", "b", "c"]
    assert positions(shop) == {PLACE: 1}


def test_a_rewound_position_goes_on_from_there_and_never_back_by_itself(shop: Shop) -> None:
    """Only the first batch of a topic that was made anew goes back."""
    sent(shop, "a", "b", "c")
    shop.node.consume()
    shop.broker.make_anew("reserve")
    seen: list[int] = []
    for id in "de":
        sent(shop, id)
        shop.node.consume()
        seen.append(positions(shop)[PLACE])
    assert seen == [1, 2]


def test_i01_a_rewind_waits_for_a_database_that_is_away(shop: Shop) -> None:
    sent(shop, "a", "b")
    shop.node.consume()
    shop.broker.make_anew("reserve")
    sent(shop, "c")
    shop.away = 3
    shop.node.consume()
    assert shop.handled() == ["a", "b", "c"]
    assert positions(shop) == {PLACE: 1}


def test_i12_where_the_database_knows_nothing_the_group_does(shop: Shop) -> None:
    for id in "ab":
        send(shop.broker, Reserve(id=id))
    shop.broker.commit("svc", {PLACE: 1})
    shop.node.consume()
    assert shop.handled() == ["b"]


def test_a20_records_of_partitions_that_were_taken_away_meanwhile_are_dropped(clock: VirtualClock) -> None:
    broker = MemoryBroker(partitions=2)
    shop = Shop(broker, clock)
    shop.node.loop.step(0)
    for n in range(20):
        send(broker, Reserve(id=str(n)))
    others: list[Any] = []

    def somebody_joins() -> None:
        if not others:
            others.append(shop.node.new_loop())

    shop.away, shop.on_failure = 3, somebody_joins
    shop.node.loop.step(0)
    kept = set(shop.handled())
    lost = {r.key.decode() for r in broker.log(TopicPartition("reserve", 1)) if r.key}
    assert kept
    assert not kept & lost
    assert broker.offset("svc", TopicPartition("reserve", 1)) == 0
    while others[0].step(0):
        pass
    assert set(shop.handled()) == {str(n) for n in range(20)}
    assert len(shop.handled()) == 20


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), SerializationConflict("locked")])
def test_a_database_that_does_not_say_where_to_read_on_is_asked_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: KafkasagaError
) -> None:
    errors = [error] * 3
    take_over = shop.node.store.take_over

    def unanswered(*args: Any) -> dict[TopicPartition, Progress]:
        if errors:
            raise errors.pop()
        return take_over(*args)

    monkeypatch.setattr(shop.node.store, "take_over", unanswered)
    sent(shop, "a")
    shop.node.consume()
    assert errors == []
    assert shop.handled() == ["a"]


def test_a_batch_that_has_begun_is_finished_when_it_is_told_to_stop(shop: Shop) -> None:
    send(shop.broker, Reserve(id="a"))
    shop.on_failure = shop.node.loop.stop
    shop.away = 1
    shop.node.loop.step(0)
    assert shop.handled() == [], "the database is away: it is read again after the next start"
    assert shop.offset() == 0


def test_a_partition_without_new_records_is_remembered_as_read(shop: Shop) -> None:
    send(shop.broker, Reserve(id="a"))
    shop.node.consume()
    log = shop.broker.log(PLACE)
    with shop.node.store.begin() as uow:
        uow.advance("svc", {PLACE: 0})
    shop.node.loop._read.clear()
    assert shop.node.loop.step(0) == 0
    assert shop.node.store.positions("svc", [PLACE]) == {PLACE: len(log)}


@pytest.mark.parametrize("database", ["there", "away"])
def test_a_client_that_cannot_fetch_is_asked_again(shop: Shop, monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    failures = [BrokerUnavailable("away"), BrokerUnavailable("away")]
    poll = shop.node.loop._consumer.poll

    def failing(limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        if failures and (database == "there" or shop.away < 3):
            raise failures.pop()
        return poll(limit, timeout, gather)

    shop.away = 0 if database == "there" else 3
    monkeypatch.setattr(shop.node.loop._consumer, "poll", failing)
    sent(shop, "a")
    until(shop.handled, lambda: shop.node.loop.step(0))
    assert failures == []


def test_a_consumer_on_a_full_machine_gathers_for_its_next_batch(shop: Shop) -> None:
    """And one that has its processor to itself does not."""
    waited, gathered = 0.0, list[float]()
    consumer = shop.node.loop._consumer
    poll, begin, share = consumer.poll, shop.node.store.begin, 0.0

    def polling(limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        gathered.append(gather)
        return poll(limit, timeout, gather)

    @contextmanager
    def working() -> Generator[UnitOfWork]:
        nonlocal waited
        with begin() as uow:
            yield uow
        shop.node.clock.sleep(0.01)
        waited += 0.01 * share

    consumer.poll = polling  # type: ignore[method-assign]
    shop.node.store.begin = working  # type: ignore[method-assign, assignment]
    loop = ConsumerLoop(
        "svc", consumer, shop.node.store, shop.node.batches, ["reserve"],
        batch_size=100, clock=shop.node.clock, waited=lambda: waited,
    )  # fmt: skip
    for share in (0.0, CROWDED):
        for batch in range(60):
            for n in range(WORTH + 2):
                send(shop.broker, Reserve(id=f"{share}/{batch}/{n}"))
            assert loop.step(0) == WORTH + 2
        assert gathered[-1] == pytest.approx(0.01 if share else 0.0, rel=0.05)
