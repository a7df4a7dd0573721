"""Rows that others hold, on a real PostgreSQL: batches that lock in opposite orders, a saga that is not given back."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, event, select, text
from sqlalchemy.orm import Session

from kafkasaga import Outbox, Service
from kafkasaga.saga.instance import saga_id
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Begun, Buy, Node, Reserve, Reserved, VirtualClock, context, send


class Locking:
    """A service whose handler locks the product of a message, and goes on once the other one has locked its first."""

    def __init__(self, name: str, url: str, products: dict[str, str], both: threading.Barrier) -> None:
        self.tried: list[int] = []
        """The transaction of each attempt to handle a message."""
        service = Service(name, outbox=Outbox(MetaData()))

        @service.handler
        def reserve(command: Reserve, session: Session) -> None:
            session.execute(text("UPDATE product SET taken = taken + 1 WHERE id = :id"), {"id": products[command.id]})
            self.tried.append(session.scalars(text("SELECT txid_current()")).one())
            if len(self.tried) == 1:
                both.wait(30)

        self.node = Node(service, MemoryBroker(), VirtualClock(), url)

    def consume(self) -> None:
        for id in ("first", "second"):
            send(self.node.broker, Reserve(id=id))
        self.node.consume()


def test_batches_that_dead_lock_are_handled_all_the_same_one_of_them_message_by_message(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE product (id text PRIMARY KEY, taken int NOT NULL DEFAULT 0)"))
        connection.execute(text("INSERT INTO product VALUES ('a'), ('b')"))
    both = threading.Barrier(2)
    one = Locking("one", postgres_url, {"first": "a", "second": "b"}, both)
    two = Locking("two", postgres_url, {"first": "b", "second": "a"}, both)
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(one.consume), threads.submit(two.consume)]:
            done.result(60)
    with engine.connect() as connection:
        taken = connection.execute(text("SELECT taken FROM product")).scalars().all()
    engine.dispose()
    assert taken == [2, 2]
    assert not one.node.parked() + two.node.parked()
    whole, halved = sorted((one.tried, two.tried), key=len)
    assert len(whole) == 2
    assert len(set(whole)) == 1
    assert len(halved) == len(set(halved)) == 3, "the attempt that dead-locked, and each message by itself"


@pytest.fixture
def buying(postgres_url: str) -> Iterator[Node]:
    """An orchestrator with three sagas. It waits a moment for a row that somebody holds."""
    service = Service("orchestrator", sagas=[Buy], outbox=Outbox(MetaData()))
    node = Node(service, MemoryBroker(), VirtualClock(), postgres_url)
    node.store.engine.dispose()
    event.listen(node.store.engine, "connect", _impatient)
    for key in "123":
        send(node.broker, Begun(id=key))
    node.consume()
    yield node
    node.store.close()


def _impatient(connection: Any, _: object) -> None:
    connection.execute("SET lock_timeout = '20ms'")
    connection.commit()


@contextmanager
def held(node: Node, key: str) -> Generator[None]:
    """Somebody else has that saga."""
    saga = node.store.tables.saga
    with node.store.engine.begin() as connection:
        connection.execute(select(saga.c.seq).where(saga.c.saga_id == saga_id("buy", key)).with_for_update())
        yield


def reply(node: Node, *keys: str) -> None:
    for key in keys:
        send(node.broker, Reserved(id=key), saga=context(saga_id("buy", key)))
    node.consume()


def paying(node: Node) -> int:
    node.publish()
    return len(node.broker.records("pay"))


def test_i13_a_message_for_a_saga_that_somebody_holds_is_parked_and_the_others_go_on(buying: Node) -> None:
    with held(buying, "2"):
        reply(buying, *"123")
        assert [parked.record.key for parked in buying.parked()] == [b"2"]
    assert paying(buying) == 2


def test_i13_what_is_parked_behind_another_does_not_wait_for_its_saga(buying: Node) -> None:
    with held(buying, "2"):
        reply(buying, "2")
        errors: list[object] = []
        event.listen(buying.store.engine, "handle_error", errors.append)
        reply(buying, *"213")
        assert [parked.record.key for parked in buying.parked()] == [b"2", b"2"]
        assert not errors
    assert paying(buying) == 2
