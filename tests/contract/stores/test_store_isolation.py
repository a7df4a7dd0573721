"""Every isolation level that a user's engine may have: the barrier, the inbox and sagas are right under each of them.

Under READ COMMITTED one transaction waits for the other and then sees what it left, except at the barrier: its entries
are written last, and the transaction that comes second is refused. REPEATABLE READ and SERIALIZABLE refuse it
everywhere (40001). Either way the batch is run again, as the runtime does, and finds what the other left.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from kafkasaga import Message, Outbox, Service
from kafkasaga.clock import SystemClock
from kafkasaga.errors import SerializationConflict
from kafkasaga.messages import (
    Envelope,
    Mark,
    Operation,
    Record,
    SagaContext,
    contract_of,
    read_attributes,
    write_headers,
)
from kafkasaga.ports import LogEntry, SagaChange
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.saga.events import Ignored
from kafkasaga.stores import SqlStore, Tables
from kafkasaga.stores.migrations import upgrade
from kafkasaga.stores.unit_of_work import SqlUnitOfWork
from tests.contract.stores.store_kit import WITHIN, Threads
from tests.contract.stores.test_store_sagas import new

ACTION, COMPENSATION = Operation.ACTION, Operation.COMPENSATION
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


class Command(Message, key="id"):
    id: str


class Charge(Command, topic="charge"): ...


class Refund(Command, topic="refund"): ...


class Charged(Command, topic="charged"): ...


class Refunded(Command, topic="refunded"): ...


class Bank:
    """A participant on an engine of the user's, whose commits wait until a test lets them go on."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.ran = store, list[str]()
        self.before_commit: Callable[[], object] = lambda: None
        self._begin = store.begin
        store.begin = self._held  # type: ignore[method-assign]
        service = Service("bank", outbox=Outbox(store.tables.metadata))

        @service.handler
        def charge(command: Charge, session: Session) -> Charged:
            self.ran.append("charge")
            session.execute(text("INSERT INTO effect VALUES ('charge')"))
            return Charged(id=command.id)

        @service.handler
        def refund(command: Refund, session: Session) -> Refunded:
            self.ran.append("refund")
            session.execute(text("INSERT INTO effect VALUES ('refund')"))
            return Refunded(id=command.id)

        sender = Sender("bank", service.codec, SystemClock())
        self._runner = BatchRunner("bank", store, service.router(), {}, sender, service.parking)

    @contextmanager
    def _held(self) -> Generator[SqlUnitOfWork]:
        with self._begin() as uow:
            yield uow
            uow.flush()
            uow.carried_out([])  # whoever waits for an answer has sent first what is kept for the end
            self.before_commit()

    def handle(self, record: Record) -> None:
        self._runner.process([record])

    def effects(self) -> list[str]:
        """What handlers have done, and was committed."""
        with self.store.engine.connect() as connection:
            return list(connection.scalars(text("SELECT what FROM effect")))

    def marks(self) -> dict[str, list[Mark | None]]:
        """How each topic's replies are marked."""
        queue = self.store.relay_queue()
        assert queue.acquire()
        found: dict[str, list[Mark | None]] = {}
        for row in queue.fetch(0, 100):
            headers = {name: text.encode() for name, text in row.headers.items()}
            saga = read_attributes(Record(row.topic, 0, 0, None, None, headers)).saga
            found.setdefault(row.topic, []).append(None if saga is None else saga.mark)
        queue.close()
        return found


def record(message: Command, saga: UUID, operation: Operation, id: UUID | None = None) -> Record:
    contract = contract_of(message)
    context = SagaContext("buy", saga, "pay", 0, operation)
    body = message.model_dump_json().encode()
    envelope = Envelope(contract.topic, "1", id or uuid4(), "t", contract.type, datetime.now(UTC), body, saga=context)
    headers = {name: text.encode() for name, text in write_headers(envelope).items()}
    return Record(contract.topic, 0, 0, b"1", body, headers)


