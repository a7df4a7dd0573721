"""The barrier's table, row by row (invariant I9), and who gets a barrier's answers."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from kafkasaga import Message, Service
from kafkasaga.messages import Mark, Operation
from kafkasaga.ports import Outcome
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import (
    Ledger,
    Node,
    NotReserved,
    Release,
    Released,
    Reserve,
    Reserved,
    VirtualClock,
    attributes,
    bodies,
    context,
    send,
)

ACTION, COMPENSATION = Operation.ACTION, Operation.COMPENSATION


class Inventory:
    """A participant that counts how often its handlers ran, one by one or all at once."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock, *, at_once: bool = False) -> None:
        self.ran: list[str] = []
        self.refuses = False
        service = Service("inventory", outbox=Ledger().outbox)

        def reserve(command: Reserve) -> Reserved | NotReserved:
            self.ran.append("reserve")
            return NotReserved(id=command.id) if self.refuses else Reserved(id=command.id)

        def release(command: Release) -> Released:
            self.ran.append("release")
            return Released(id=command.id)

        def reserve_all(commands: list[Reserve]) -> list[Reserved | NotReserved]:
            return [reserve(command) for command in commands]

        def release_all(commands: list[Release]) -> list[Released]:
            return [release(command) for command in commands]

        if at_once:
            service.batch_handler(reserve_all)
            service.batch_handler(release_all)
        else:
            service.handler(reserve)
            service.handler(release)
        self.node, self.broker = Node(service, broker, clock), broker

    def run(self) -> None:
        self.node.consume()
        self.node.publish()

    def marks(self, topic: str) -> list[Mark | None]:
        return [a.saga.mark if a.saga else None for a in attributes(self.broker, topic)]

    def barrier(self) -> dict[Operation, Outcome]:
        rows = self.node.rows(self.node.store.tables.barrier)
        return {Operation(row.op): Outcome(row.outcome) for row in rows}


@pytest.fixture(params=["handlers", "batch handlers"])
def inventory(request: pytest.FixtureRequest, broker: MemoryBroker, clock: VirtualClock) -> Inventory:
    return Inventory(broker, clock, at_once=request.param == "batch handlers")


@pytest.fixture
def saga() -> UUID:
    return uuid4()


Between = Callable[[], None]


@pytest.fixture(params=["one batch", "two batches"])
def between(request: pytest.FixtureRequest, inventory: Inventory) -> Between:
    """Called between two messages: they meet in one transaction, or the second one finds what the first one left."""
    return inventory.run if request.param == "two batches" else lambda: None


def test_i09_an_action_without_barrier_row_runs(inventory: Inventory, saga: UUID) -> None:
    command = send(inventory.broker, Reserve(id="1"), saga=context(saga))
    inventory.run()
    assert inventory.ran == ["reserve"]
    (reply,) = attributes(inventory.broker, "reserved")
    assert reply.saga is not None
    assert (reply.saga.saga_id, reply.saga.command_id, reply.saga.mark) == (saga, command, None)


def test_i09_an_action_that_comes_again_gets_its_first_reply(
    inventory: Inventory, saga: UUID, between: Between
) -> None:
    send(inventory.broker, Reserve(id="1"), saga=context(saga))
    between()
    again = send(inventory.broker, Reserve(id="1"), saga=context(saga))
    inventory.run()
    assert inventory.ran == ["reserve"]
    first, second = attributes(inventory.broker, "reserved")
    assert first.id != second.id
    assert second.saga is not None
    assert (second.saga.mark, second.saga.command_id) == (Mark.REPEATED, again)
    assert bodies(inventory.broker, "reserved") == [b'{"id":"1"}', b'{"id":"1"}']


class Ticket(Message, topic="ticket", key="number"):
    number: str


def keys(broker: MemoryBroker, topic: str) -> list[bytes | None]:
    return [record.key for record in broker.records(topic)]


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_i09_a_repeated_answer_has_the_key_of_the_first(
    broker: MemoryBroker, clock: VirtualClock, saga: UUID, in_one_batch: bool
) -> None:
    """Another key would be another lane: nothing would keep the two answers in order."""
    service, numbers = Service("box-office", outbox=Ledger().outbox), iter(["7", "8"])

    @service.handler
    def book(command: Reserve) -> Ticket:
        return Ticket(number=next(numbers))

    node = Node(service, broker, clock)
    send(broker, Reserve(id="1"), saga=context(saga))
    if not in_one_batch:
        node.consume()
    send(broker, Reserve(id="1"), saga=context(saga))
    node.consume()
    node.publish()
    assert keys(broker, "ticket") == [b"7", b"7"]
    assert bodies(broker, "ticket") == [b'{"number":"7"}', b'{"number":"7"}']


