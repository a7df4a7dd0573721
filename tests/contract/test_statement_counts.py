"""A batch takes as many statements as it takes, however many messages it has: exact numbers, on both databases.

A statement for each message costs more than anything else that a change can do to the hot path, and no stopwatch on a
busy machine would show it. If one of these numbers rises, the change needs a good reason; if it falls, write the new
one down. What is counted are executions on a cursor, so a user's rows that are flushed together count once. BEGIN, its
SET LOCAL and COMMIT come on top; waking the relay of another process is a statement of another thread, one for many
batches. On PostgreSQL several statements share a round trip: those are counted too, with BEGIN and COMMIT.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kafkasaga import Ends, Message, Outbox, Saga, SagaState, Service, Step
from kafkasaga.clock import SystemClock
from kafkasaga.messages import Envelope, Operation, Record, SagaContext, contract_of, write_headers
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.stores import SqlStore, create_store
from kafkasaga.stores.migrations import upgrade
from tests.contract.stores.store_kit import counted_statements

SIZES = (1, 10, 100)

# inbox, whether anything is parked, offsets; a participant's: barrier read and written, the handlers' rows, outbox
COMMANDS = 7
# the same: the entries of the actions that are to be undone are read with the others
COMPENSATIONS = 7
# the same messages once more: inbox, whether anything is parked, the barrier (which is asked with them), offsets
REPEATED = 4
ASKED_IN_VAIN = 3
"""By a claim that hopes for new messages only, and meets a known one; for a while none hopes after it."""
# under new ids, as after a deadline: the barrier is read; nothing is written to it; the first replies go out
RESENT = 5
# before the handlers, their rows, behind them
ROUND_TRIPS = 3
ROUND_TRIPS_WITHOUT_HANDLER = 2
ROUND_TRIPS_IN_VAIN = 2
# the inbox, with the sagas locked and read; their new states, log, outbox, offsets
ROUND_TRIPS_OF_SAGAS = 2
# inbox, parked lanes, offsets; sagas locked and read, inserted; log, timers; outbox
STARTS = 8
# the same with an update, and no timer to set: that of the first step is early enough
STEPS = 7
# the timers are dropped
LAST_STEPS = 8


class OrderMessage(Message, key="order"):
    order: str


class Placed(OrderMessage, topic="placed"): ...


class Reserve(OrderMessage, topic="reserve"): ...


class Reserved(OrderMessage, topic="reserved"): ...


class Release(OrderMessage, topic="release"): ...


class Released(OrderMessage, topic="released"): ...


class Charge(OrderMessage, topic="charge"): ...


class Charged(OrderMessage, topic="charged"): ...


class Done(OrderMessage, topic="done"): ...


class Order(SagaState):
    order: str


class Purchase(Saga[Order], name="purchase", version=1, starts_on=Placed):
    reserve = Step[Order](
        command=lambda s: Reserve(order=s.order),
        succeeds_on=Reserved,
        compensation=lambda s: Release(order=s.order),
        compensated_on=Released,
        deadline=timedelta(minutes=5),
    )
    charge = Step[Order](
        command=lambda s: Charge(order=s.order), succeeds_on=Charged, kind="retriable", deadline=timedelta(minutes=5)
    )
    flow = reserve >> charge
    ends = Ends[Order](completed=lambda s: Done(order=s.order))


class Base(DeclarativeBase): ...


class Reservation(Base):
    __tablename__ = "reservation"

    order: Mapped[str] = mapped_column(primary_key=True)


class Release_(Base):  # noqa: N801 - the message has the name
    __tablename__ = "released"

    order: Mapped[str] = mapped_column(primary_key=True)


def participant() -> Service:
    service = Service("shelf", outbox=Outbox(source="shelf"))

    @service.handler
    def reserve(command: Reserve, session: Session) -> Reserved:
        session.add(Reservation(order=command.order))
        return Reserved(order=command.order)

    @service.handler
    def release(command: Release, session: Session) -> Released:
        session.add(Release_(order=command.order))
        return Released(order=command.order)

    return service


class Bench:
    """A service's batches over a real database."""

    def __init__(self, service: Service, url: str) -> None:
        engine = create_engine(url)
        upgrade(engine, service.outbox.tables)
        Base.metadata.create_all(engine)
        engine.dispose()
        self.store: SqlStore = create_store(url, service.outbox.tables)
        sender = Sender(service.name, service.codec, SystemClock())
        self._runner = BatchRunner(
            service.name, self.store, service.router(), service.definitions, sender, service.parking
        )
        self._offset = 0

    def statements(self, envelopes: Sequence[Envelope]) -> int:
        """How many a batch of these messages takes."""
        records = [self._record(envelope) for envelope in envelopes]
        with counted_statements(self.store) as statements:
            self._runner.process(records)
        return sum("pg_notify" not in statement for statement in statements)

    def round_trips(self, envelopes: Sequence[Envelope], folder: Path) -> int:
        """How often psycopg waits for PostgreSQL in a batch of these messages, by libpq's own trace."""
        trace, records = folder / "trace", [self._record(envelope) for envelope in envelopes]
        own, traced = threading.current_thread(), list[Any]()
        with trace.open("w") as file:

            def begin(connection: Connection) -> None:
                driver: Any = connection.connection.driver_connection
                if threading.current_thread() is own:  # not that of the notifier
                    driver.pgconn.trace(file.fileno())
                    traced.append(driver)

            event.listen(self.store.engine, "begin", begin)
            try:
                self._runner.process(records)
            finally:
                event.remove(self.store.engine, "begin", begin)
                for driver in traced:
                    driver.pgconn.untrace()
        sent = [line.split("\t") for line in trace.read_text().splitlines()]
        kinds = [fields[3] for fields in sent if len(fields) > 3 and fields[1] == "F"]
        return sum(kind in ("Sync", "Query") for kind in kinds)

    def commands(self, topic: str) -> dict[str, SagaContext]:
        """The saga attributes of what lies in the outbox for ``topic``, by key, as replies carry them."""
        outbox = self.store.tables.outbox
        with self.store.engine.connect() as connection:
            rows = connection.execute(select(outbox.c.key, outbox.c.headers).where(outbox.c.topic == topic)).all()
        return {key: _context(json.loads(headers)) for key, headers in rows}

    def count(self, topic: str) -> int:
        """How many messages lie in the outbox for ``topic``."""
        outbox = self.store.tables.outbox
        with self.store.engine.connect() as connection:
            return len(connection.execute(select(outbox.c.id).where(outbox.c.topic == topic)).all())

    def _record(self, envelope: Envelope) -> Record:
        self._offset += 1
        headers = {name: text.encode() for name, text in write_headers(envelope).items()}
        return Record(envelope.topic, 0, self._offset, envelope.key.encode(), envelope.payload, headers)


