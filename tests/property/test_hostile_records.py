"""Whatever lies in a topic, the consumer's loop goes on: each record is handled or kept, and good ones come through."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import field_validator
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from kafkasaga import Message, Outbox, Service
from kafkasaga.stores import Session
from kafkasaga.stores.parked import LONGEST_ERROR
from kafkasaga.testing.broker import MemoryBroker
from tests.property.hostile import WORST, Hostile, records
from tests.unit.runtime.kit import Buy, Node, Release, Released, Reserved, VirtualClock


class Wordless(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


RAISES = {
    "raise surrogate": ValueError("\ud800 is no text"),
    "raise NUL": ValueError("a\0b"),
    "raise megabyte": ValueError("m" * 1_000_000),
    "raise wordless": Wordless(),
}


class Reserve(Message, topic="reserve", key="id"):
    """As the saga's, with what a user may have added."""

    id: str
    n: int = 0
    more: object = None

    @field_validator("id")
    @classmethod
    def _known(cls, id: str) -> str:
        if id == "raise KeyError":
            raise KeyError(id)
        return id


def node_on(url: str) -> tuple[MemoryBroker, Node, Table]:
    """A service that is all: participant, orchestrator, with a table of its own."""
    metadata = MetaData()
    done = Table("done", metadata, Column("n", Integer, primary_key=True), Column("what", String), Column("m", Integer))
    service = Service("all", sagas=[Buy], outbox=Outbox(metadata))

    @service.handler
    def reserve(command: Reserve, session: Session) -> Reserved:
        if error := RAISES.get(command.id):
            raise error
        session.execute(insert(done).values(what=f"reserve {command.id}", m=command.n))
        return Reserved(id=command.id)

    @service.handler
    def release(command: Release, session: Session) -> Released:
        session.execute(insert(done).values(what=f"release {command.id}"))
        return Released(id=command.id)

    broker = MemoryBroker(partitions=2)
    return broker, Node(service, broker, VirtualClock(), url), done


def survives(url: str, hostile: Sequence[Hostile]) -> Node:
    """Hand the records to a service, with good ones behind them; check what has to be so whatever they are."""
    broker, node, done = node_on(url)
    for record in hostile:
        broker.append(record.topic, record.key, record.value, record.headers)
    good = [f"good{n}" for n in range(4)]
    for id in good:
        headers = {"ce_id": str(uuid4()).encode(), "ce_source": b"fuzz", "ce_type": b"reserve"}
        broker.append("reserve", id.encode(), f'{{"id": "{id}"}}'.encode(), headers)
    node.consume()
    handled = {row.what for row in node.rows(done)}
    assert {f"reserve {id}" for id in good} <= handled, "good messages of other keys are handled"
    ends = {place: end for place, end in broker.ends(node.service.reads).items() if end}
    with node.store.begin() as uow:
        assert {p: broker.offset("all", p) for p in ends} == ends, "every record is behind us"
        uow.free_lanes()
    node.publish()
    for _ in range(3):
        node.clock.sleep(timedelta(minutes=10).total_seconds())
        while node.batches.retry_parked():
            pass
        node.consume()
    for parked in node.parked():
        assert parked.error, "what is kept says why"
        assert len(parked.error) <= LONGEST_ERROR + 1
        original = [r for r in broker.records(parked.record.topic) if r.offset == parked.record.offset]
        assert parked.record in original, "and is what came, to the last byte"
    return node


@pytest.mark.parametrize("record", WORST.values(), ids=WORST)
def test_i13_the_worst_record_stops_nobody_else(database_url: str, record: Hostile) -> None:
    node = survives(database_url, [record])
    node.store.close()


def test_i13_all_of_the_worst_at_once_stop_nobody_else(database_url: str) -> None:
    node = survives(database_url, list(WORST.values()))
    assert node.parked(), "and it was not for nothing"
    node.store.close()


@settings(max_examples=60)
@given(st.lists(records(), max_size=12))
def test_i13_no_record_whatever_its_bytes_stops_the_loop(hostile: list[Hostile]) -> None:
    node = survives("sqlite://", hostile)
    node.store.close()


def test_a40_the_worst_reach_what_they_are_meant_to_reach(sqlite_url: str) -> None:
    """Each is refused for its own reason, or handled; none by an accident before that."""
    reasons = {
        "more headers than sane": "it has 5,000 headers",
        "headers larger than sane": "its headers take",
        "headers that cannot be read": "its headers cannot be read: \ufffd no text",
        "a body larger than allowed": "more than JsonCodec(max_bytes=1000000)",
        "nested to the parser's limit": "nested deeper than JsonCodec(max_depth=64)",
        "nested beyond it": "recursion limit",
        "what raises in a validator": "KeyError",
        "a type of sixty kilobytes": "knows no type 'ttt",
        "what raises with half a surrogate": "ValueError: ? is no text",
    }
    for number, (name, reason) in enumerate(reasons.items()):
        node = survives(f"{sqlite_url}.{number}", [WORST[name]])
        (parked,) = (parked for parked in node.parked() if parked.record.topic == "reserve")
        assert reason in parked.error, name
        node.store.close()