def test_an_answer_that_no_handler_ever_gave_has_the_key_of_the_message(inventory: Inventory, saga: UUID) -> None:
    send(inventory.broker, Release(id="1"), saga=context(saga, COMPENSATION))
    inventory.run()
    assert keys(inventory.broker, "released") == [b"1"]


def test_a02_an_action_right_behind_its_compensation_in_one_batch_does_nothing(
    inventory: Inventory, broker: MemoryBroker
) -> None:
    saga_id = uuid4()
    send(broker, Release(id="o1"), saga=context(saga_id, COMPENSATION))
    send(broker, Reserve(id="o1"), saga=context(saga_id))
    (compensation,), (action,) = broker.records("unreserve"), broker.records("reserve")
    inventory.node.batches.process([compensation, action])
    inventory.node.publish()
    assert inventory.ran == []
    assert inventory.marks("released") == [Mark.EMPTY]
    assert inventory.marks("reserved") == [Mark.SUPERSEDED]


def test_a02_an_action_after_its_compensation_does_nothing(inventory: Inventory, saga: UUID) -> None:
    send(inventory.broker, Release(id="1"), saga=context(saga, COMPENSATION))
    inventory.run()
    send(inventory.broker, Reserve(id="1"), saga=context(saga))
    inventory.run()
    assert inventory.ran == []
    assert inventory.marks("reserved") == [Mark.SUPERSEDED]


def test_a01_a_compensation_without_its_action_does_nothing(inventory: Inventory, saga: UUID) -> None:
    send(inventory.broker, Release(id="1"), saga=context(saga, COMPENSATION))
    inventory.run()
    assert inventory.ran == []
    assert inventory.marks("released") == [Mark.EMPTY]
    assert bodies(inventory.broker, "released") == [None]
    assert inventory.barrier() == {ACTION: Outcome.SUPERSEDED, COMPENSATION: Outcome.EMPTY}


def test_i09_a_compensation_after_an_action_that_failed_does_nothing(
    inventory: Inventory, saga: UUID, between: Between
) -> None:
    inventory.refuses = True
    send(inventory.broker, Reserve(id="1"), saga=context(saga))
    between()
    failures = ("not-reserved",)
    send(inventory.broker, Release(id="1"), saga=context(saga, COMPENSATION, failures=failures))
    inventory.run()
    assert inventory.ran == ["reserve"]
    assert inventory.marks("released") == [Mark.EMPTY]


def test_i09_a_compensation_after_an_action_that_succeeded_runs(
    inventory: Inventory, saga: UUID, between: Between
) -> None:
    send(inventory.broker, Reserve(id="1"), saga=context(saga))
    between()
    send(inventory.broker, Release(id="1"), saga=context(saga, COMPENSATION, failures=("not-reserved",)))
    inventory.run()
    assert inventory.ran == ["reserve", "release"]
    assert inventory.marks("released") == [None]
    assert inventory.barrier() == {ACTION: Outcome.DONE, COMPENSATION: Outcome.DONE}


def test_i09_a_compensation_that_comes_again_gets_its_first_reply(
    inventory: Inventory, saga: UUID, between: Between
) -> None:
    send(inventory.broker, Reserve(id="1"), saga=context(saga))
    send(inventory.broker, Release(id="1"), saga=context(saga, COMPENSATION))
    inventory.run()
    for _ in range(2):
        send(inventory.broker, Release(id="1"), saga=context(saga, COMPENSATION))
        between()
    inventory.run()
    assert inventory.ran == ["reserve", "release"]
    assert inventory.marks("released") == [None, Mark.REPEATED, Mark.REPEATED]


def test_i09_an_empty_compensation_that_comes_again_is_empty_again(
    inventory: Inventory, saga: UUID, between: Between
) -> None:
    for _ in range(2):
        send(inventory.broker, Release(id="1"), saga=context(saga, COMPENSATION))
        between()
    inventory.run()
    assert inventory.ran == []
    assert inventory.marks("released") == [Mark.EMPTY, Mark.EMPTY]


