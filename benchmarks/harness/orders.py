"""Customers: they put ``order.created`` into Kafka and wait for the order to end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.harness.figures import WrongResult, expect
from benchmarks.harness.load import wire_headers
from benchmarks.harness.machine import Machine
from benchmarks.harness.processes import Worker
from kafkasaga.examples.order_system.contracts import Line, OrderCancelled, OrderCompleted, OrderCreated
from kafkasaga.messages import Envelope, contract_of

CREATED, COMPLETED, CANCELLED = (contract_of(type).topic for type in (OrderCreated, OrderCompleted, OrderCancelled))
PRODUCTS, CUSTOMERS = 20, 50
PRICE = Decimal("9.95")
STANDSTILL = 60.0
"""Seconds without the end of any order after which no more will come: a message was lost."""
LATE = 0.0005
"""Seconds by which an order may be sent too early."""


def order_id(number: int) -> UUID:
    return UUID(int=(3 << 120) + number)


def is_declined(number: int) -> bool:
    """One in ten."""
    return number % 10 == 0


def created(number: int) -> Envelope:
    """An order of one line."""
    customer = f"customer-broke-{number % 5}" if is_declined(number) else f"customer-{number % CUSTOMERS:02}"
    lines = (Line(sku=f"product-{number % PRODUCTS:02}", quantity=1),)
    message = OrderCreated(order_id=order_id(number), customer_id=customer, lines=lines, total=PRICE)
    body = message.model_dump_json().encode()
    return Envelope(CREATED, str(message.order_id), uuid4(), "order", CREATED, datetime.now(UTC), body)


@dataclass
class Customers:
    """Sends orders and notes when each of them ended."""

    machine: Machine
    services: Sequence[Worker] = ()
    """They must live while orders are waited for."""
    ended: dict[int, tuple[str, float]] = field(default_factory=dict[int, tuple[str, float]])
    sent: dict[int, float] = field(default_factory=dict[int, float])
    doubled: int = 0

    def __post_init__(self) -> None:
        servers = self.machine.bootstrap_servers
        self._producer = Producer({
            "bootstrap.servers": servers, "acks": "all", "enable.idempotence": True, "linger.ms": 0,
            "partitioner": "murmur2_random", "log_level": 3,
        })  # fmt: skip
        self._consumer: Consumer = self.machine.observer()
        ends = self.machine.ends(COMPLETED, CANCELLED)
        self._consumer.assign([TopicPartition(*place, end) for place, end in ends.items()])

    def order(self, first: int, count: int, *, in_flight: int = 1_000_000, rate: float = 0.0) -> float:
        """Send ``count`` orders and wait for their ends; seconds from the first to the last.

        Either a closed loop of ``in_flight`` orders, or ``rate`` orders a second.
        """
        began = moved = time.monotonic()
        next, last = first, first + count
        before = len(self.ended)
        while len(self.ended) - before < count:
            while next < last and self._may_send(next - first, len(self.ended) - before, in_flight, rate, began):
                self._send(next, began + (next - first) / rate if rate else time.monotonic())
                next += 1
            self._producer.poll(0)
            if self._receive(0.001 if rate else 0.02):
                moved = time.monotonic()
            elif time.monotonic() - moved > STANDSTILL:
                raise WrongResult(
                    f"{len(self.ended) - before} of {count} sagas ended, then none for {STANDSTILL:.0f} s"
                )
            else:
                self._check_alive()
        return max(at for _, at in list(self.ended.values())[before:]) - began

    def check(self) -> None:
        """Every order ended once, and as it should."""
        expect("orders that ended twice", self.doubled, 0)
        expect("orders that ended", len(self.ended), len(self.sent))
        for number, (how, _) in self.ended.items():
            expect(f"order {number}", how, CANCELLED if is_declined(number) else COMPLETED)

    def latencies(self, first: int) -> list[float]:
        """Seconds from sending to the end, of orders number ``first`` and on."""
        return [at - self.sent[number] for number, (_, at) in self.ended.items() if number >= first]

    def close(self) -> None:
        self._consumer.close()

    def drain(self, seconds: float) -> None:
        """Look whether anything more comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._receive(0.05)

    def _check_alive(self) -> None:
        for service in self.services:
            service.check_alive()

    @staticmethod
    def _may_send(sent: int, ended: int, in_flight: int, rate: float, began: float) -> bool:
        if rate:
            return time.monotonic() >= began + sent / rate - LATE
        return sent - ended < in_flight

    def _send(self, number: int, due: float) -> None:
        envelope = created(number)
        headers = wire_headers(envelope)
        self.sent[number] = due
        while True:
            try:
                self._producer.produce(envelope.topic, envelope.payload, envelope.key, headers=headers)
            except BufferError:
                self._producer.poll(0.01)
            else:
                return

    def _receive(self, timeout: float) -> bool:
        """Take what has ended; False if nothing had."""
        first = self._consumer.poll(timeout)
        if first is None:
            return False
        now = time.monotonic()
        for message in [first, *self._consumer.consume(1000, 0)]:
            number = UUID((message.key() or b"").decode()).int - (3 << 120)
            if number in self.ended:
                self.doubled += 1
            else:
                self.ended[number] = (message.topic() or "", now)
        return True
