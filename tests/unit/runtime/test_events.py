"""Events that several sagas of a service await: each of them gets its own, whenever it begins."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import MetaData

from kafkasaga import Ends, Outbox, Saga, Service, Step, WaitFor, reply
from kafkasaga.messages import Operation, SagaContext
from kafkasaga.ports import ParkedStatus
from kafkasaga.runtime.operator import Operator
from kafkasaga.saga.instance import SagaStatus, saga_id
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Base, Begun, Node, Paid, Pay, Reserve, Reserved, State, VirtualClock, send


class Arrived(Base, topic="arrived"): ...


class Unpack(Saga[State], name="unpack", version=1, starts_on=Begun):
    paid = WaitFor[State](Paid, deadline=timedelta(days=1))
    flow = paid
    ends = Ends[State]()


class Thank(Saga[State], name="thank", version=1, starts_on=Arrived):
    """It awaits the event that ``Unpack`` awaits, and begins when it likes."""

    paid = WaitFor[State](Paid, deadline=timedelta(days=1))
    flow = paid
    ends = Ends[State]()


class Charge(Saga[State], name="charge", version=1, starts_on=Reserved):
    """The event of the others is the reply that it awaits."""

    pay = Step[State](command=lambda s: Pay(id=s.id), succeeds_on=Paid, kind="read-only")
    flow = pay
    ends = Ends[State]()


def node_of(broker: MemoryBroker, clock: VirtualClock, *sagas: type[Saga[State]]) -> Node:
    return Node(Service("shop", sagas=list(sagas), outbox=Outbox(MetaData())), broker, clock)


@pytest.fixture
def both(broker: MemoryBroker, clock: VirtualClock) -> Node:
    return node_of(broker, clock, Unpack, Thank)


def tell(node: Node, *messages: Base, saga: SagaContext | None = None) -> None:
    for message in messages:
        send(node.broker, message, saga=saga)
    node.consume()
    node.publish()


def retry(node: Node, rounds: int = 1, seconds: float = 600) -> None:
    for _ in range(rounds):
        node.clock.sleep(seconds)
        while node.batches.retry_parked():
            pass


def status(node: Node, saga: str) -> SagaStatus | None:
    history = Operator(node.store).saga(saga_id(saga, "1"))
    return None if history is None else history.instance.status


def kept(node: Node) -> list[tuple[str, ParkedStatus]]:
    return sorted((parked.consumer, parked.status) for parked in node.parked())


def reply_to(saga: str) -> SagaContext:
    return SagaContext(saga, uuid4(), "pay", 0, Operation.ACTION, command_id=UUID(int=1))


def test_a06_an_event_that_one_saga_took_is_kept_for_another_that_has_not_begun(both: Node) -> None:
    tell(both, Begun(id="1"))
    tell(both, Paid(id="1"))
    assert status(both, "unpack") is SagaStatus.COMPLETED
    assert kept(both) == [("saga:thank:unmatched", ParkedStatus.WAITING)]
    tell(both, Arrived(id="1"))
    retry(both)
    assert status(both, "thank") is SagaStatus.COMPLETED
    assert both.parked() == []


def test_a06_of_an_event_that_was_kept_for_two_sagas_each_takes_its_own(both: Node) -> None:
    tell(both, Paid(id="1"))
    assert [consumer for consumer, _ in kept(both)] == ["saga:thank:unmatched", "saga:unpack:unmatched"]
    tell(both, Begun(id="1"))
    retry(both)
    assert status(both, "unpack") is SagaStatus.COMPLETED
    assert kept(both) == [("saga:thank:unmatched", ParkedStatus.WAITING)]
    tell(both, Arrived(id="1"))
    retry(both)
    assert status(both, "thank") is SagaStatus.COMPLETED
    assert both.parked() == []


def test_a06_an_event_that_one_saga_cannot_take_is_kept_for_another_to_its_last_attempt(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    def fail(_: State, __: Paid) -> None:
        raise ZeroDivisionError

    class Failing(Saga[State], name="failing", version=1, starts_on=Begun):
        paid = WaitFor[State](reply(Paid, fail), deadline=timedelta(days=1))
        flow = paid
        ends = Ends[State]()

    node = node_of(broker, clock, Failing, Thank)
    tell(node, Begun(id="1"))
    tell(node, Paid(id="1"))
    retry(node, rounds=30)
    assert kept(node) == [("saga:failing", ParkedStatus.DEAD), ("saga:thank:unmatched", ParkedStatus.DEAD)]


def test_a06_an_event_that_is_a_reply_to_another_saga_may_come_early(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = node_of(broker, clock, Thank)
    tell(node, Paid(id="1"), saga=reply_to("elsewhere"))
    assert kept(node) == [("saga:thank:unmatched", ParkedStatus.WAITING)]
    tell(node, Arrived(id="1"))
    retry(node)
    assert status(node, "thank") is SagaStatus.COMPLETED
    assert node.parked() == []


def test_i10_a_reply_to_a_saga_that_is_not_known_is_told_though_another_saga_has_its_event(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    node = node_of(broker, clock, Charge, Thank)
    tell(node, Arrived(id="1"))
    tell(node, Paid(id="1"), saga=reply_to("charge"))
    assert status(node, "thank") is SagaStatus.COMPLETED
    assert kept(node) == [("saga:charge:unmatched", ParkedStatus.DEAD)]


def test_i10_a_reply_to_a_saga_that_is_not_known_is_told_though_another_saga_knows_its_type(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    class Bill(Saga[State], name="bill", version=1, starts_on=Reserve):
        pay = Step[State](command=lambda s: Pay(id=s.id), succeeds_on=Paid, kind="read-only")
        flow = pay
        ends = Ends[State]()

    node = node_of(broker, clock, Charge, Bill)
    tell(node, Paid(id="1"), saga=reply_to("charge"))
    assert kept(node) == [("saga:charge:unmatched", ParkedStatus.DEAD)]


def test_a_reply_that_its_saga_has_taken_is_not_kept_for_a_saga_that_has_no_use_for_it(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    """A saga awaits it as an event and has it; the other one asked nobody, so it can be no reply to that."""
    node = node_of(broker, clock, Charge, Thank)
    tell(node, Arrived(id="1"))
    tell(node, Paid(id="1"))
    assert status(node, "thank") is SagaStatus.COMPLETED
    assert node.parked() == []


def test_a06_an_event_that_only_an_older_version_awaits_is_one(broker: MemoryBroker, clock: VirtualClock) -> None:
    class Newer(Saga[State], name="thank", version=2, starts_on=Arrived):
        pay = Step[State](command=lambda s: Pay(id=s.id), succeeds_on=Paid, kind="read-only")
        flow = pay
        ends = Ends[State]()

    outbox = Outbox(MetaData())
    node = Node(Service("shop", sagas=[Thank, Newer], outbox=outbox), broker, clock)
    with node.store.begin() as uow:
        Service("shop", sagas=[Thank], outbox=outbox).start(uow.session, Thank, State(id="1"))
    tell(node, Paid(id="1"), saga=reply_to("elsewhere"))
    assert status(node, "thank") is SagaStatus.COMPLETED


def test_a06_an_event_that_no_saga_took_in_time_does_not_hold_back_the_next_of_its_key(both: Node) -> None:
    tell(both, Paid(id="1"))
    retry(both, rounds=30)
    assert {status for _, status in kept(both)} == {ParkedStatus.DEAD}
    tell(both, Paid(id="1"))
    tell(both, Arrived(id="1"))
    retry(both)
    assert status(both, "thank") is SagaStatus.COMPLETED
