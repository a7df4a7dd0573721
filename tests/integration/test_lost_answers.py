"""Connections to PostgreSQL that end at the worst moment.

A18: it has committed, and who asked for it was not told. Whatever is then done again takes no effect twice. And all
connections are cut at once, as when it fails over.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import MetaData, create_engine, make_url, text
from sqlalchemy.orm import Session

from kafkasaga import Outbox, Service
from kafkasaga.errors import DatabaseUnavailable
from kafkasaga.saga.instance import SagaStatus
from kafkasaga.testing.broker import MemoryBroker
from tests.support.lost_commit import LostCommit
from tests.unit.runtime.kit import (
    DEADLINE,
    Begun,
    Buy,
    Ledger,
    Node,
    Reserve,
    Reserved,
    VirtualClock,
    send,
    until,
)


@pytest.fixture
def way(postgres_url: str) -> Iterator[LostCommit]:
    port = make_url(postgres_url).port
    assert port is not None
    with LostCommit(port) as way:
        yield way


def through(way: LostCommit, url: str) -> str:
    return make_url(url).set(port=way.port).render_as_string(hide_password=False)


class Shelf:
    """A participant behind the way, whose handler fails while it is told to."""

    def __init__(self, url: str) -> None:
        self.ledger, self.broker, self.broken = Ledger(), MemoryBroker(), False
        service = Service("shelf", outbox=self.ledger.outbox)

        @service.handler
        def reserve(command: Reserve, session: Session) -> Reserved:
            if self.broken:
                raise RuntimeError("broken")
            session.execute(self.ledger.entries.insert().values(id=command.id))
            return Reserved(id=command.id)

        self.node = Node(service, self.broker, VirtualClock(), url)


@pytest.mark.parametrize("answers", [1, 3])
def test_a18_a_batch_whose_commit_was_not_answered_takes_effect_once(
    way: LostCommit, postgres_url: str, answers: int
) -> None:
    shelf = Shelf(through(way, postgres_url))
    for n in range(5):
        send(shelf.broker, Reserve(id=f"o{n}"))
    shelf.node.loop.step(0)  # takes its partitions over
    # How each batch begins. Of its other statements only names pass by: they are prepared.
    way.of, way.to_lose = b"BEGIN ISOLATION LEVEL", answers
    for n in range(5, 10):
        send(shelf.broker, Reserve(id=f"o{n}"))
    shelf.node.consume()
    assert way.lost == answers, "each commit went through, and its answer was lost"
    assert sorted(shelf.ledger.ids(shelf.node)) == [f"o{n}" for n in range(10)]
    shelf.node.publish()
    assert sorted(record.key or b"" for record in shelf.broker.records("reserved")) == [b"o%d" % n for n in range(10)]
    assert shelf.node.parked() == []
    shelf.node.store.close()


def test_a18_a_parked_message_whose_commit_was_not_answered_takes_effect_once(
    way: LostCommit, postgres_url: str
) -> None:
    shelf = Shelf(through(way, postgres_url))
    shelf.broken = True
    send(shelf.broker, Reserve(id="o"))
    shelf.node.consume()
    assert len(shelf.node.parked()) == 1
    shelf.broken, lost, way.of = False, 0, b"parked_message"
    for _ in range(8):  # its transactions, one after the other, and those that come when they are done again
        way.to_lose = 1
        shelf.node.clock.sleep(600)
        try:
            shelf.node.batches.retry_parked()
        except DatabaseUnavailable:
            lost += 1
        if not shelf.node.parked():
            break
    way.to_lose = 0
    while shelf.node.batches.retry_parked():
        pass
    assert way.lost == lost >= 1, "each commit went through, and each answer that was lost was noticed"
    assert shelf.ledger.ids(shelf.node) == ["o"]
    assert shelf.node.parked() == []
    assert shelf.node.count("outbox") == 1
    shelf.node.store.close()


def test_a18_a_saga_whose_deadline_was_handled_and_not_answered_turns_back_once(
    way: LostCommit, postgres_url: str
) -> None:
    broker, clock = MemoryBroker(), VirtualClock()
    node = Node(
        Service("orchestrator", sagas=[Buy], outbox=Outbox(MetaData())), broker, clock, through(way, postgres_url)
    )
    send(broker, Begun(id="o"))
    node.consume()
    node.publish()
    until(lambda: not node.count("outbox"), node.publish)
    clock.sleep(DEADLINE.total_seconds() * 2)
    commits, way.of = 0, b"compensation-began"  # what is logged: of the statement itself only its name passes by
    for _ in range(20):
        way.to_lose = 1
        try:
            node.timekeeper.step()
        except DatabaseUnavailable:
            commits += 1
        if len(broker.records("unreserve")) or node.count("outbox"):
            break
    way.to_lose = 0
    until(lambda: not node.count("outbox"), node.publish)
    node.timekeeper.step()
    node.publish()
    assert way.lost == commits == 1, "it was committed, and nobody was told"
    assert len(broker.records("unreserve")) == 1, "its compensation was sent once"
    (saga,) = node.store.queries().sagas()
    assert saga.status is SagaStatus.COMPENSATING
    node.store.close()


def test_i02_all_connections_are_ended_at_once_as_by_a_fail_over_and_nothing_is_lost_or_doubled(
    postgres_url: str,
) -> None:
    shelf = Shelf(postgres_url)
    other = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    ended = 0
    for n in range(20):
        send(shelf.broker, Reserve(id=f"o{n}"))
        if n % 4 == 1:
            with other.connect() as connection:
                query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                ended += len(connection.execute(text(f"{query} AND pid != pg_backend_pid()")).all())
        shelf.node.consume()
        try:
            shelf.node.publish()
        except DatabaseUnavailable as error:
            shelf.node.relay._stand_back(error)
    shelf.node.publish()
    other.dispose()
    everything = sorted(f"o{n}" for n in range(20))
    assert ended >= 5
    assert sorted(shelf.ledger.ids(shelf.node)) == everything
    assert {(record.key or b"").decode() for record in shelf.broker.records("reserved")} == set(everything)
    assert shelf.node.count("outbox") == 0
    assert shelf.node.parked() == []
    shelf.node.store.close()