@pytest.fixture
def shelf(database_url: str) -> Iterator[Bench]:
    bench = Bench(participant(), database_url)
    yield bench
    bench.store.close()


@pytest.fixture
def orchestrator(database_url: str) -> Iterator[Bench]:
    bench = Bench(Service("shop", sagas=[Purchase], outbox=Outbox(source="shop")), database_url)
    yield bench
    bench.store.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_commands_takes_a_constant_number_of_statements(shelf: Bench, size: int) -> None:
    assert shelf.statements(commands(Reserve, size)) == COMMANDS
    assert shelf.count("reserved") == size


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_commands_takes_three_round_trips(shelf: Bench, size: int, tmp_path: Path) -> None:
    if shelf.store.engine.dialect.name == "sqlite":
        pytest.skip("a file is not far away")
    batch = commands(Reserve, size)
    assert shelf.round_trips(batch, tmp_path) == ROUND_TRIPS
    assert shelf.round_trips(batch, tmp_path) == ROUND_TRIPS_IN_VAIN + ROUND_TRIPS_WITHOUT_HANDLER
    assert shelf.round_trips(batch, tmp_path) == ROUND_TRIPS_WITHOUT_HANDLER


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_compensations_takes_a_constant_number_of_statements(shelf: Bench, size: int) -> None:
    actions = commands(Reserve, size)
    shelf.statements(actions)
    assert shelf.statements(compensations(actions)) == COMPENSATIONS
    assert shelf.count("released") == size


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_repeated_messages_takes_a_constant_number_of_statements(shelf: Bench, size: int) -> None:
    actions = commands(Reserve, size)
    shelf.statements(actions)
    hopes = shelf.store.engine.dialect.name == "postgresql"
    assert shelf.statements(actions) == REPEATED + hopes * ASKED_IN_VAIN
    assert shelf.statements(actions) == REPEATED
    assert shelf.count("reserved") == size


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_resent_commands_takes_a_constant_number_of_statements(shelf: Bench, size: int) -> None:
    actions = commands(Reserve, size)
    shelf.statements(actions)
    assert shelf.statements([replace(action, id=uuid4()) for action in actions]) == RESENT
    assert shelf.count("reserved") == 2 * size


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_starts_takes_a_constant_number_of_statements(orchestrator: Bench, size: int) -> None:
    assert orchestrator.statements(starts(size)) == STARTS
    assert orchestrator.count("reserve") == size


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_replies_takes_a_constant_number_of_statements(orchestrator: Bench, size: int) -> None:
    orchestrator.statements(starts(size))
    assert orchestrator.statements(messages(Reserved, orchestrator.commands("reserve"))) == STEPS
    assert orchestrator.count("charge") == size
    assert orchestrator.statements(messages(Charged, orchestrator.commands("charge"))) == LAST_STEPS
    assert orchestrator.count("done") == size


