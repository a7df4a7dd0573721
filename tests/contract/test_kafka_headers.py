"""Headers as any client in any language may write them: names twice, names and values that are not text."""

from __future__ import annotations

from random import Random

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from kafkasaga import Message, Outbox, Service
from kafkasaga.clock import SystemClock
from kafkasaga.messages import UNREADABLE
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.stores import Session, create_store
from tests.contract.kafka_kit import Broker, Member, unique, until
from tests.support.raw_headers import Headers, library, produce_raw

pytestmark = pytest.mark.skipif(library() is None, reason="the client uses a librdkafka of the system's")

NAMES = (b"ce_id", b"CE_ID", b"ce_type", b"ce_sagaid", b"", "ü".encode(), b"\xff\xfe", b"\xed\xa0\x80", b"a\xc3", b"\0")
VALUES = (b"1", b"", b"\xff\xfe", b"\xed\xa0\x80", b"\0", "ü".encode(), b"x" * 3_000)


def is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def seen_as(headers: Headers) -> dict[str, bytes]:
    """What a record is to have of them."""
    if all(is_text(name) for name, _ in headers):
        return {name.partition(b"\0")[0].decode(): value for name, value in headers}
    return {UNREADABLE: b"a name is not UTF-8"}


def test_i13_any_header_is_read_and_of_a_name_that_is_repeated_the_last(broker: Broker) -> None:
    topic, random = broker.topic(1), Random(13)
    written: list[Headers] = [
        [(random.choice(NAMES), random.choice(VALUES)) for _ in range(random.randrange(6))] for _ in range(300)
    ]
    produce_raw(broker.bootstrap_servers, topic, [(b"k", b"%d" % n, headers) for n, headers in enumerate(written)])
    with Member(broker, unique("group"), [topic]) as member:
        records = member.read(len(written))
    assert [record.value for record in records] == [b"%d" % n for n in range(len(written))]
    assert [dict(record.headers) for record in records] == [seen_as(headers) for headers in written]
    unreadable = sum(UNREADABLE in record.headers for record in records)
    assert 50 < unreadable < 250, "both kinds were reached"


class Reserve(Message, key="id"):
    id: str


def test_i13_a_record_whose_headers_cannot_be_read_is_kept_and_the_others_are_handled(broker: Broker) -> None:
    topic = broker.topic(1)
    metadata = MetaData()
    done = Table("done", metadata, Column("n", Integer, primary_key=True), Column("id", String))
    service = Service(unique("svc"), outbox=Outbox(metadata))
    command = type("Command", (Reserve,), {"__module__": __name__}, topic=topic)

    def reserve(command: Message, session: Session) -> None:
        session.execute(insert(done).values(id=command.id))  # type: ignore[attr-defined]

    reserve.__annotations__["command"] = command
    service.handler(reserve)
    store = create_store("sqlite://", service.outbox.tables)
    metadata.create_all(store.engine)
    sender = Sender(service.name, service.codec, SystemClock())
    batches = BatchRunner(service.name, store, service.router(), {}, sender, service.parking)
    with Member(broker, service.name, [topic]) as member:
        loop = ConsumerLoop(service.name, member.consumer, store, batches, [topic], batch_size=100)
        member.consumer.subscribe([topic], loop._assigned, loop._revoked)
        produce_raw(
            broker.bootstrap_servers,
            topic,
            [
                (b"a", b'{"id": "a"}', []),
                (b"b", b'{"id": "b"}', [(b"ce_id", b"1"), (b"\xff", b"x")]),
                (b"c", b'{"id": "c"}', []),
                (b"b", b'{"id": "b, later"}', []),
            ],
        )
        until(lambda: loop.step(0.1) and len(store.queries().parked()) == 2, "two parked messages")
    with store.engine.connect() as connection:
        assert [row.id for row in connection.execute(done.select())] == ["a", "c"]
    first, behind = store.queries().parked()
    assert first.error == "its headers cannot be read: a name is not UTF-8"
    assert first.record.value == b'{"id": "b"}'
    assert (behind.record.value, behind.status) == (b'{"id": "b, later"}', "waiting")
    store.close()
