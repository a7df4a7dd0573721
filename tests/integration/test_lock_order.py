"""Who stands in whose way, on a real PostgreSQL: batches that lock in opposite orders, a held saga, a held turn."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import MetaData, create_engine, event, select, text
from sqlalchemy.orm import Session

from kafkasaga import Outbox, Service
from kafkasaga.ports import InboxKey, Turn
from kafkasaga.saga.instance import saga_id
from kafkasaga.testing.broker import MemoryBroker
from tests.contract.stores.store_kit import WAITING, until
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


@pytest.fixture
def deadlocked(postgres_url: str) -> Iterator[list[Locking]]:
    """Two replicas whose batches have met in a deadlock; last the one whose batch PostgreSQL ended."""
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
        assert connection.execute(text("SELECT taken FROM product")).scalars().all() == [2, 2]
    engine.dispose()
    yield sorted([one, two], key=lambda each: len(each.tried))
    for each in (one, two):
        each.node.store.close()


def test_of_batches_that_deadlock_one_is_repeated_as_it_was(deadlocked: list[Locking]) -> None:
    spared, ended = deadlocked
    assert len(spared.tried) == 2
    assert len(set(spared.tried)) == 1
    assert len(ended.tried) == 3
    assert len(set(ended.tried[1:])) == 1
    assert not spared.node.parked() + ended.node.parked()


def test_what_comes_behind_it_goes_alone_for_a_while(deadlocked: list[Locking]) -> None:
    spared, ended = deadlocked
    assert goes_beside_others(spared)
    assert not goes_beside_others(ended)
    ended.node.clock.sleep(60)
    assert goes_beside_others(ended)


def goes_beside_others(locking: Locking) -> bool:
    """Whether it does not wait until a batch that is under way has ended."""
    with ThreadPoolExecutor(1) as threads:
        with turn_taken(locking.node, Turn.BESIDE):
            consumed = threads.submit(locking.consume)
            until(lambda: consumed.done() or waits_for_a_lock(locking.node))
            beside = consumed.done()
        consumed.result(60)
    return beside


def waits_for_a_lock(node: Node) -> bool:
    with node.store.engine.connect() as connection:
        return bool(connection.scalar(text(WAITING)))


@contextmanager
def turn_taken(node: Node, turn: Turn) -> Generator[None]:
    """Another replica has a batch under way."""
    with node.store.begin() as uow:
        uow.look_ahead((), (), turn)
        uow.claim_inbox([InboxKey("svc", "other", uuid4())])
        yield


@pytest.mark.parametrize("buying", ["lock_timeout", "statement_timeout"], indirect=True)
@pytest.mark.parametrize("turn", [Turn.ALONE, Turn.NONE])
def test_i11_a_frozen_process_that_is_alone_stops_nobody(buying: Node, turn: Turn) -> None:
    errors: list[object] = []
    with turn_taken(buying, turn):
        event.listen(buying.store.engine, "handle_error", errors.append)
        reply(buying, *"123")
        reply(buying, *"123")
    assert len(errors) == (turn is Turn.ALONE), "it is waited for once"
    assert not buying.parked()
    assert paying(buying) == 3


@pytest.fixture
def buying(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[Node]:
    """An orchestrator with three sagas. It waits a moment for a row that somebody holds."""
    service = Service("orchestrator", sagas=[Buy], outbox=Outbox(MetaData()))
    node = Node(service, MemoryBroker(), VirtualClock(), postgres_url)
    node.store.engine.dispose()
    event.listen(node.store.engine, "connect", partial(_limit, getattr(request, "param", "lock_timeout")))
    for key in "123":
        send(node.broker, Begun(id=key))
    node.consume()
    yield node
    node.store.close()


LIMITS = {"lock_timeout": "20ms", "statement_timeout": "500ms"}
"""What waits may take, and whatever else is done by a statement."""


def _limit(what: str, connection: Any, _: object) -> None:
    connection.execute(f"SET {what} = '{LIMITS[what]}'")
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