def test_a_new_generation_is_a_new_attempt(inventory: Inventory, saga: UUID) -> None:
    inventory.refuses = True
    send(inventory.broker, Reserve(id="1"), saga=context(saga))
    inventory.run()
    inventory.refuses = False
    send(inventory.broker, Reserve(id="1"), saga=context(saga, generation=1))
    inventory.run()
    assert inventory.ran == ["reserve", "reserve"]
    assert inventory.marks("reserved") == [None]


def test_what_a_failing_handler_claimed_is_given_back(inventory: Inventory, saga: UUID) -> None:
    service = Service("broken", outbox=Ledger().outbox)

    @service.handler
    def reserve(command: Reserve) -> Reserved:
        raise ValueError

    node = Node(service, inventory.broker, inventory.node.clock)
    send(inventory.broker, Reserve(id="1"), saga=context(saga))
    node.consume()
    assert node.count("barrier") == 0
    assert node.count("parked_message") == 1


def test_only_the_guarded_handler_answers_in_the_name_of_the_step(
    broker: MemoryBroker, clock: VirtualClock, saga: UUID
) -> None:
    service = Service("two", outbox=Ledger().outbox)

    @service.handler
    def reserve(command: Reserve) -> Reserved:
        return Reserved(id=command.id)

    @service.handler(consumer="two.audit")
    def audit(command: Reserve) -> Released:
        return Released(id=command.id)

    node = Node(service, broker, clock)
    send(broker, Reserve(id="1"), saga=context(saga))
    node.consume()
    node.publish()
    assert [a.saga is None for a in attributes(broker, "reserved")] == [False]
    assert [a.saga is None for a in attributes(broker, "released")] == [True]


@pytest.mark.parametrize("mark", list(Mark))
def test_a_handler_that_listens_to_replies_does_not_get_a_barriers_answers(
    broker: MemoryBroker, clock: VirtualClock, saga: UUID, mark: Mark
) -> None:
    heard: list[str] = []
    service = Service("listener", outbox=Ledger().outbox)

    @service.handler
    def listen(event: Released) -> None:
        heard.append(event.id)

    node = Node(service, broker, clock)
    answer = context(saga, COMPENSATION, command_id=uuid4())
    send(broker, Released(id="first"), saga=answer)
    send(broker, Released(id="again"), saga=context(saga, COMPENSATION, command_id=uuid4(), mark=mark))
    node.consume()
    assert heard == ["first"]
    assert node.count("parked_message") == 0


def test_only_the_command_id_tells_a_confirmation_from_a_compensation(
    broker: MemoryBroker, clock: VirtualClock, saga: UUID
) -> None:
    """Why participants in other languages must send it back."""
    heard: list[str] = []
    service = Service("listener", outbox=Ledger().outbox)

    @service.handler
    def listen(event: Released) -> None:
        heard.append(event.id)

    node = Node(service, broker, clock)
    send(broker, Released(id="with"), saga=context(saga, COMPENSATION, command_id=uuid4()))
    send(broker, Released(id="without"), saga=context(saga, COMPENSATION))
    node.consume()
    assert heard == ["with"]
    assert [row.outcome for row in node.rows(node.store.tables.barrier)].count(Outcome.EMPTY.value) == 1


def test_what_a_listener_returns_is_no_reply(broker: MemoryBroker, clock: VirtualClock, saga: UUID) -> None:
    service = Service("listener", outbox=Ledger().outbox)

    @service.handler
    def listen(event: Reserved) -> Released:
        return Released(id=event.id)

    node = Node(service, broker, clock)
    send(broker, Reserved(id="1"), saga=context(saga, command_id=uuid4()))
    node.consume()
    node.publish()
    assert [a.saga for a in attributes(broker, "released")] == [None]


def test_equal_ids_of_two_sources_are_answered_under_two_ids(inventory: Inventory) -> None:
    same = uuid4()
    for source in ("one", "two"):
        send(inventory.broker, Reserve(id="1"), id=same, source=source)
    inventory.run()
    assert len({a.id for a in attributes(inventory.broker, "reserved")}) == 2
