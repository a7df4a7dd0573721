"""Laws of the business: every request had its one effect, and nothing was made or vanished."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal

from tests.faults.real.checker.evidence import ENDS, Evidence, Saga, Stock

UNKNOWN = frozenset({"step-expired"})
"""What makes an outcome another one than planned: a step that was not answered in time."""


def lost_orders(evidence: Evidence) -> Iterator[str]:
    """Orders that are not there, or have not ended, or not as planned, or without their event."""
    unsure = {saga.key for saga in evidence.sagas if any(entry.kind in UNKNOWN for entry in saga.log)}
    told = {(record.topic, record.key) for record in evidence.records}
    for id, request in evidence.requests.items():
        order = evidence.orders.get(id)
        if order is None:
            yield f"order {id} was promised and is not there"
        elif order.status not in ENDS:
            yield f"order {id} has not ended: {order.status}"
        elif order.status != request.expected and id not in unsure:
            yield f"order {id} is {order.status}, should be {request.expected}"
    for id, order in evidence.orders.items():
        if id not in evidence.requests:
            yield f"order {id} was not asked for"
        for status in order.history & ENDS.keys():
            if (ENDS[status], id) not in told:
                yield f"order {id}: {ENDS[status]} is in no topic"


def lost_progress(evidence: Evidence) -> Iterator[str]:
    """What stands still."""
    for saga in evidence.sagas:
        if saga.status not in ("completed", "cancelled"):
            yield f"saga {saga.name} {saga.key} has not ended: {saga.status}"
        if [entry.seq for entry in saga.log] != list(range(1, saga.seq + 1)):
            yield f"saga {saga.name} {saga.key}: its log has gaps, or does not end at {saga.seq}"
    for service, count in evidence.outbox.items():
        if count:
            yield f"{service}: {count} rows are left in the outbox"
    for service, count in evidence.blocked.items():
        if count:
            yield f"{service}: {count} rows are blocked"
    for service, parked in evidence.parked.items():
        yield from (f"{service}: parked: {text}" for text in parked)
    yield from _missing_sagas(evidence)


def _missing_sagas(evidence: Evidence) -> Iterator[str]:
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for saga in evidence.sagas:
        known[saga.name][saga.key] += 1
    created = {record.key for record in evidence.of("order.created")}
    for name, keys in (("validate-order", evidence.orders.keys()), ("place-order", created)):
        for key in keys:
            if known[name][key] != 1:
                yield f"order {key} has {known[name][key]} sagas {name}"


def wrong_effects(evidence: Evidence) -> Iterator[str]:
    """Effects that are missing, or there twice."""
    placements = {saga.key: saga for saga in evidence.sagas if saga.name == "place-order"}
    held: dict[str, dict[str, int]] = defaultdict(dict)
    statuses: dict[str, set[str]] = defaultdict(set)
    for reservation in evidence.reservations:
        held[reservation.order][reservation.sku] = reservation.quantity
        statuses[reservation.order].add(reservation.status)
    charged = Counter(id for id, _ in evidence.charges)
    refunded = Counter(id for id, _ in evidence.refunds)
    for id, order in evidence.orders.items():
        request = evidence.requests.get(id)
        if request is None:
            continue
        if order.status == "completed":
            if held[id] != dict(request.lines) or statuses[id] != {"sold"}:
                yield f"order {id} is completed, its goods are {held[id]} {sorted(statuses[id])}"
            if (charged[id], refunded[id]) != (1, 0):
                yield f"order {id} is completed, charged {charged[id]} and refunded {refunded[id]} times"
        elif statuses[id] - {"released"} or charged[id] != refunded[id] or charged[id] > 1:
            yield (
                f"order {id} is {order.status}, its goods {sorted(statuses[id])}, "
                f"charged {charged[id]} and refunded {refunded[id]} times"
            )
        yield from _wrong_end(id, order.status, placements.get(id))


def _wrong_end(id: str, status: str, placement: Saga | None) -> Iterator[str]:
    ended = None if placement is None else placement.status
    if ended != (None if status == "rejected" else status):
        yield f"order {id} is {status}, its saga {ended}"


def wrong_sums(evidence: Evidence) -> Iterator[str]:
    """Stock and money that were made or have vanished."""
    reserved: Counter[str] = Counter()
    sold: Counter[str] = Counter()
    for reservation in evidence.reservations:
        if reservation.status == "sold":
            sold[reservation.sku] += reservation.quantity
        elif reservation.status == "reserved":
            reserved[reservation.sku] += reservation.quantity
    for sku, initial in evidence.initial_stock.items():
        should = Stock(initial - reserved[sku] - sold[sku], reserved[sku], sold[sku])
        if (found := evidence.stock.get(sku)) != should:
            yield f"{sku}: {found}, by its reservations {should}"
    value = sum(
        (order.total or Decimal() for order in evidence.orders.values() if order.status == "completed"), Decimal()
    )
    balance = sum((amount for _, amount in evidence.charges), Decimal())
    balance -= sum((amount for _, amount in evidence.refunds), Decimal())
    if balance != value:
        yield f"charged less refunded is {balance}, the completed orders are worth {value}"