@pytest.mark.parametrize("size", SIZES)
def test_sagas_take_two_round_trips(orchestrator: Bench, size: int, tmp_path: Path) -> None:
    if orchestrator.store.engine.dialect.name == "sqlite":
        pytest.skip("a file is not far away")
    assert orchestrator.round_trips(starts(size), tmp_path) == ROUND_TRIPS_OF_SAGAS
    replies = messages(Reserved, orchestrator.commands("reserve"))
    assert orchestrator.round_trips(replies, tmp_path) == ROUND_TRIPS_OF_SAGAS


def commands(type: type[OrderMessage], size: int) -> list[Envelope]:
    """Commands of so many sagas."""
    contexts = {f"order-{n}": SagaContext("purchase", uuid4(), "reserve", 0, Operation.ACTION) for n in range(size)}
    return messages(type, contexts)


def compensations(actions: Sequence[Envelope]) -> list[Envelope]:
    contexts = {
        action.key: replace(action.saga, operation=Operation.COMPENSATION)
        for action in actions
        if action.saga is not None
    }
    return messages(Release, contexts)


def starts(size: int) -> list[Envelope]:
    return [_envelope(Placed(order=f"order-{n}"), None) for n in range(size)]


def messages(type: type[OrderMessage], contexts: dict[str, SagaContext]) -> list[Envelope]:
    return [_envelope(type(order=key), context) for key, context in contexts.items()]


def _envelope(message: OrderMessage, saga: SagaContext | None) -> Envelope:
    contract = contract_of(message)
    body = message.model_dump_json().encode()
    return Envelope(contract.topic, message.order, uuid4(), "test", contract.type, datetime.now(UTC), body, saga=saga)


def _context(headers: dict[str, str]) -> SagaContext:
    return SagaContext(
        headers["ce_saganame"],
        UUID(headers["ce_sagaid"]),
        headers["ce_sagastep"],
        int(headers["ce_sagageneration"]),
        Operation(headers["ce_sagaoperation"]),
        UUID(headers["ce_id"]),
    )
