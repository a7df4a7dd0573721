"""What the runtime's unit tests share: a small saga, two kinds of handlers, and a service without threads or time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, event, select

from kafkasaga import Ends, Message, Outbox, Saga, SagaState, Service, Step
from kafkasaga.messages import Attributes, Operation, SagaContext, contract_of, read_attributes
from kafkasaga.ports import Parked
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.relay import Relay
from kafkasaga.runtime.timekeeper import Timekeeper
from kafkasaga.stores import SqlStore, create_store
from kafkasaga.testing.broker import MemoryBroker

DEADLINE = timedelta(seconds=30)


class Base(Message, key="id"):
    id: str


class Begun(Base, topic="begun"): ...


class Reserve(Base, topic="reserve"): ...


class Reserved(Base, topic="reserved"): ...


class NotReserved(Base, topic="not-reserved"): ...


class Release(Base, topic="unreserve"): ...


class Released(Base, topic="released"): ...


class Pay(Base, topic="pay"): ...


class Paid(Base, topic="paid"): ...


class Declined(Base, topic="declined"): ...


class Ended(Base, topic="ended"):
    well: bool


class State(SagaState):
    id: str


class Buy(Saga[State], name="buy", version=1, starts_on=Begun):
    reserve = Step[State](
        command=lambda s: Reserve(id=s.id),
        succeeds_on=Reserved,
        fails_on=NotReserved,
        compensation=lambda s: Release(id=s.id),
        compensated_on=Released,
        deadline=DEADLINE,
    )
    pay = Step[State](
        command=lambda s: Pay(id=s.id), succeeds_on=Paid, fails_on=Declined, kind="read-only", deadline=DEADLINE
    )
    flow = reserve >> pay
    ends = Ends[State](
        completed=lambda s: Ended(id=s.id, well=True), cancelled=lambda s, why: Ended(id=s.id, well=False)
    )


class VirtualClock:
    """Time that passes when somebody waits, or when a test says so."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 22, 12, tzinfo=UTC)
        self._seconds = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._seconds

    def sleep(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._seconds += seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.sleep(0.0 if event.is_set() else seconds)
        return event.is_set()


class Node:
    """A service on a database of its own, driven step by step."""

    def __init__(self, service: Service, broker: MemoryBroker, clock: VirtualClock, url: str = "sqlite://") -> None:
        self.service, self.broker, self.clock = service, broker, clock
        self.store: SqlStore = create_store(url, service.outbox.tables)
        if url.startswith("sqlite"):
            event.listen(self.store.engine, "connect", _enforce_foreign_keys)
        service.outbox.tables.metadata.create_all(self.store.engine)
        self.sender = Sender(service.name, service.codec, clock)
        self.batches = BatchRunner(
            service.name, self.store, service.router(), service.definitions, self.sender, service.parking
        )
        self.loop = self.new_loop()
        self.relay = self.new_relay()
        self.timekeeper = Timekeeper(
            service.name, self.store, self._ends, service.definitions, self.sender, self.batches
        )

    def new_loop(self, batch_size: int = 100) -> ConsumerLoop:
        """A consumer loop that has joined the group."""
        consumer = self.broker.consumer(self.service.name)
        loop = ConsumerLoop(
            self.service.name,
            consumer,
            self.store,
            self.batches,
            self.service.reads,
            batch_size=batch_size,
            clock=self.clock,
        )
        consumer.subscribe(sorted(self.service.reads), loop._assigned, loop._revoked)
        return loop

    def new_relay(self, queue: Any = None, window: int = 4000) -> Relay:
        return Relay(
            queue or self.store.relay_queue(), self.broker.producer, self.clock, poll_interval=0.001, window=window
        )

    def consume(self) -> None:
        """Everything that is there."""
        self.loop.step(0)
        while self.loop.step(0):
            pass

    def publish(self) -> None:
        """Everything that can be published now."""
        for _ in range(4):
            self.relay.step()
        before = -1
        while (left := self.count("outbox")) and left != before:
            before = left
            for _ in range(6):
                self.relay.step()

    def rows(self, table: Table) -> list[Any]:
        with self.store.engine.connect() as connection:
            return list(connection.execute(select(table)))

    def count(self, table: str) -> int:
        return len(self.rows(getattr(self.store.tables, table)))

    def parked(self) -> list[Parked]:
        return self.store.queries().parked()

    def transactions(self) -> list[str]:
        """A list that grows: 'commit' and 'rollback', as they happen, once the loop has its partitions."""
        self.loop._consumer._settle()  # type: ignore[attr-defined]
        seen: list[str] = []
        event.listen(self.store.engine, "commit", lambda _: seen.append("commit"))
        event.listen(self.store.engine, "rollback", lambda _: seen.append("rollback"))
        return seen

    def _ends(self) -> dict[Any, int]:
        replies = sorted({contract_of(t).topic for d in self.service.definitions.values() for t in d.replies})
        return {place: end for place, end in self.broker.ends(replies).items() if end}


class Ledger:
    """A business table with everything that a database can refuse: at a statement, at a flush, at the commit."""

    def __init__(self) -> None:
        self.metadata = MetaData()
        self.entries = Table(
            "entries",
            self.metadata,
            Column("n", Integer, primary_key=True),
            Column("id", String, nullable=False),
            Column("once", String, unique=True),
            Column("parent", Integer, ForeignKey("entries.n", deferrable=True, initially="DEFERRED"), nullable=True),
        )
        self.outbox = Outbox(self.metadata, source="svc")

    def ids(self, node: Node) -> list[str]:
        return [row.id for row in node.rows(self.entries)]


def orchestrator(broker: MemoryBroker, clock: VirtualClock) -> Node:
    return Node(Service("orchestrator", sagas=[Buy], outbox=Outbox(MetaData())), broker, clock)


def send(
    broker: MemoryBroker,
    message: Message,
    *,
    id: UUID | None = None,
    saga: SagaContext | None = None,
    source: str = "t",
) -> UUID:
    """Append a message to its topic, as any service would; returns its id."""
    identity = id or uuid4()
    headers = {"ce_id": str(identity), "ce_source": source, "ce_type": contract_of(message).type}
    headers |= {} if saga is None else saga_headers(saga)
    broker.append(contract_of(message).topic, message.id.encode(), message.model_dump_json().encode(), _bytes(headers))  # type: ignore[attr-defined]
    return identity


def saga_headers(saga: SagaContext) -> dict[str, str]:
    headers = {
        "ce_saganame": saga.saga,
        "ce_sagaid": str(saga.saga_id),
        "ce_sagastep": saga.step,
        "ce_sagageneration": str(saga.generation),
        "ce_sagaoperation": saga.operation.value,
    }
    if saga.command_id is not None:
        headers["ce_sagacommandid"] = str(saga.command_id)
    if saga.failures:
        headers["ce_sagafailures"] = " ".join(saga.failures)
    if saga.mark is not None:
        headers["ce_sagamark"] = saga.mark.value
    return headers


def context(
    saga_id: UUID, operation: Operation = Operation.ACTION, *, step: str = "reserve", generation: int = 0, **more: Any
) -> SagaContext:
    return SagaContext("buy", saga_id, step, generation, operation, **more)


def attributes(broker: MemoryBroker, topic: str) -> list[Attributes]:
    return [read_attributes(record) for record in broker.records(topic)]


def bodies(broker: MemoryBroker, topic: str) -> list[bytes | None]:
    return [record.value for record in broker.records(topic)]


def until(condition: Callable[[], object], step: Callable[[], object], rounds: int = 1000) -> None:
    """Take steps until something is so."""
    for _ in range(rounds):
        if condition():
            return
        step()
    raise AssertionError("it did not come to that")


def _enforce_foreign_keys(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def _bytes(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in headers.items()}
