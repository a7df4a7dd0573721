"""What the log says of sagas and of handlers that leave them waiting; said after the commit."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import structlog
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from kafkasaga import Saga, Service, Step
from kafkasaga.errors import KafkasagaError, SerializationConflict
from kafkasaga.messages import Operation
from kafkasaga.runtime import progress
from kafkasaga.saga.instance import saga_id
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import (
    DEADLINE,
    Begun,
    Buy,
    Ledger,
    Node,
    NotReserved,
    Paid,
    Released,
    Reserve,
    Reserved,
    State,
    VirtualClock,
    context,
    orchestrator,
    send,
)

ONE = saga_id("buy", "one")


def said(logs: list[Any]) -> list[tuple[str, str, str | None]]:
    return [(line["log_level"], line["event"], line.get("step")) for line in logs if "saga" in line["event"]]


def test_a_saga_that_completes_says_so(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = orchestrator(broker, clock)
    with capture_logs() as logs:
        for message in (Begun(id="one"), Reserved(id="one"), Paid(id="one")):
            send(broker, message)
            node.consume()
    assert said(logs) == [("info", "saga started", None), ("info", "saga completed", None)]
    assert logs[0]["saga_id"] == str(ONE)
    assert logs[0]["key"] == "one"


def test_a_saga_that_turns_back_says_why(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = orchestrator(broker, clock)
    with capture_logs() as logs:
        for message in (Begun(id="one"), NotReserved(id="one"), Released(id="one")):
            send(broker, message)
            node.consume()
    assert said(logs) == [
        ("info", "saga started", None),
        ("info", "saga turned back", "reserve"),
        ("info", "saga cancelled", None),
    ]
    assert {line["reason"] for line in logs[1:]} == {"not-reserved from step 'reserve'"}


def test_a_reply_that_did_not_come_is_a_warning(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = orchestrator(broker, clock)
    send(broker, Begun(id="one"))
    node.consume()
    node.publish()
    clock.sleep(DEADLINE.total_seconds() * 3)
    with capture_logs() as logs:
        for _ in range(3):
            node.timekeeper.step()
            clock.sleep(DEADLINE.total_seconds())
    expired = next(line for line in logs if line["event"] == "a step's reply did not come in time")
    assert (expired["log_level"], expired["saga_id"], expired["step"]) == ("warning", str(ONE), "reserve")


def test_many_sagas_of_a_transaction_share_a_line(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = orchestrator(broker, clock)
    many = progress.SINGLY + 1
    with capture_logs() as logs:
        for n in range(many):
            send(broker, Begun(id=str(n)))
        node.consume()
    assert [(line["event"], line.get("started")) for line in logs if line["log_level"] == "info"] == [
        ("sagas went on", many)
    ]


def test_a_saga_that_is_decided_twice_is_told_of_once(
    broker: MemoryBroker, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = orchestrator(broker, clock)
    begin, fates = node.store.begin, iter([SerializationConflict("met another one")])

    @contextmanager
    def conflicting_once() -> Any:
        with begin() as uow:
            yield uow
            for conflict in fates:
                raise conflict

    send(broker, Begun(id="one"))
    monkeypatch.setattr(node.store, "begin", conflicting_once)
    with capture_logs() as logs:
        node.consume()
    assert said(logs) == [("info", "saga started", None)]
    assert next(fates, None) is None


def test_a_reply_with_another_key_is_taken_and_warned_of(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = orchestrator(broker, clock)
    send(broker, Begun(id="one"))
    send(broker, Reserved(id="two"), saga=context(ONE, command_id=uuid4()))
    with capture_logs() as logs:
        node.consume()
    warned = next(line for line in logs if line["log_level"] == "warning")
    assert (warned["step"], warned["key"], warned["other_key"]) == ("reserve", "one", "two")
    kinds = [(entry.event.kind, getattr(entry.event, "other_key", None)) for entry in node.store.queries().log(ONE)]
    assert ("step-succeeded", "two") in kinds


def test_what_a_saga_s_functions_log_is_tagged_with_their_saga(broker: MemoryBroker, clock: VirtualClock) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    def noted(state: State) -> Reserve:
        seen.append((state.id, dict(structlog.contextvars.get_contextvars())))
        if state.id == "bad":
            raise RuntimeError("not this one")
        return Reserve(id=state.id)

    class Noted(Saga[State], name="noted", version=1, starts_on=Begun):
        flow = reserve = Step[State](command=noted, succeeds_on=Reserved, kind="read-only")

    node = Node(Service("orchestrator", sagas=[Noted], outbox=Ledger().outbox), broker, clock)
    for id in ("one", "bad", "two"):
        send(broker, Begun(id=id))
    with structlog.contextvars.bound_contextvars(saga="around", mine=1):
        node.consume()
        assert structlog.contextvars.get_contextvars() == {"saga": "around", "mine": 1}
    assert {id for id, _ in seen} == {"one", "bad", "two"}
    for id, bound in seen:
        assert bound == {"saga": "noted", "saga_id": str(saga_id("noted", id)), "mine": 1}


def test_a_handler_that_leaves_a_saga_without_a_reply_is_warned_of_once(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    service = Service("svc", outbox=Ledger().outbox)

    @service.handler
    def reserve(command: Reserve, session: Session) -> None: ...

    node = Node(service, broker, clock)
    with capture_logs() as logs:
        send(broker, Reserve(id="event"))
        for _ in range(2):
            send(broker, Reserve(id="one"), saga=context(uuid4(), Operation.ACTION))
        node.consume()
    warned = [line for line in logs if "answered nothing" in line["event"]]
    assert [(line["log_level"], line["command"]) for line in warned] == [("warning", "reserve")]
    assert warned[0]["handler"].endswith("reserve")


def test_a_forgotten_reply_parks_its_command(broker: MemoryBroker, clock: VirtualClock) -> None:
    service = Service("svc", outbox=Ledger().outbox)

    @service.handler
    def reserve(command: Reserve, session: Session) -> Reserved | NotReserved:  # type: ignore[return]
        session.info["looked"] = True

    node = Node(service, broker, clock)
    send(broker, Reserve(id="one"), saga=context(uuid4()))
    node.consume()
    assert "returned None, which its annotation does not name" in node.parked()[0].error


def test_a_reply_without_a_key_parks_its_command(broker: MemoryBroker, clock: VirtualClock) -> None:
    service = Service("svc", outbox=Ledger().outbox)

    @service.handler
    def reserve(command: Reserve, session: Session) -> Reserved:
        return Reserved(id="")

    node = Node(service, broker, clock)
    send(broker, Reserve(id="one"), saga=context(uuid4()))
    node.consume()
    assert "a Reserved has id='', which is its key" in node.parked()[0].error


def test_a_saga_is_not_started_from_a_state_without_a_key(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = orchestrator(broker, clock)
    with (
        Session(node.store.engine) as session,
        pytest.raises(KafkasagaError, match="id='', which is its correlation key"),
    ):
        node.service.start(session, Buy, State(id=""))
