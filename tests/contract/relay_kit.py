"""A relay on a real broker, driven step by step, and what a test puts into its outbox."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import MetaData

from kafkasaga.clock import SystemClock
from kafkasaga.kafka import KafkaProducer
from kafkasaga.messages import Envelope
from kafkasaga.runtime.relay import Relay
from kafkasaga.stores import SqlStore, Tables, create_store
from tests.contract.kafka_kit import WITHIN, Broker, until


def put(store: SqlStore, rows: Iterable[tuple[str, str, bytes]], time: datetime | None = None) -> list[UUID]:
    """Commit rows of topic, key and body; returns their message ids."""
    now = time or datetime.now(UTC)
    envelopes = [Envelope(topic, key, uuid4(), "t", "T", now, body) for topic, key, body in rows]
    with store.begin() as uow:
        uow.add_outbox(envelopes)
    return [envelope.id for envelope in envelopes]


class Relaying:
    """An outbox in memory, and the relay that publishes it."""

    def __init__(self, settings: Broker, store: SqlStore) -> None:
        self.store = store
        self.relay = Relay(store.relay_queue(), lambda: KafkaProducer(settings), SystemClock(), poll_interval=0.02)

    def put(self, rows: Iterable[tuple[str, str, bytes]], time: datetime | None = None) -> list[UUID]:
        """Committed rows of topic, key and body; returns their message ids."""
        return put(self.store, rows, time)

    def waiting(self) -> int:
        """How many rows are in the outbox."""
        return self.store.queries().counts().outbox

    def step_until(self, condition: Callable[[], object], what: str, within: float = WITHIN) -> None:
        def stepped() -> object:
            self.relay.step()
            return condition()

        until(stepped, what, within)


@contextmanager
def relaying(settings: Broker) -> Generator[Relaying]:
    tables = Tables(MetaData())
    store = create_store("sqlite://", tables)
    tables.metadata.create_all(store.engine)
    running = Relaying(settings, store)
    yield running
    running.relay.stop()
    running.relay.run()
    store.close()
