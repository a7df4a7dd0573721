"""A deadline says "no reply came": true only when the command was sent, and every reply that has come was read."""

from __future__ import annotations

import pytest
from sqlalchemy import MetaData, select

from kafkasaga import Ends, Outbox, Saga, Service, Step
from kafkasaga.errors import EnvironmentUnavailable
from kafkasaga.messages import Mark, Operation
from kafkasaga.ports import SendError
from kafkasaga.runtime import timekeeper as timekeeper_module
from kafkasaga.saga.instance import SagaStatus, saga_id
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import (
    DEADLINE,
    Begun,
    Node,
    NotReserved,
    Released,
    Reserve,
    Reserved,
    State,
    VirtualClock,
    context,
    orchestrator,
    send,
    until,
)

LATE = DEADLINE.total_seconds() + 1


@pytest.fixture
def node(broker: MemoryBroker, clock: VirtualClock) -> Node:
    return orchestrator(broker, clock)


def begin(node: Node, broker: MemoryBroker, *keys: str) -> None:
    for key in keys:
        send(broker, Begun(id=key))
    node.consume()


def status(node: Node, key: str = "1") -> SagaStatus:
    (found,) = node.store.queries().sagas(key=key)
    return found.status


def test_a_deadline_that_passed_turns_the_saga_back(node: Node, broker: MemoryBroker, clock: VirtualClock) -> None:
    begin(node, broker, "1")
    node.publish()
    clock.sleep(DEADLINE.total_seconds() - 1)
    node.timekeeper.step()
    assert status(node) is SagaStatus.RUNNING
    clock.sleep(2)
    node.timekeeper.step()
    assert status(node) is SagaStatus.COMPENSATING
    node.publish()
    assert len(broker.records("unreserve")) == 1


def test_a_deadline_does_not_pass_while_replies_wait_to_be_read(
    node: Node, broker: MemoryBroker, clock: VirtualClock
) -> None:
    """The orchestrator was away for an hour; the reply came in time and waits in the topic."""
    begin(node, broker, "1")
    node.publish()
    send(broker, Reserved(id="1"), saga=context(saga_id("buy", "1")))
    clock.sleep(3600)
    for _ in range(3):
        node.timekeeper.step()
    assert status(node) is SagaStatus.RUNNING
    node.consume()
    for _ in range(3):
        node.timekeeper.step()
    assert status(node) is SagaStatus.RUNNING
    node.publish()
    assert len(broker.records("pay")) == 1


def test_the_time_of_a_deadline_runs_from_when_the_command_left_the_outbox(
    node: Node, broker: MemoryBroker, clock: VirtualClock
) -> None:
    begin(node, broker, "1")
    clock.sleep(LATE)
    for _ in range(3):
        node.timekeeper.step()
        clock.sleep(timekeeper_module.RECHECK.total_seconds())
    assert status(node) is SagaStatus.RUNNING, "the command is still here"
    node.publish()
    node.timekeeper.step()
    clock.sleep(DEADLINE.total_seconds() - 1)
    node.timekeeper.step()
    assert status(node) is SagaStatus.RUNNING, "the participant has not had its time"
    clock.sleep(2)
    node.timekeeper.step()
    assert status(node) is SagaStatus.COMPENSATING


def test_i13_sagas_whose_commands_cannot_be_sent_do_not_hide_others(
    node: Node, broker: MemoryBroker, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timekeeper_module, "AT_ONCE", 3)
    broker.reject = lambda topic, key, value: SendError("no", permanent=True) if key.startswith("dead") else None
    begin(node, broker, *(f"dead{n}" for n in range(10)))
    clock.sleep(1)
    begin(node, broker, "1")
    node.publish()
    clock.sleep(LATE)
    until(lambda: status(node) is SagaStatus.COMPENSATING, node.timekeeper.step, rounds=20)
    assert status(node, "dead0") is SagaStatus.RUNNING


def test_a_timer_that_fires_early_is_set_anew(node: Node, broker: MemoryBroker, clock: VirtualClock) -> None:
    """It says 'look not later than then': after the first step's reply, the second one's deadline is later."""
    begin(node, broker, "1")
    node.publish()
    clock.sleep(20)
    send(broker, Reserved(id="1"), saga=context(saga_id("buy", "1")))
    node.consume()
    node.publish()
    clock.sleep(11)
    assert node.timekeeper.step()
    assert status(node) is SagaStatus.RUNNING
    due = node.store.next_due()
    assert due is not None
    assert due > clock.now()
    assert not node.timekeeper.step()


def test_i13_a_saga_whose_function_raises_does_not_stop_the_clock_for_others(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    broken = {"1"}

    def undo(state: State) -> Reserve:
        if state.id in broken:
            raise ValueError("edited for the worse")
        return Reserve(id=state.id)

    class Fragile(Saga[State], name="fragile", version=1, starts_on=Begun):
        reserve = Step[State](
            command=lambda s: Reserve(id=s.id),
            succeeds_on=Reserved,
            compensation=undo,
            compensated_on=Released,
            deadline=DEADLINE,
        )
        flow = reserve
        ends = Ends[State]()

    node = Node(Service("fragile", sagas=[Fragile], outbox=Outbox(MetaData())), broker, clock)
    begin(node, broker, "1", "2")
    node.publish()
    clock.sleep(LATE)
    for _ in range(3):
        node.timekeeper.step()
    assert (status(node, "1"), status(node, "2")) == (SagaStatus.RUNNING, SagaStatus.COMPENSATING)
    broken.clear()
    clock.sleep(timekeeper_module.FAILED.total_seconds() + 1)
    node.timekeeper.step()
    assert status(node, "1") is SagaStatus.COMPENSATING


def test_while_something_is_away_it_waits_and_goes_on(node: Node, broker: MemoryBroker, clock: VirtualClock) -> None:
    begin(node, broker, "1")
    node.publish()
    clock.sleep(LATE)
    asked: list[bool] = []
    ends = node.timekeeper._ends

    def away() -> dict[object, int]:
        asked.append(True)
        if len(asked) < 3:
            raise EnvironmentUnavailable("no broker")
        node.timekeeper.stop()
        return dict(ends())

    node.timekeeper._ends = away  # type: ignore[assignment]
    node.timekeeper.run()
    node.timekeeper.step()
    assert len(asked) == 3
    assert status(node) is SagaStatus.COMPENSATING


def test_a_saga_that_has_ended_has_no_timer(node: Node, broker: MemoryBroker, clock: VirtualClock) -> None:
    begin(node, broker, "1")
    timers = node.store.tables.saga_timer
    assert len(node.rows(timers)) == 1
    node.publish()
    send(broker, NotReserved(id="1"), saga=context(saga_id("buy", "1")))
    node.consume()
    node.publish()
    done = context(saga_id("buy", "1"), Operation.COMPENSATION, mark=Mark.EMPTY)
    send(broker, Released(id="1"), saga=done)
    node.consume()
    assert status(node) is SagaStatus.CANCELLED
    with node.store.engine.connect() as connection:
        assert connection.execute(select(timers)).all() == []