@pytest.fixture(
    params=[
        pytest.param(("sqlite_url", None), id="sqlite", marks=pytest.mark.sqlite),
        *(pytest.param(("postgres_url", level), id=level, marks=pytest.mark.postgresql) for level in LEVELS),
    ]
)
def store(request: pytest.FixtureRequest, tables: Tables) -> Iterator[SqlStore]:
    """A store on an engine of the user's. SQLite has one writer at a time, and so but one level."""
    fixture, level = request.param
    url = request.getfixturevalue(fixture)
    engine = create_engine(url) if level is None else create_engine(url, isolation_level=level)
    upgrade(engine, tables)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE effect (what text)"))
    store = SqlStore(engine, tables)
    yield store
    store.close()


@pytest.fixture
def bank(store: SqlStore) -> Bank:
    return Bank(store)


def overlapping(bank: Bank, threads: Threads, first: Record, second: Record) -> None:
    """``second`` is handled while the transaction of ``first`` has not committed, and has to wait for it."""
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert go_on.wait(WITHIN)

    bank.before_commit = hold
    one = threads.start(lambda: bank.handle(first))
    assert inside.wait(WITHIN)
    bank.before_commit = lambda: None
    two = threads.start_and_block(lambda: bank.handle(second))
    go_on.set()
    one.result(WITHIN)
    two.result(WITHIN)


def test_a03_a_compensation_that_meets_its_action_at_work_undoes_it(bank: Bank, threads: Threads, saga: UUID) -> None:
    overlapping(bank, threads, record(Charge(id="1"), saga, ACTION), record(Refund(id="1"), saga, COMPENSATION))
    assert bank.ran[-1] == "refund"
    assert bank.effects() == ["charge", "refund"]
    assert bank.marks() == {"charged": [None], "refunded": [None]}


def test_a03_an_action_that_meets_its_compensation_at_work_does_nothing(
    bank: Bank, threads: Threads, saga: UUID
) -> None:
    """Its handler may have run, in a transaction that was refused at its end."""
    overlapping(bank, threads, record(Refund(id="1"), saga, COMPENSATION), record(Charge(id="1"), saga, ACTION))
    assert "refund" not in bank.ran
    assert bank.effects() == []
    assert bank.marks() == {"refunded": [Mark.EMPTY], "charged": [Mark.SUPERSEDED]}


def test_i09_a_command_that_meets_its_earlier_attempt_at_work_repeats_its_reply(
    bank: Bank, threads: Threads, saga: UUID
) -> None:
    overlapping(bank, threads, record(Charge(id="1"), saga, ACTION), record(Charge(id="1"), saga, ACTION))
    assert bank.effects() == ["charge"]
    assert bank.marks() == {"charged": [None, Mark.REPEATED]}


def test_a05_a_message_that_meets_its_own_copy_takes_effect_once(bank: Bank, threads: Threads, saga: UUID) -> None:
    copy = record(Charge(id="1"), saga, ACTION)
    overlapping(bank, threads, copy, copy)
    assert bank.effects() == ["charge"]
    assert bank.ran == ["charge"]
    assert bank.marks() == {"charged": [None]}


def test_a12_of_two_orchestrators_at_one_saga_the_second_goes_on_from_the_first(
    store: SqlStore, threads: Threads
) -> None:
    """Run again where the database refuses it, as a batch is."""
    begun = new("1")
    with store.begin() as uow:
        uow.save_sagas([begun])
    inside, go_on, conflicts = threading.Event(), threading.Event(), list[SerializationConflict]()

    def advance(pause: bool) -> int:
        while True:
            try:
                with store.begin() as uow:
                    instance = uow.load_sagas([begun.instance.id])[begun.instance.id]
                    seq = instance.seq + 1
                    entry = LogEntry(seq, Ignored(message="late", reason="too late"), datetime.now(UTC))
                    uow.save_sagas([SagaChange(instance.seq, replace(instance, seq=seq), (entry,))])
                    if pause:
                        inside.set()
                        assert go_on.wait(WITHIN)
                return seq
            except SerializationConflict as conflict:
                conflicts.append(conflict)

    one = threads.start(lambda: advance(True))
    assert inside.wait(WITHIN)
    two = threads.start_and_block(lambda: advance(False))
    go_on.set()
    assert [one.result(WITHIN), two.result(WITHIN)] == [2, 3]
    assert [entry.seq for entry in store.queries().log(begun.instance.id)] == [1, 2, 3]
    with store.engine.connect() as connection:
        waits = connection.dialect.name == "sqlite" or connection.get_isolation_level() == LEVELS[0]
    assert bool(conflicts) is not waits, "the fault was reached"
