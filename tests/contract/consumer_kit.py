"""A service that notes what it has handled, run loop by loop, on a database that outlives its consumers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from kafkasaga import Outbox, Service
from kafkasaga.clock import SystemClock
from kafkasaga.kafka import KafkaConsumer
from kafkasaga.messages import Message
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.stores import Session, create_store
from tests.contract.kafka_kit import Broker, unique, until


class Noted:
    """Its handler calls ``before`` with the number of each message, then notes the number."""

    def __init__(
        self, settings: Broker, topic: str, url: str = "sqlite://", before: Callable[[int], object] = lambda _: None
    ) -> None:
        self.settings, self.topic, self.metadata = settings, topic, MetaData()
        self.done = Table("done", self.metadata, Column("n", Integer, primary_key=True), Column("id", String))
        self.service = Service(unique("svc"), outbox=Outbox(self.metadata))
        command = type(
            "Command", (Message,), {"__module__": __name__, "__annotations__": {"id": str}}, topic=topic, key="id"
        )

        def note(command: Message, session: Session) -> None:
            number = command.id  # type: ignore[attr-defined]
            before(int(number))
            session.execute(insert(self.done).values(id=number))

        note.__annotations__["command"] = command
        self.service.handler(note)
        self.store = create_store(url, self.service.outbox.tables)
        self.metadata.create_all(self.store.engine)

    def handled(self) -> list[int]:
        with self.store.engine.connect() as connection:
            return [int(row.id) for row in connection.execute(self.done.select().order_by(self.done.c.n))]

    def run_until(self, count: int) -> None:
        """Another life of the service: until so many messages have been handled in all."""
        with closing(self.consumer()) as consumer:
            loop = self.loop(consumer)
            until(lambda: loop.step(0.1) is not None and len(self.handled()) >= count, f"{count} messages")

    def consumer(self) -> KafkaConsumer:
        return KafkaConsumer(self.settings, self.service.name)

    def loop(self, consumer: KafkaConsumer) -> ConsumerLoop:
        """A replica that has joined."""
        service = self.service
        batches = BatchRunner(
            service.name,
            self.store,
            service.router(),
            {},
            Sender(service.name, service.codec, SystemClock()),
            service.parking,
        )
        loop = ConsumerLoop(service.name, consumer, self.store, batches, [self.topic], batch_size=100)
        consumer.subscribe([self.topic], loop._assigned, loop._revoked)
        return loop


def bodies(numbers: range) -> list[bytes]:
    return [b'{"id": "%d"}' % n for n in numbers]
