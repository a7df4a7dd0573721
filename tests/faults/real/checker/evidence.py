"""What the checker knows: the requests that were made, the records of all topics, the rows of all databases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

READS = {
    "order": (
        "customer.validated",
        "customer.rejected",
        "inventory.validated",
        "inventory.unavailable",
        "order.created",
        "order.rejected",
        "order.completed",
        "order.cancelled",
    ),
    "customer": ("customer.validate.request",),
    "inventory": ("inventory.validate.request", "inventory.reserve.request", "inventory.release", "order.completed"),
    "payment": ("payment.process", "payment.refund"),
    "orchestrator": (
        "order.created",
        "inventory.reserved",
        "inventory.failed",
        "inventory.released",
        "payment.succeeded",
        "payment.failed",
        "payment.refunded",
    ),
    "meter": ("meter.reading",),
}
"""Which service reads which topics."""
TOPICS = tuple(sorted({topic for topics in READS.values() for topic in topics} | {"meter.taken"}))
ENDS = {"completed": "order.completed", "cancelled": "order.cancelled", "rejected": "order.rejected"}
"""How an order can end, and the event that says so."""


@dataclass(frozen=True, slots=True)
class Request:
    """An order that was asked for and promised, and how it should end if everybody answers in time."""

    expected: str
    lines: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a topic."""

    topic: str
    partition: int
    offset: int
    key: str
    source: str
    id: str
    body: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Order:
    """An order, as its service knows it."""

    status: str
    total: Decimal | None
    history: frozenset[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a saga's log."""

    seq: int
    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Saga:
    """A saga, with its log in the order of ``seq``."""

    service: str
    id: str
    name: str
    key: str
    status: str
    seq: int
    log: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Stock:
    available: int
    reserved: int
    sold: int


@dataclass(frozen=True, slots=True)
class Reservation:
    order: str
    sku: str
    quantity: int
    status: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a participant's barrier says it has answered."""

    saga: str
    step: str
    generation: int
    operation: str
    topic: str


@dataclass
class Evidence:
    """All of it."""

    requests: dict[str, Request]
    readings: dict[str, int]
    """The last number that each meter has sent; it began with 1."""
    initial_stock: dict[str, int]
    records: list[Record] = field(default_factory=list[Record])
    orders: dict[str, Order] = field(default_factory=dict[str, Order])
    sagas: list[Saga] = field(default_factory=list[Saga])
    stock: dict[str, Stock] = field(default_factory=dict[str, Stock])
    reservations: list[Reservation] = field(default_factory=list[Reservation])
    charges: list[tuple[str, Decimal]] = field(default_factory=list[tuple[str, Decimal]])
    refunds: list[tuple[str, Decimal]] = field(default_factory=list[tuple[str, Decimal]])
    taken: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """The readings that were handled, in the order of their rows."""
    inboxes: dict[str, set[tuple[str, str]]] = field(default_factory=dict[str, set[tuple[str, str]]])
    """By service: (source, message id)."""
    replies: list[Reply] = field(default_factory=list[Reply])
    outbox: dict[str, int] = field(default_factory=dict[str, int])
    """By service: rows that are left."""
    blocked: dict[str, int] = field(default_factory=dict[str, int])
    parked: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By service: what is parked, with its error."""
    unread: dict[str, int] = field(default_factory=dict[str, int])
    """By service: records behind the offsets that its database knows."""

    def of(self, topic: str) -> Iterable[Record]:
        """A topic's records: of each partition in order."""
        return (record for record in self.records if record.topic == topic)
