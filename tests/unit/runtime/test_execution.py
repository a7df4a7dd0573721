"""What a transaction sends, and in which order: it must not matter how many messages one transaction holds."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from kafkasaga import DefinitionError, LocalStep, Message, Outbox, Saga, SagaState, Service
from kafkasaga.messages import (
    Envelope,
    JsonCodec,
    Mark,
    Operation,
    Record,
    SagaContext,
    contract_of,
    write_headers,
)
from kafkasaga.ports import ParkedStatus
from kafkasaga.runtime.execution import Execution
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Base, Begun, Buy, Node, VirtualClock


class Told(Message, topic="told", key="whom"):
    whom: str
    n: int


class Answer(Base, topic="answer"): ...


class Publish(Base, topic="in"):
    n: int
    by: str


def send(broker: MemoryBroker, message: Publish) -> None:
    headers = {"ce_id": str(uuid4()).encode(), "ce_type": b"in"}
    broker.append("in", message.id.encode(), message.model_dump_json().encode(), headers)


def told(node: Node) -> list[int]:
    rows = sorted(node.rows(node.store.tables.outbox), key=lambda row: row.id)
    return [Told.model_validate_json(row.payload).n for row in rows if row.topic == "told"]


class Counted(SagaState):
    id: str


class Local(Saga[Counted], name="local", version=1, starts_on=Begun):
    count = LocalStep[Counted](lambda s, session: None, kind="read-only")
    flow = count


@pytest.mark.parametrize(
    ("sagas", "message", "hands_over"), [([Buy], Begun, False), ([Buy, Local], Begun, True), ([Buy], Publish, True)]
)
def test_it_is_announced_that_a_users_function_may_ask_for_the_session(
    sagas: list[type[Saga[Any]]], message: type[Message], hands_over: bool
) -> None:
    shop = service()
    both = Service("both", sagas=sagas, outbox=shop.outbox)
    both.handler(by_itself)
    execution = Execution(Sender("both", both.codec, VirtualClock()), both.definitions)
    contract, body = contract_of(message), b'{"id": "1", "n": 1, "by": "return"}'
    headers = {"ce_id": str(uuid4()).encode(), "ce_type": contract.type.encode()}
    tasks = list(both.router().route(Record(contract.topic, 0, 0, b"1", body, headers)))
    assert all(task.problem is None for task in tasks)
    assert execution.hands_over(tasks) is hands_over


def by_itself(command: Publish) -> None: ...


def service() -> Service:
    shop = Service("svc")

    @shop.handler
    def handle(command: Publish, session: Session) -> Told | None:
        message = Told(whom="one", n=command.n)
        match command.by:
            case "return":
                return message
            case "publish":
                shop.outbox.publish(session, message)
            case "savepoint":
                with session.begin_nested():
                    shop.outbox.publish(session, message)
            case "rolled back":
                savepoint = session.begin_nested()
                with session.begin_nested():
                    shop.outbox.publish(session, message)
                savepoint.rollback()
            case _:
                raise ValueError(command.by)
        return None

    return shop


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_i04_the_order_of_what_is_sent_does_not_depend_on_the_size_of_a_batch(batch_size: int) -> None:
    broker = MemoryBroker(partitions=1)
    node = Node(service(), broker, VirtualClock())
    node.loop._consumer.close()
    node.loop = node.new_loop(batch_size)
    for n, by in enumerate(["return", "publish", "savepoint", "return", "rolled back", "publish", "return"]):
        send(broker, Publish(id="k", n=n, by=by))
    node.consume()
    assert told(node) == [0, 1, 2, 3, 5, 6]


def test_what_was_published_in_a_savepoint_goes_with_it() -> None:
    broker = MemoryBroker(partitions=1)
    node = Node(service(), broker, VirtualClock())
    send(broker, Publish(id="k", n=1, by="rolled back"))
    node.consume()
    assert told(node) == []
    assert node.parked() == []


def test_another_outbox_of_the_same_tables_joins_in_the_order() -> None:
    shop, own = Service("svc"), Outbox()

    @shop.handler
    def handle(command: Publish, session: Session) -> Told | None:
        if command.by == "return":
            return Told(whom="one", n=command.n)
        own.publish(session, Told(whom="one", n=command.n))
        return None

    broker = MemoryBroker(partitions=1)
    node = Node(shop, broker, VirtualClock())
    for n, by in enumerate(["return", "publish", "return"]):
        send(broker, Publish(id="k", n=n, by=by))
    node.consume()
    assert told(node) == [0, 1, 2]


def test_a_service_has_one_codec() -> None:
    class Other(JsonCodec): ...

    codec = Other()
    assert Service("svc", codec=codec).outbox.codec is codec
    with pytest.raises(DefinitionError, match="different codecs"):
        Service("svc", codec=codec, outbox=Outbox(codec=Other()))


def test_a_message_that_an_annotation_does_not_name_is_refused() -> None:
    shop = Service("svc")

    @shop.handler
    def handle(command: Publish) -> Answer:
        return Told(whom="x", n=1)  # type: ignore[return-value]

    broker = MemoryBroker(partitions=1)
    node = Node(shop, broker, VirtualClock())
    send(broker, Publish(id="k", n=1, by=""))
    node.consume()
    (parked,) = node.parked()
    assert "returned a Told, which its annotation does not name" in parked.error


def test_a_lost_database_in_a_handler_does_not_count_against_the_message() -> None:
    shop, lost = Service("svc"), [True, True, True]

    @shop.handler
    def handle(command: Publish, session: Session) -> Told:
        if lost:
            lost.pop()
            raise OperationalError("SELECT", {}, Exception("server closed the connection unexpectedly"))
        return Told(whom="one", n=command.n)

    broker = MemoryBroker(partitions=1)
    node = Node(shop, broker, VirtualClock())
    send(broker, Publish(id="k", n=1, by=""))
    node.consume()
    assert told(node) == [1]
    assert node.parked() == []


def test_i13_a_key_too_long_for_an_index_is_parked_whole() -> None:
    broker = MemoryBroker(partitions=1)
    node = Node(service(), broker, VirtualClock())
    key = bytes(range(256)) * 20
    broker.append("in", key, b"{", {"ce_type": b"in"})
    node.consume()
    (parked,) = node.parked()
    assert parked.record.key == key
    assert parked.status is ParkedStatus.DEAD
    broker.append("in", key, b'{"id": "1", "n": 1, "by": "return"}', {"ce_type": b"in"})
    broker.append("in", key[:-1], b'{"id": "2", "n": 2, "by": "return"}', {"ce_type": b"in"})
    node.consume()
    behind = [parked.status for parked in node.parked()[1:]]
    assert behind == [ParkedStatus.WAITING] * 2, "a later one of the key waits, and so does a key that begins alike"


def test_a_mark_without_a_command_is_no_command() -> None:
    broker = MemoryBroker(partitions=1)
    node = Node(service(), broker, VirtualClock())
    context = SagaContext("buy", uuid4(), "pay", 0, Operation.ACTION, mark=Mark.REPEATED)
    envelope = Envelope("in", "k", uuid4(), "x", "in", node.clock.now(), None, saga=context)
    broker.append("in", b"k", b"", {name: text.encode() for name, text in write_headers(envelope).items()})
    node.consume()
    assert node.rows(node.store.tables.barrier) == []
