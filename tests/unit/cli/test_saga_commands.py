"""What a person decides about a stuck step, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import MetaData
from typer.testing import CliRunner

from kafkasaga import Ends, KafkasagaError, Outbox, Saga, Service, Step, exponential
from kafkasaga.cli.app import app
from kafkasaga.saga.instance import SagaStatus, saga_id
from kafkasaga.stores import create_store
from kafkasaga.stores.migrations import upgrade
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import (
    DEADLINE,
    Begun,
    Declined,
    Ended,
    Node,
    Paid,
    Pay,
    Release,
    Released,
    Reserve,
    Reserved,
    State,
    VirtualClock,
    send,
    until,
)

ONCE = exponential(attempts=1)


class Order(Saga[State], name="order", version=1, starts_on=Begun):
    reserve = Step[State](
        command=lambda s: Reserve(id=s.id),
        succeeds_on=Reserved,
        compensation=lambda s: Release(id=s.id),
        compensated_on=Released,
        compensation_retry=ONCE,
    )
    pay = Step[State](
        command=lambda s: Pay(id=s.id), succeeds_on=Paid, fails_on=Declined, kind="pivot", deadline=DEADLINE, retry=ONCE
    )
    flow = reserve >> pay
    ends = Ends[State](
        completed=lambda s: Ended(id=s.id, well=True), cancelled=lambda s, why: Ended(id=s.id, well=False)
    )


service = Service("orders", sagas=[Order], outbox=Outbox(MetaData(), prefix="orders_"))
SERVICE = f"{__name__}:service"
ID = saga_id("order", "1")
WHY = ("--why", "the bank says so", "--by", "eve")


class Desk:
    """An orchestrator whose saga is stuck, and its operator."""

    def __init__(self, url: str) -> None:
        self.url, self.broker, self.clock = url, MemoryBroker(partitions=1), VirtualClock()
        store = create_store(url, service.outbox.tables)
        upgrade(store.engine, store.tables)
        store.close()
        self.node = Node(service, self.broker, self.clock, url)
        send(self.broker, Begun(id="1"))
        self.goes_on()
        send(self.broker, Reserved(id="1"))
        self.goes_on()

    def goes_on(self) -> None:
        self.node.consume()
        self.node.publish()

    def gets_stuck(self) -> None:
        def time_passes() -> None:
            self.clock.sleep(timedelta(hours=1).total_seconds())
            self.node.timekeeper.step()
            self.goes_on()

        until(lambda: self.status() is SagaStatus.STUCK, time_passes)

    def status(self) -> SagaStatus:
        (found,) = self.node.store.queries().sagas()
        return found.status

    def run(self, *arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, ["saga", *arguments, "--database-url", self.url])
        assert result.exit_code == status, result.output
        return result.output

    def decide(self, what: str, step: str, id: UUID = ID) -> str:
        return self.run(what, SERVICE, str(id), step, *WHY)

    def sent(self, topic: str) -> int:
        self.goes_on()
        return len(self.broker.records(topic))

    def told(self) -> str:
        return " ".join(self.run("show", str(ID), "--prefix", "orders_").split())


@pytest.fixture
def desk(sqlite_url: str) -> Iterator[Desk]:
    desk = Desk(sqlite_url)
    yield desk
    desk.node.store.close()


@pytest.fixture
def stuck_pivot(desk: Desk) -> Desk:
    """Nobody has answered whether it was paid."""
    desk.gets_stuck()
    return desk


@pytest.fixture
def stuck_undoing(desk: Desk) -> Desk:
    """The payment was declined, and nobody confirms the release."""
    send(desk.broker, Declined(id="1"))
    desk.goes_on()
    desk.gets_stuck()
    return desk


def test_a_stuck_step_that_is_tried_again_sends_its_command_again(stuck_pivot: Desk) -> None:
    before = stuck_pivot.sent("pay")
    said = stuck_pivot.decide("retry", "pay")
    assert f"Recorded in the log of saga {ID}" in said
    assert stuck_pivot.sent("pay") == before + 1
    assert stuck_pivot.status() is SagaStatus.RUNNING
    send(stuck_pivot.broker, Paid(id="1"))
    stuck_pivot.goes_on()
    assert stuck_pivot.status() is SagaStatus.COMPLETED


def test_a_stuck_step_that_is_skipped_is_taken_for_done(stuck_pivot: Desk) -> None:
    stuck_pivot.decide("skip", "pay")
    assert stuck_pivot.status() is SagaStatus.COMPLETED
    assert stuck_pivot.sent("ended") == 1


def test_a_stuck_compensation_that_is_skipped_is_taken_for_undone(stuck_undoing: Desk) -> None:
    stuck_undoing.decide("skip", "reserve")
    assert stuck_undoing.status() is SagaStatus.CANCELLED


def test_a_stuck_compensation_that_is_tried_again_is_sent_again(stuck_undoing: Desk) -> None:
    before = stuck_undoing.sent("unreserve")
    stuck_undoing.decide("retry", "reserve")
    assert stuck_undoing.sent("unreserve") == before + 1
    assert stuck_undoing.status() is SagaStatus.COMPENSATING


def test_a_stuck_pivot_that_is_refused_turns_its_saga_back(stuck_pivot: Desk) -> None:
    stuck_pivot.decide("refuse", "pay")
    assert stuck_pivot.sent("unreserve") == 1
    send(stuck_pivot.broker, Released(id="1"))
    stuck_pivot.goes_on()
    assert stuck_pivot.status() is SagaStatus.CANCELLED


@pytest.mark.parametrize("what", ["retry", "skip", "refuse"])
def test_i10_who_decided_and_why_is_in_the_log(stuck_pivot: Desk, what: str) -> None:
    stuck_pivot.decide(what, "pay")
    told = stuck_pivot.told()
    assert "by eve, why the bank says so" in told


@pytest.mark.parametrize("what", ["retry", "skip", "refuse"])
def test_nothing_is_decided_without_a_reason(stuck_pivot: Desk, what: str) -> None:
    stuck_pivot.run(what, SERVICE, str(ID), "pay", status=2)
    assert stuck_pivot.status() is SagaStatus.STUCK


def test_a_saga_that_is_not_stuck_needs_no_decision(desk: Desk) -> None:
    with pytest.raises(KafkasagaError, match=rf"saga {ID} is running, not stuck: there is nothing to decide"):
        service_decides(desk, "skip", "pay")
    assert desk.status() is SagaStatus.RUNNING


def test_only_a_pivot_can_be_refused(stuck_undoing: Desk) -> None:
    with pytest.raises(KafkasagaError, match="step 'reserve'"):
        service_decides(stuck_undoing, "refuse", "reserve")
    assert stuck_undoing.status() is SagaStatus.STUCK


def test_a_saga_that_is_not_there_is_said(desk: Desk) -> None:
    nobody = uuid4()
    with pytest.raises(KafkasagaError, match=f"there is no saga {nobody}"):
        service_decides(desk, "retry", "pay", nobody)


def service_decides(desk: Desk, what: str, step: str, id: UUID = ID) -> None:
    """As ``kafkasaga`` does, but for the last step, which turns an error into a message and an exit status."""
    arguments = ["saga", what, SERVICE, str(id), step, *WHY, "--database-url", desk.url]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
