"""Records that become visible all at once: when the Kafka transaction that wrote them commits, time begins."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from confluent_kafka import Producer

from kafkasaga.messages import Envelope, write_headers

_numbers = count(1)
SECONDS = 120.0


def wire_headers(envelope: Envelope) -> list[tuple[str, str | bytes | None]]:
    """Headers as the client takes them."""
    return [(name, text.encode()) for name, text in write_headers(envelope).items()]


class Load:
    """A transactional producer."""

    def __init__(self, bootstrap_servers: str) -> None:
        settings = {
            "bootstrap.servers": bootstrap_servers,
            "transactional.id": f"bench-load-{next(_numbers)}",
            "transaction.timeout.ms": 600_000,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
            "log_level": 3,
        }
        self._producer = Producer(settings)
        self._producer.init_transactions(SECONDS)

    def write(self, envelopes: Iterable[Envelope]) -> None:
        """Write them; nobody sees them yet."""
        self._producer.begin_transaction()
        for number, envelope in enumerate(envelopes):
            self._producer.produce(envelope.topic, envelope.payload, envelope.key, headers=wire_headers(envelope))
            if number % 1000 == 0:
                self._producer.poll(0)
        self._producer.flush(SECONDS)

    def publish(self) -> None:
        """Now they are seen."""
        self._producer.commit_transaction(SECONDS)

    def send(self, envelopes: Iterable[Envelope]) -> None:
        self.write(envelopes)
        self.publish()
