"""A database that was restored while its relay went on: positions are used again, for other messages."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from uuid import uuid4

import pytest
from sqlalchemy import MetaData, insert
from sqlalchemy.orm import Session

from kafkasaga import Outbox, Service
from kafkasaga.ports import Failures, OutboxRow, SendDone
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Node, Reserve, VirtualClock


class Slow:
    """A producer that acknowledges when it is told to, and remembers the keys at most."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.waiting: list[SendDone] = []
        self.acknowledges = False

    def send(self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str], done: SendDone) -> None:
        self.keys.append(key)
        self.waiting.append(done)

    def poll(self, timeout: float) -> None:
        if self.acknowledges:
            waiting, self.waiting = self.waiting, []
            for done in waiting:
                done(None)

    def stream(self, rows: Sequence[OutboxRow]) -> None:
        self.keys += [row.key for row in rows]

    def streamed(self, timeout: float) -> Failures | None:
        return [] if self.acknowledges else None

    def give_up(self) -> Failures:
        return []

    def close(self, timeout: float) -> None:
        self.waiting.clear()


def node_with(producer: Slow, url: str) -> Node:
    node = Node(Service("svc", outbox=Outbox(MetaData())), MemoryBroker(), VirtualClock(), url)
    node.relay._connect = lambda: producer
    return node


def publish(node: Node, *ids: str) -> None:
    with Session(node.store.engine) as session, session.begin():
        node.service.outbox.publish(session, *(Reserve(id=id) for id in ids))


def test_a33_a_row_that_took_the_position_of_one_under_way_is_published_and_not_deleted_for_it(
    database_url: str,
) -> None:
    producer = Slow()
    node = node_with(producer, database_url)
    publish(node, "before")
    for _ in range(3):
        node.relay.step()
    assert producer.keys == ["before"], "it is under way"
    table = node.store.tables.outbox
    (row,) = node.rows(table)
    with node.store.engine.begin() as connection:  # the backup has no row, and its sequence stands where it stood
        connection.execute(table.delete())
        again = {"id": row.id, "message_id": uuid4(), "key": "after", "topic": row.topic}
        connection.execute(insert(table).values(payload=b"{}", headers=row.headers, created_at=row.created_at, **again))
    producer.acknowledges = True
    node.relay.step()
    assert node.count("outbox") == 1 or "after" in producer.keys, "it is not deleted unsent"
    node.publish()
    assert producer.keys == ["before", "after"]
    assert node.count("outbox") == 0
    node.store.close()


def peak(node: Node, producer: Slow, rows: int) -> int:
    """The most memory that the relay took for a backlog, in bytes."""
    body = "x" * 200
    for start in range(0, rows, 500):
        publish(node, *(f"{n}-{body}" for n in range(start, start + 500)))
    tracemalloc.start()
    while node.relay._queue.last() if node.relay.active else True:
        node.relay.step()
        producer.keys.clear()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.timeout(120)
def test_i14_a_relay_needs_no_more_memory_for_three_times_the_backlog(sqlite_url: str) -> None:
    producer = Slow()
    producer.acknowledges = True
    node = node_with(producer, sqlite_url)
    small, large = peak(node, producer, 6_500), peak(node, producer, 19_500)
    assert large < 1.3 * small, f"{large:,} bytes after {small:,}"
    node.store.close()
