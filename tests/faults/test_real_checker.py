"""The checker of the fault tier is tried itself: whatever is lost, doubled or reordered, it says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from tests.faults.real.checker import Evidence, Order, Record, Request, Saga, judge
from tests.faults.real.checker.evidence import READS, Entry, Reply, Reservation, Stock
from tests.faults.real.checker.messages import first_out_of_order

BOUGHT, REFUSED = "order-1", "order-2"
TOPICS = {
    BOUGHT: {
        "customer.validate.request": "validate",
        "customer.validated": "customer",
        "order.created": "order",
        "inventory.reserve.request": "reserve",
        "inventory.reserved": "inventory",
        "payment.process": "pay",
        "payment.succeeded": "payment",
        "order.completed": "done",
    },
    REFUSED: {"customer.validate.request": "validate", "customer.rejected": "customer", "order.rejected": "done"},
}


def healthy() -> Evidence:
    """Two orders, one of which was bought, and a meter with five readings; relays have repeated some messages."""
    evidence = Evidence(
        requests={BOUGHT: Request("completed", {"tea": 2}), REFUSED: Request("rejected", {"tea": 1})},
        readings={"m": 5},
        initial_stock={"tea": 10},
    )
    for order, topics in TOPICS.items():
        for topic, name in topics.items():
            headers = {"ce_sagaid": f"place {order}"}
            evidence.records.append(Record(topic, 0, 0, order, "shop", f"{order} {name}", b"{}", headers))
    for topic, numbers in (("meter.reading", [1, 2, 3, 2, 3, 4, 5]), ("meter.taken", [1, 2, 3, 4, 5, 5])):
        for offset, number in enumerate(numbers):
            body = json.dumps({"meter": "m", "number": number}).encode()
            evidence.records.append(Record(topic, 1, offset, "m", "meter", f"{topic} {number}", body))
    for service, read in READS.items():
        evidence.inboxes[service] = {(r.source, r.id) for r in evidence.records if r.topic in read}
    evidence.orders = {
        BOUGHT: Order("completed", Decimal(8), frozenset({"validating", "created", "completed"})),
        REFUSED: Order("rejected", None, frozenset({"validating", "rejected"})),
    }
    evidence.sagas = [
        saga("validate-order", BOUGHT, "completed", f"{BOUGHT} validate"),
        saga("validate-order", REFUSED, "cancelled", f"{REFUSED} validate"),
        saga("place-order", BOUGHT, "completed", f"{BOUGHT} reserve", f"{BOUGHT} pay"),
    ]
    evidence.stock = {"tea": Stock(8, 0, 2)}
    evidence.reservations = [Reservation(BOUGHT, "tea", 2, "sold")]
    evidence.charges = [(BOUGHT, Decimal(8))]
    evidence.taken = [("m", number) for number in range(1, 6)]
    evidence.replies = [Reply(f"place {BOUGHT}", "pay", 0, "action", "payment.succeeded")]
    return evidence


def saga(name: str, order: str, status: str, *commands: str) -> Saga:
    sent = [Entry(n, "command-sent", {"command_id": id, "message": "…"}) for n, id in enumerate(commands, start=2)]
    log = (Entry(1, "started", {}), *sent)
    return Saga("order", f"{name} {order}", name, order, status, len(log), log)


def test_what_is_as_it_should_be_is_good() -> None:
    verdict = judge(healthy())
    assert verdict.wrong == {"lost": [], "doubled": [], "reordered": []}
    assert verdict.good
    assert verdict.duplicates == {"meter.reading": 2, "meter.taken": 1}, "repetitions are counted, and allowed"


def without_record(topic: str, key: str) -> Callable[[Evidence], None]:
    def spoil(evidence: Evidence) -> None:
        evidence.records = [r for r in evidence.records if (r.topic, r.key) != (topic, key)]

    return spoil


def another_record(topic: str, **changes: object) -> Callable[[Evidence], None]:
    def spoil(evidence: Evidence) -> None:
        original = next(record for record in evidence.of(topic))
        evidence.records.append(replace(original, **changes))  # type: ignore[arg-type]

    return spoil


def reading(number: int, at: int) -> Callable[[Evidence], None]:
    """Move the only record of a reading to another place."""

    def spoil(evidence: Evidence) -> None:
        found = next(r for r in evidence.of("meter.taken") if r.id == f"meter.taken {number}")
        evidence.records = [r for r in evidence.records if r.id != found.id]
        first = evidence.records.index(next(iter(evidence.of("meter.taken"))))
        evidence.records.insert(first + at, found)

    return spoil


def order(status: str, *history: str) -> Callable[[Evidence], None]:
    return lambda e: e.orders.update({BOUGHT: Order(status, Decimal(8), frozenset(history))})


def commands_the_wrong_way_round(evidence: Evidence) -> None:
    """Both to one topic, the second one first."""
    ids = [f"{BOUGHT} pay", f"{BOUGHT} reserve"]
    evidence.records = [r for r in evidence.records if r.id not in ids]
    evidence.records += [Record("payment.process", 0, n, BOUGHT, "shop", id, b"{}") for n, id in enumerate(ids)]


def shortened_log(evidence: Evidence) -> None:
    last = evidence.sagas[-1]
    evidence.sagas[-1] = replace(last, log=(last.log[0], last.log[2]))


LOST: dict[str, tuple[Callable[[Evidence], object], str]] = {
    "an order": (lambda e: e.orders.pop(BOUGHT), "was promised and is not there"),
    "the end of an order": (order("created", "created"), "has not ended: created"),
    "the outcome": (order("cancelled", "created"), "should be completed"),
    "an event": (without_record("order.completed", BOUGHT), "order.completed is in no topic"),
    "a command": (without_record("payment.process", BOUGHT), "command-sent … order-1 pay is in no topic"),
    "a reply": (without_record("payment.succeeded", BOUGHT), "the reply payment.succeeded to pay"),
    "a message at its reader": (lambda e: e.inboxes["payment"].clear(), "payment has never handled payment.process"),
    "what was never read": (lambda e: e.unread.update(meter=3), "meter has not read 3 records"),
    "a reading in the topic": (lambda e: e.readings.update(m=6), "1 readings are missing in meter.reading: [6]"),
    "the row of a reading": (lambda e: e.taken.pop(2), "1 readings are missing in the rows: [3]"),
    "a saga": (lambda e: e.sagas.pop(), "has 0 sagas place-order"),
    "a part of a log": (shortened_log, "its log has gaps"),
    "a row of the outbox": (lambda e: e.outbox.update(order=1), "1 rows are left in the outbox"),
    "a row that Kafka refuses": (lambda e: e.blocked.update(order=1), "1 rows are blocked"),
    "a message that is parked": (lambda e: e.parked.update(order=["dead: why"]), "order: parked: dead: why"),
}
DOUBLED: dict[str, tuple[Callable[[Evidence], object], str]] = {
    "a charge": (lambda e: e.charges.append((BOUGHT, Decimal(8))), "charged 2 and refunded 0 times"),
    "money": (lambda e: e.charges.append(("nobody", Decimal(1))), "charged less refunded is 9"),
    "a sale": (lambda e: e.stock.update(tea=Stock(6, 0, 4)), "tea: Stock(available=6"),
    "goods of an order": (lambda e: e.reservations.append(Reservation(BOUGHT, "milk", 1, "sold")), "its goods are"),
    "the row of a reading": (lambda e: e.taken.append(("m", 5)), "m: handled more than once: [5]"),
    "a reading that nobody sent": (lambda e: e.taken.append(("m", 9)), "readings that nobody sent: [9]"),
    "an event under a new id": (another_record("order.completed", id="new"), "order.completed order-1: 2 different"),
    "a reading under a new id": (another_record("meter.reading", id="new"), "meter.reading m 1: 2 different messages"),
    "an id": (another_record("order.created", body=b"[]"), "message order-1 order has 2 contents"),
    "an effect without a message": (lambda e: e.inboxes["meter"].add(("x", "ghost")), "message ghost, which is in no"),
    "the end of a saga": (order("rejected", "created"), "order order-1 is rejected, its saga completed"),
}
REORDERED: dict[str, tuple[Callable[[Evidence], object], str]] = {
    "messages of a key": (reading(2, at=3), "m in meter.taken: 4 before 2"),
    "handled in a wrong order": (lambda e: e.taken.sort(reverse=True), "m in the rows: 5 before 4"),
    "a key in two partitions": (another_record("order.created", partition=3), "order.created order-1 is in 2"),
    "commands of a saga": (commands_the_wrong_way_round, "the command of entry 3 before that of 2"),
}


@pytest.mark.parametrize(("spoil", "said"), LOST.values(), ids=LOST.keys())
def test_i02_a_loss_is_seen(spoil: Callable[[Evidence], object], said: str) -> None:
    assert_seen("lost", spoil, said)


@pytest.mark.parametrize(("spoil", "said"), DOUBLED.values(), ids=DOUBLED.keys())
def test_i03_a_double_is_seen(spoil: Callable[[Evidence], object], said: str) -> None:
    assert_seen("doubled", spoil, said)


@pytest.mark.parametrize(("spoil", "said"), REORDERED.values(), ids=REORDERED.keys())
def test_i04_a_wrong_order_is_seen(spoil: Callable[[Evidence], object], said: str) -> None:
    assert_seen("reordered", spoil, said)


def assert_seen(kind: str, spoil: Callable[[Evidence], object], said: str) -> None:
    evidence = healthy()
    spoil(evidence)
    verdict = judge(evidence)
    assert not verdict.good
    assert any(said in text for text in verdict.wrong[kind]), verdict.wrong


def test_an_outcome_is_open_where_a_step_was_not_answered_in_time() -> None:
    evidence = healthy()
    evidence.requests[REFUSED] = replace(evidence.requests[REFUSED], expected="completed")
    assert not judge(evidence).good
    asked = evidence.sagas[1]
    log = (*asked.log, Entry(len(asked.log) + 1, "step-expired", {}))
    evidence.sagas[1] = replace(asked, log=log, seq=len(log))
    assert judge(evidence).good


@pytest.mark.parametrize(
    ("sequence", "wrong"),
    [([], None), ([1, 2, 3, 2, 3, 4], None), ([1, 3, 2], (2, 3)), ([2, 1, 2], (1, 2)), ([1, 1, 1], None)],
)
def test_repetitions_are_in_order_and_new_ones_behind_greater_ones_are_not(
    sequence: list[int], wrong: tuple[int, int] | None
) -> None:
    assert first_out_of_order(sequence) == wrong
