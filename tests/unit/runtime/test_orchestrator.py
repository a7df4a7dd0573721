"""Running sagas from messages: start, answers, what is for nobody, what is for another saga."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import MetaData, func, select
from structlog.testing import capture_logs

from kafkasaga import DefinitionError, Ends, LocalStep, Outbox, Saga, Service, Step, WaitFor, exponential
from kafkasaga.messages import Operation
from kafkasaga.ports import ParkedStatus, TopicPartition
from kafkasaga.runtime.operator import Operator
from kafkasaga.saga.inputs import SkipStuck
from kafkasaga.saga.instance import SagaStatus, saga_id
from kafkasaga.stores import Session
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import (
    Base,
    Begun,
    Buy,
    Declined,
    Ended,
    Node,
    NotReserved,
    Paid,
    Pay,
    Release,
    Released,
    Reserve,
    Reserved,
    State,
    VirtualClock,
    attributes,
    context,
    orchestrator,
    send,
    until,
)


@pytest.fixture
def node(broker: MemoryBroker, clock: VirtualClock) -> Node:
    return orchestrator(broker, clock)


def run(node: Node) -> None:
    node.consume()
    node.publish()


def kinds(node: Node, key: str = "1", saga: str = "buy") -> list[str]:
    history = Operator(node.store).saga(saga_id(saga, key))
    assert history is not None
    assert Operator(node.store).verify(history.instance.id) is None
    return [entry.event.kind for entry in history.log]


def status(node: Node, key: str = "1") -> SagaStatus:
    (found,) = node.store.queries().sagas(key=key)
    return found.status


def test_a_saga_runs_to_its_end(node: Node, broker: MemoryBroker) -> None:
    id = saga_id("buy", "1")
    send(broker, Begun(id="1"))
    run(node)
    (command,) = attributes(broker, "reserve")
    assert command.saga == context(id)
    send(broker, Reserved(id="1"), saga=context(id, command_id=command.id))
    run(node)
    (pay,) = attributes(broker, "pay")
    send(broker, Paid(id="1"), saga=context(id, step="pay", command_id=pay.id))
    run(node)
    assert status(node) is SagaStatus.COMPLETED
    assert kinds(node)[-1] == "completed"
    assert len(broker.records("ended")) == 1


def test_i04_start_and_answers_of_one_batch_are_taken_in_order(broker: MemoryBroker, clock: VirtualClock) -> None:
    """Everything is there already when the orchestrator starts, as after an hour away."""
    node, id = orchestrator(broker, clock), saga_id("buy", "1")
    send(broker, Begun(id="1"))
    send(broker, Paid(id="1"), saga=context(id, step="pay"))  # topics are read in alphabetical order here
    send(broker, Reserved(id="1"), saga=context(id))
    transactions = node.transactions()
    node.consume()
    assert transactions.count("commit") == 1
    assert "step-succeeded" in kinds(node)


def test_a24_an_answer_to_another_incarnation_changes_nothing(node: Node, broker: MemoryBroker) -> None:
    send(broker, Begun(id="1"))
    run(node)
    send(broker, Reserved(id="1"), saga=context(saga_id("buy", "1", 1)))
    run(node)
    assert status(node) is SagaStatus.RUNNING
    (parked,) = node.parked()
    assert (parked.consumer, parked.status) == ("saga:buy:unmatched", ParkedStatus.DEAD)
    assert "which is not known here" in parked.error


def test_a_participant_that_sends_no_headers_back_is_found_by_the_key(node: Node, broker: MemoryBroker) -> None:
    send(broker, Begun(id="1"))
    run(node)
    send(broker, Reserved(id="1"))
    run(node)
    assert len(broker.records("pay")) == 1


class Rent(Saga[State], name="rent", version=1, starts_on=Ended):
    """It awaits the reply that ``Buy`` awaits, in the same service."""

    reserve = Step[State](command=lambda s: Reserve(id=s.id), succeeds_on=Reserved, kind="read-only")
    flow = reserve
    ends = Ends[State]()


@pytest.fixture
def both(broker: MemoryBroker, clock: VirtualClock) -> Node:
    return Node(Service("both", sagas=[Buy, Rent], outbox=Outbox(MetaData())), broker, clock)


def begin_each(broker: MemoryBroker) -> None:
    send(broker, Begun(id="of-buy"))
    send(broker, Ended(id="of-rent", well=True))


def test_a_reply_without_headers_that_two_sagas_await_goes_to_the_one_that_has_its_key(
    both: Node, broker: MemoryBroker
) -> None:
    begin_each(broker)
    run(both)
    for key in ("of-buy", "of-rent"):
        send(broker, Reserved(id=key))
    run(both)
    assert both.parked() == [], "the other saga does not know it, and need not"
    assert [pay.saga and pay.saga.saga_id for pay in attributes(broker, "pay")] == [saga_id("buy", "of-buy")]
    assert status(both, "of-rent") is SagaStatus.COMPLETED


def test_i10_a_reply_without_headers_that_no_saga_takes_is_kept_for_each(both: Node, broker: MemoryBroker) -> None:
    begin_each(broker)
    run(both)
    send(broker, Reserved(id="nobody"))
    send(broker, Reserved(id="of-buy"))
    run(both)
    kept = [(parked.consumer, parked.record.key) for parked in both.parked()]
    assert sorted(kept) == [("saga:buy:unmatched", b"nobody"), ("saga:rent:unmatched", b"nobody")]


def retried_to_the_end(node: Node) -> list[str]:
    """Whose parked messages are told as dead."""
    with capture_logs() as logs:
        for _ in range(30):
            node.clock.sleep(600)
            while node.batches.retry_parked():
                pass
    return [entry["consumer"] for entry in logs if entry["event"] == "parked message is dead"]


def test_i10_a_reply_without_headers_that_one_saga_takes_later_is_no_alarm_for_another(
    both: Node, broker: MemoryBroker
) -> None:
    send(broker, Reserved(id="1"))  # it overtook the message that starts its saga
    run(both)
    assert [parked.consumer for parked in both.parked()] == ["saga:buy:unmatched", "saga:rent:unmatched"]
    send(broker, Begun(id="1"))
    run(both)
    assert retried_to_the_end(both) == []
    assert both.parked() == []
    assert len(broker.records("pay")) == 0
    assert "step-succeeded" in kinds(both)


class Failing(Saga[State], name="failing", version=1, starts_on=Begun):
    reserve = Step[State](command=lambda s: Reserve(id=s.id), succeeds_on=Reserved, kind="read-only")
    pay = Step[State](command=lambda s: Pay(id=dict[str, str]()[s.id]), succeeds_on=Paid, kind="read-only")
    flow = reserve >> pay
    ends = Ends[State]()


def test_i10_a_reply_without_headers_that_its_saga_cannot_take_is_one_alarm(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    both = Node(Service("both", sagas=[Failing, Rent], outbox=Outbox(MetaData())), broker, clock)
    send(broker, Begun(id="1"))
    run(both)
    send(broker, Reserved(id="1"))
    run(both)
    assert sorted(parked.consumer for parked in both.parked()) == ["saga:failing", "saga:rent:unmatched"]
    assert retried_to_the_end(both) == ["saga:failing"]
    assert [(parked.consumer, parked.status) for parked in both.parked()] == [("saga:failing", ParkedStatus.DEAD)]


def test_a06_a_message_that_overtook_its_saga_is_tried_again(
    node: Node, broker: MemoryBroker, clock: VirtualClock
) -> None:
    send(broker, NotReserved(id="1"))
    run(node)
    (parked,) = node.parked()
    assert parked.status is ParkedStatus.WAITING
    send(broker, Begun(id="1"))
    run(node)
    assert status(node) is SagaStatus.RUNNING
    clock.sleep(2)
    assert node.batches.retry_parked()
    assert node.parked() == []
    assert "step-failed" in kinds(node)


def test_i10_a_message_for_no_saga_is_dead_in_the_end_and_blocks_nothing(
    node: Node, broker: MemoryBroker, clock: VirtualClock
) -> None:
    send(broker, Reserved(id="nobody"))
    run(node)
    for _ in range(30):
        clock.sleep(600)
        node.batches.retry_parked()
    (parked,) = node.parked()
    assert parked.status is ParkedStatus.DEAD


def test_a_reply_of_another_saga_on_a_shared_topic_is_not_ours(node: Node, broker: MemoryBroker) -> None:
    send(broker, Begun(id="1"))
    run(node)
    foreign = context(uuid4())
    send(broker, Reserved(id="1"), saga=type(foreign)("rent", foreign.saga_id, "reserve", 0, Operation.ACTION))
    run(node)
    assert node.parked() == []
    assert len(broker.records("pay")) == 0


def test_a_reply_of_one_saga_can_start_another(broker: MemoryBroker, clock: VirtualClock) -> None:
    class Ship(Saga[State], name="ship", version=1, starts_on=Paid):
        send = Step[State](command=lambda s: Reserve(id=s.id), succeeds_on=Reserved, kind="read-only")
        flow = send
        ends = Ends[State]()

    node = Node(Service("shipping", sagas=[Ship], outbox=Outbox(MetaData())), broker, clock)
    send(broker, Paid(id="1"), saga=context(uuid4(), step="pay", command_id=uuid4()))
    run(node)
    assert node.count("saga") == 1


def test_an_event_that_is_another_sagas_reply_is_found_by_the_key(broker: MemoryBroker, clock: VirtualClock) -> None:
    class Wait(Saga[State], name="wait", version=1, starts_on=Begun):
        paid = WaitFor[State](Paid, deadline=timedelta(hours=1))
        flow = paid
        ends = Ends[State](completed=lambda s: Ended(id=s.id, well=True))

    node = Node(Service("waiting", sagas=[Wait], outbox=Outbox(MetaData())), broker, clock)
    send(broker, Begun(id="1"))
    run(node)
    send(broker, Paid(id="1"), saga=context(uuid4(), step="pay", command_id=uuid4()))
    run(node)
    assert status(node) is SagaStatus.COMPLETED


def test_what_a_local_step_publishes_has_ids_by_its_place_in_the_saga(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    def ids() -> list[Any]:
        outbox = Outbox(MetaData(), source="local")

        def announce(state: State, session: Session) -> None:
            outbox.publish(session, Ended(id=state.id, well=True))

        class Local(Saga[State], name="local", version=1, starts_on=Begun):
            announced = LocalStep[State](announce, kind="read-only")
            flow = announced
            ends = Ends[State]()

        node = Node(Service("local", sagas=[Local], outbox=outbox), broker, clock)
        node.consume()
        node.loop._consumer.close()
        with node.store.engine.connect() as connection:
            return list(connection.scalars(select(node.store.tables.outbox.c.message_id)))

    send(broker, Begun(id="1"))
    send(broker, Begun(id="2"))
    first = ids()
    broker.commit("local", {TopicPartition("begun", 0): 0})
    assert first == ids()
    assert len(set(first)) == 2


# ---- service.start


def begin(node: Node, state: Any = None, **more: Any) -> Any:
    with node.store.begin() as uow:
        return node.service.start(uow.session, Buy, state or State(id="1"), **more)


def test_a_saga_can_be_started_in_a_transaction_of_the_users_own(node: Node, broker: MemoryBroker) -> None:
    assert begin(node) == saga_id("buy", "1")
    node.publish()
    assert len(broker.records("reserve")) == 1


def test_starting_a_saga_again_is_a_recorded_no_op(node: Node, broker: MemoryBroker) -> None:
    for _ in range(2):
        begin(node)
    node.publish()
    assert len(broker.records("reserve")) == 1
    assert kinds(node)[-1] == "ignored"


def test_a_new_incarnation_is_a_new_saga(node: Node) -> None:
    assert begin(node) != begin(node, incarnation=1)
    assert node.count("saga") == 2


def test_a_reply_without_headers_is_for_the_newest_incarnation_of_its_key(node: Node, broker: MemoryBroker) -> None:
    ids = [begin(node, incarnation=incarnation) for incarnation in range(2)]
    send(broker, Reserved(id="1"))
    run(node)
    histories = [Operator(node.store).saga(id) for id in ids]
    assert ["pay" in history.instance.steps for history in histories if history is not None] == [False, True]


def test_a_saga_whose_transaction_is_rolled_back_has_not_started(node: Node) -> None:
    def fail() -> None:
        with node.store.begin() as uow:
            node.service.start(uow.session, Buy, State(id="1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert node.count("saga") == node.count("outbox") == node.count("saga_log") == 0


def test_a_saga_of_another_service_cannot_be_started(node: Node) -> None:
    with pytest.raises(DefinitionError, match="saga 'buy' is not one of service 'other'"):
        Service("other").start(None, Buy, State(id="1"))  # type: ignore[arg-type]


def test_only_the_newest_version_of_a_saga_can_be_started(broker: MemoryBroker, clock: VirtualClock) -> None:
    class Buy2(Saga[State], name="buy", version=2, starts_on=Begun):
        reserve = Step[State](command=lambda s: Reserve(id=s.id), succeeds_on=Reserved, kind="read-only")
        flow = reserve
        ends = Ends[State]()

    with pytest.raises(DefinitionError, match="version 1 is kept for instances under way; start version 2"):
        Service("both", sagas=[Buy, Buy2]).start(None, Buy, State(id="1"))  # type: ignore[arg-type]


def test_i15_an_instance_ends_under_the_version_it_began_with(broker: MemoryBroker, clock: VirtualClock) -> None:
    class Buy2(Saga[State], name="buy", version=2, starts_on=Begun):
        reserve = Step[State](command=lambda s: Reserve(id=s.id), succeeds_on=Reserved, kind="read-only")
        flow = reserve
        ends = Ends[State]()

    outbox = Outbox(MetaData())
    node = Node(Service("orchestrator", sagas=[Buy, Buy2], outbox=outbox), broker, clock)
    with node.store.begin() as uow:
        Service("orchestrator", sagas=[Buy], outbox=outbox).start(uow.session, Buy, State(id="old"))
    send(broker, Begun(id="new"))
    for key in ("old", "new"):
        node.consume()
        send(broker, Reserved(id=key))
    run(node)
    assert (status(node, "old"), status(node, "new")) == (SagaStatus.RUNNING, SagaStatus.COMPLETED)
    assert [record.key for record in broker.records("pay")] == [b"old"], "the step that only its version has"
    assert node.parked() == []


# ---- an operator


def test_what_an_operator_sets_going_sends_nothing_that_went_with_a_savepoint(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    outbox = Outbox(MetaData(), prefix="own_")

    def book(state: State, session: Session) -> None: ...

    def unbook(state: State, session: Session) -> None:
        with session.begin_nested() as savepoint:
            outbox.publish(session, Ended(id="undone", well=False))
            savepoint.rollback()
        outbox.publish(session, Ended(id="unbooked", well=False))

    class Booked(Saga[State], name="booked", version=1, starts_on=Begun):
        booked = LocalStep[State](book, compensation=unbook)
        reserve = Step[State](
            command=lambda s: Reserve(id=s.id),
            succeeds_on=Reserved,
            compensation=lambda s: Release(id=s.id),
            compensated_on=Released,
            compensation_retry=exponential(attempts=1),
        )
        pay = Step[State](command=lambda s: Pay(id=s.id), succeeds_on=Paid, fails_on=Declined, kind="pivot")
        flow = booked >> reserve >> pay
        ends = Ends[State](cancelled=lambda s, why: Ended(id="cancelled", well=False))

    node = Node(Service("booked", sagas=[Booked], outbox=outbox), broker, clock)
    for message in (Begun(id="1"), Reserved(id="1"), Declined(id="1")):
        send(broker, message)
        run(node)

    def time_passes() -> None:
        clock.sleep(3600)
        node.timekeeper.step()
        run(node)

    id = saga_id("booked", "1")
    until(lambda: status(node) is SagaStatus.STUCK, time_passes)
    Operator(node.store).settle(node.service, id, SkipStuck("reserve", by="eve", why="tried"))
    node.publish()
    assert [record.key for record in broker.records("ended")] == [b"unbooked", b"cancelled"]


# ---- time


class _CountingClock(VirtualClock):
    """Counts how often it is looked at."""

    looks = 0

    def now(self) -> datetime:
        self.looks += 1
        return super().now()


def test_what_a_batch_decides_has_one_time_and_the_clock_is_asked_once(broker: MemoryBroker) -> None:
    def looks(*keys: str) -> int:
        for key in keys:
            send(broker, Begun(id=key))
        before = clock.looks
        node.consume()
        return clock.looks - before

    clock = _CountingClock()
    node = orchestrator(broker, clock)
    assert looks("first") == looks("a", "b", "c")
    histories = [Operator(node.store).saga(saga_id("buy", key)) for key in "abc"]
    assert {entry.at for history in histories if history is not None for entry in history.log} == {clock.now()}


class _Early(Base, topic="a-early"): ...


class _Asked(Base, topic="asked"): ...


def test_a_deadline_begins_after_what_took_long_before_it(broker: MemoryBroker, clock: VirtualClock) -> None:
    def slow(state: State, session: Session) -> None:
        clock.sleep(60)

    class Slow(Saga[State], name="slow", version=1, starts_on=Begun):
        announced = LocalStep[State](slow, kind="read-only")
        reserve = Step[State](
            command=lambda s: Reserve(id=s.id), succeeds_on=Reserved, kind="read-only", deadline=timedelta(seconds=30)
        )
        flow = announced >> reserve

    class Early(Saga[State], name="early", version=1, starts_on=_Early):
        flow = reserve = Step[State](command=lambda s: Reserve(id=s.id), succeeds_on=Reserved, kind="read-only")

    service = Service("slow", sagas=[Early, Slow], outbox=Outbox(MetaData()))

    @service.handler
    def asked(command: _Asked) -> Paid:
        clock.sleep(600)
        return Paid(id=command.id)

    node, began = Node(service, broker, clock), clock.now()
    for message in (_Early(id="1"), _Asked(id="1"), Begun(id="1"), Begun(id="2")):
        send(broker, message)
    node.consume()

    def first_deadline(key: str) -> timedelta:
        history = Operator(node.store).saga(saga_id("slow", key))
        assert history is not None
        due = history.instance.steps["reserve"].due
        assert due is not None
        return due - began - timedelta(seconds=30)

    def started(saga: str, key: str) -> timedelta:
        history = Operator(node.store).saga(saga_id(saga, key))
        assert history is not None
        return history.log[0].at - began

    assert started("early", "1") == timedelta()
    assert [started("slow", key) for key in "12"] == [timedelta(seconds=600), timedelta(seconds=660)]
    assert [first_deadline("1"), first_deadline("2")] == [timedelta(seconds=660), timedelta(seconds=720)]


# ---- verify


def test_i07_a_log_that_was_tampered_with_is_found(node: Node, broker: MemoryBroker) -> None:
    send(broker, Begun(id="1"))
    run(node)
    operator, id, log = Operator(node.store), saga_id("buy", "1"), node.store.tables.saga_log
    assert operator.verify(id) is None
    with node.store.engine.begin() as connection:
        last = connection.scalar(select(func.max(log.c.seq)))
        connection.execute(log.delete().where(log.c.seq == last))
    assert "gaps" in str(operator.verify(id))
    assert [problem is None for _, problem in operator.verify_all()] == [False]
    assert operator.verify(uuid4()) == "there is no such saga"


def test_i07_a_state_that_is_not_the_fold_of_its_log_is_found(node: Node, broker: MemoryBroker) -> None:
    send(broker, Begun(id="1"))
    run(node)
    operator, id, saga = Operator(node.store), saga_id("buy", "1"), node.store.tables.saga
    with node.store.engine.begin() as connection:
        snapshot = connection.execute(select(saga.c.snapshot)).scalar_one()
        connection.execute(saga.update().values(snapshot=snapshot.replace("pending", "succeeded")))
    assert "fold" in str(operator.verify(id))
