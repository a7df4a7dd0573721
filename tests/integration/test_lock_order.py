"""Two services whose batches lock the same rows in opposite orders, on a real PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.orm import Session

from kafkasaga import Outbox, Service
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Node, Reserve, VirtualClock, send


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
