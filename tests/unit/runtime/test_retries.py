"""Parked messages are tried again in the order of their key, and an attempt counts whether it ends or not."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import MetaData

from kafkasaga import Outbox, Service, exponential
from kafkasaga.errors import DatabaseUnavailable, KafkasagaError, SerializationConflict
from kafkasaga.messages import contract_of
from kafkasaga.ports import ParkedStatus
from kafkasaga.runtime.handlers import WhenDead
from kafkasaga.runtime.parking import DEATHS
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Node, Reserve, VirtualClock, send

TYPE = {"ce_type": contract_of(Reserve).type.encode()}


class ProcessEnds(BaseException):
    """What a handler raises here to end the process: nothing after it is executed."""


class Desk:
    """A service that fails, or ends its process, as often as a test says."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock, when_dead: WhenDead = "block", url: str = "") -> None:
        self.broker, self.clock = broker, clock
        self.fails: defaultdict[str, list[BaseException]] = defaultdict(list)
        self.handled: list[str] = []
        parking = exponential(attempts=5, first=timedelta(seconds=10))
        service = Service("svc", outbox=Outbox(MetaData()), parking=parking)

        @service.handler(when_dead=when_dead)
        def handle(command: Reserve) -> None:
            if self.fails[command.id]:
                raise self.fails[command.id].pop(0)
            self.handled.append(command.id)

        self.node = Node(service, broker, clock, url or "sqlite://")

    def send(self, *ids: str, key: bytes = b"k") -> None:
        for id in ids:
            self.broker.append("reserve", key, Reserve(id=id).model_dump_json().encode(), TYPE)

    def parks(self, *ids: str, failures: int = 4) -> None:
        """Read messages of one key; the first fails (in the batch, and then alone), so that all are parked."""
        self.fails[ids[0]] += [ValueError(ids[0])] * failures
        self.send(*ids)
        self.node.consume()

    def retry(self, seconds: float = 1000.0) -> bool:
        self.clock.sleep(seconds)
        return self.node.batches.retry_parked()

    def left(self) -> list[Any]:
        return [(message.status.value, message.attempts) for message in self.node.parked()]


@pytest.fixture
def desk(broker: MemoryBroker, clock: VirtualClock) -> Desk:
    return Desk(broker, clock)


def test_i04_a_key_keeps_its_order_across_parking_and_retries(desk: Desk) -> None:
    desk.parks("a", "b", "c", failures=6)
    while desk.retry():
        desk.send("later")
        desk.node.consume()
        if len(desk.handled) >= 3:
            break
    assert desk.handled == ["a", "b", "c"]


def test_what_waits_behind_is_not_due_before_its_time(desk: Desk) -> None:
    desk.parks("a", "b")
    assert [message.next_at is None for message in desk.node.parked()] == [False, True]


def test_a21_an_attempt_that_ends_the_process_is_counted(desk: Desk) -> None:
    desk.parks("a", "b")
    desk.fails["a"] = [ProcessEnds(), ProcessEnds()]
    for attempts in (2, 3):
        with pytest.raises(ProcessEnds):
            desk.retry()
        assert desk.left() == [("waiting", attempts), ("waiting", 0)]
    assert desk.retry()
    assert desk.handled == ["a"]


def test_a21_a_message_that_keeps_ending_the_process_is_dead(desk: Desk) -> None:
    desk.parks("a", "b")
    desk.fails["a"] = [ProcessEnds() for _ in range(100)]
    for _ in range(DEATHS):
        with pytest.raises(ProcessEnds):
            desk.retry()
    assert desk.retry()
    first, second = desk.node.parked()
    assert (first.status, second.status) == (ParkedStatus.DEAD, ParkedStatus.WAITING)
    assert "the process ended while this message was handled, 3 times in a row" in first.error
    assert "ValueError: a" in first.error
    assert not desk.retry()


