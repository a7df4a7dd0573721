"""Batch handlers: called once for what came together, with the guarantees of the others."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session

from kafkasaga import DefinitionError, Message, Service
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Ledger, Node, NotReserved, Reserve, Reserved, VirtualClock, attributes, context, send


class Told(Message, topic="told", key="id"):
    id: str


class Shop:
    """A service whose batch handler writes its rows in one statement, and fails where one of ``bad`` is among them."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock) -> None:
        self.broker, self.ledger = broker, Ledger()
        self.bad: set[str] = set()
        self.calls: list[list[str]] = []
        self.publishes = False
        service = Service("svc", outbox=self.ledger.outbox)

        @service.batch_handler
        def reserve(commands: list[Reserve], session: Session) -> list[Reserved | tuple[Reserved, Told] | NotReserved]:
            self.calls.append([command.id for command in commands])
            if self.publishes:
                service.outbox.publish(session, *(Told(id=command.id) for command in commands))
            session.execute(insert(self.ledger.entries), [{"id": command.id} for command in commands])
            if self.bad & {command.id for command in commands}:
                raise ValueError("bad luck")
            return [(Reserved(id=c.id), Told(id=c.id)) if c.id == "two" else Reserved(id=c.id) for c in commands]

        self.node = Node(service, broker, clock)

    def send(self, *ids: str) -> None:
        for id in ids:
            send(self.broker, Reserve(id=id), saga=context(uuid4()))

    def sent(self) -> list[tuple[str, str]]:
        rows = sorted(self.node.rows(self.node.store.tables.outbox), key=lambda row: row.id)
        return [(row.topic, row.key) for row in rows]


@pytest.fixture
def shop(broker: MemoryBroker, clock: VirtualClock) -> Shop:
    return Shop(broker, clock)


def test_what_came_together_is_handled_in_one_call_and_each_gets_its_answer(shop: Shop) -> None:
    shop.send("one", "two", "three")
    shop.node.consume()
    assert shop.calls == [["one", "two", "three"]]
    assert shop.sent() == [("reserved", "one"), ("reserved", "two"), ("told", "two"), ("reserved", "three")]


def test_a_reply_names_its_own_command_and_only_replies_carry_the_saga(shop: Shop) -> None:
    commands = [send(shop.broker, Reserve(id=id), saga=context(uuid4())) for id in ("one", "two")]
    shop.node.consume()
    shop.node.publish()
    sagas = [answer.saga for answer in attributes(shop.broker, "reserved")]
    assert [saga.command_id for saga in sagas if saga is not None] == commands
    assert [event.saga for event in attributes(shop.broker, "told")] == [None]


def test_i13_of_several_messages_only_the_failing_one_is_parked(shop: Shop) -> None:
    shop.bad = {"three"}
    shop.send("one", "two", "three", "four", "five")
    shop.node.consume()
    assert sorted(shop.ledger.ids(shop.node)) == ["five", "four", "one", "two"]
    assert ["one", "two"] in shop.calls, "halved, not taken apart one by one"
    (parked,) = shop.node.parked()
    assert parked.record.key == b"three"
    assert parked.error.endswith("ValueError: bad luck")


def test_a_parked_message_is_tried_again_alone(shop: Shop, clock: VirtualClock) -> None:
    shop.bad = {"one"}
    shop.send("one")
    shop.node.consume()
    shop.bad = set()
    clock.sleep(3600)
    assert shop.node.batches.retry_parked()
    assert shop.ledger.ids(shop.node) == ["one"]
    assert shop.node.parked() == []


def test_i03_a_message_that_comes_again_is_left_out(shop: Shop) -> None:
    again = send(shop.broker, Reserve(id="one"))
    send(shop.broker, Reserve(id="one"), id=again)
    shop.send("two")
    shop.node.consume()
    send(shop.broker, Reserve(id="one"), id=again)
    shop.send("three")
    shop.node.consume()
    assert shop.calls == [["one", "two"], ["three"]]


def test_publishing_is_refused_with_the_remedy(shop: Shop) -> None:
    shop.publishes = True
    shop.send("one")
    shop.node.consume()
    (parked,) = shop.node.parked()
    assert "return it beside the reply, as (reply, event)" in parked.error
    assert shop.sent() == []


def test_a_batch_handler_answers_each_message(broker: MemoryBroker, clock: VirtualClock) -> None:
    service = Service("svc")

    @service.batch_handler
    def reserve(commands: list[Reserve]) -> list[Reserved]:
        return []

    node = Node(service, broker, clock)
    send(broker, Reserve(id="one"))
    node.consume()
    (parked,) = node.parked()
    assert "returned 0 answers to 1 messages; return a list with one answer for each" in parked.error


def test_one_that_answers_nothing_returns_nothing(broker: MemoryBroker, clock: VirtualClock) -> None:
    service, seen = Service("svc"), list[str]()

    @service.batch_handler
    def listen(commands: list[Reserve]) -> None:
        seen.extend(command.id for command in commands)

    node = Node(service, broker, clock)
    send(broker, Reserve(id="one"))
    send(broker, Reserve(id="two"))
    node.consume()
    assert seen == ["one", "two"]
    assert node.parked() == []


def test_a_list_is_asked_for_where_one_belongs() -> None:
    service = Service("svc")

    def one(command: Reserve) -> Reserved:
        return Reserved(id=command.id)

    def many(commands: list[Reserve]) -> list[Reserved]:
        return []

    with pytest.raises(
        DefinitionError, match=r"first parameter of a batch handler is a list, e\.g\. \(command: list\["
    ):
        service.batch_handler(one)  # type: ignore[type-var]
    with pytest.raises(DefinitionError, match="takes a list of Reserve: register it with batch_handler"):
        service.handler(many)