def test_a_failure_between_two_deaths_makes_them_two_beginnings(desk: Desk) -> None:
    desk.parks("a")
    desk.fails["a"] = [ProcessEnds(), ProcessEnds(), ValueError(), ProcessEnds()]
    for _ in range(4):
        try:
            desk.retry()
        except ProcessEnds:
            continue
    assert [message.deaths for message in desk.node.parked()] == [1]


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), SerializationConflict("locked")])
def test_a22_a_database_that_is_away_or_in_conflict_costs_a_message_no_attempt(
    desk: Desk, error: KafkasagaError
) -> None:
    desk.parks("a", "b")
    desk.fails["a"] = [error] * 20
    while desk.fails["a"]:
        with suppress(DatabaseUnavailable):
            desk.retry()
        assert desk.left() == [("waiting", 1), ("waiting", 0)]
        assert "ValueError: a" in desk.node.parked()[0].error, "it says what was wrong with the message itself"
    assert [desk.retry(), desk.retry()] == [True, True]
    assert desk.handled == ["a", "b"]


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), SerializationConflict("locked")])
def test_a21_an_attempt_that_the_database_ended_is_no_death_of_the_process(desk: Desk, error: KafkasagaError) -> None:
    desk.parks("a")
    desk.fails["a"] = [ProcessEnds(), error]
    for _ in range(2):
        with suppress(ProcessEnds, DatabaseUnavailable):
            desk.retry()
    assert [(message.attempts, message.deaths) for message in desk.node.parked()] == [(2, 0)]


def test_whose_database_is_away_hears_of_it(desk: Desk) -> None:
    """The loop that asks waits then, instead of asking again at once."""
    desk.parks("a")
    desk.fails["a"] = [DatabaseUnavailable("gone")]
    with pytest.raises(DatabaseUnavailable):
        desk.retry()


def test_i13_a_dead_message_whose_handler_says_go_on_lets_its_key_go_on(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    desk = Desk(broker, clock, when_dead="go-on")
    desk.parks("a", "b", failures=100)
    while desk.retry():
        pass
    assert desk.handled == ["b"]
    assert desk.left() == [("dead-letter", 5)]
    desk.send("c")
    desk.node.consume()
    assert desk.handled == ["b", "c"]


def test_what_cannot_be_read_lets_its_key_go_on_too(broker: MemoryBroker, clock: VirtualClock) -> None:
    desk = Desk(broker, clock, when_dead="go-on")
    broker.append("reserve", b"k", b"not json", TYPE)
    desk.send("a")
    desk.node.consume()
    assert desk.handled == ["a"]
    assert desk.left() == [("dead-letter", 0)]


def test_i04_two_replicas_never_try_two_of_one_key(
    broker: MemoryBroker, clock: VirtualClock, postgres_url: str
) -> None:
    desk = Desk(broker, clock, url=postgres_url)
    desk.parks(*[f"{n}" for n in range(20)])
    clock.sleep(1000)
    under_way, most = [0], [0]
    guard = threading.Lock()
    run = desk.node.batches._retries._execution.run

    def watched(*arguments: Any) -> Any:
        with guard:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        try:
            return run(*arguments)
        finally:
            with guard:
                under_way[0] -= 1

    desk.node.batches._retries._execution.run = watched  # type: ignore[assignment,method-assign]

    def replica() -> None:
        while desk.node.parked():
            desk.node.batches.retry_parked()

    replicas = [threading.Thread(target=replica) for _ in range(2)]
    for thread in replicas:
        thread.start()
    for thread in replicas:
        thread.join(60)
    assert desk.handled == [f"{n}" for n in range(20)]
    assert most == [1]


def test_a_message_that_arrives_is_not_handled_before_one_that_waits(desk: Desk, broker: MemoryBroker) -> None:
    desk.parks("a")
    send(broker, Reserve(id="other"))
    desk.send("b")
    desk.node.consume()
    assert desk.handled == ["other"]
    assert [desk.retry(), desk.retry()] == [True, True]
    assert desk.handled == ["other", "a", "b"]
