"""What the shops start with, and what customers order: decided by a seed, whatever the timing."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

from sqlalchemy import Engine, inspect
from sqlalchemy.orm import DeclarativeBase, Session

from kafkasaga.examples.order_system import customer, inventory, order, payment
from kafkasaga.examples.order_system.order import Status

CUSTOMERS = tuple(f"customer-{n:02}" for n in range(50))
DECLINED = tuple(f"customer-broke-{n}" for n in range(5))
"""Customers whose card pays for next to nothing."""
PRODUCTS = {f"product-{n:02}": Decimal(n * 7 + 5) + Decimal("0.95") for n in range(20)}
RARE = tuple(f"rare-{n}" for n in range(5))
"""In stock, but fewer than anybody orders: validation passes, reservation never does."""

PLENTY, SCARCE = 1_000_000, 2
INITIAL_STOCK = dict.fromkeys(PRODUCTS, PLENTY) | dict.fromkeys(RARE, SCARCE)

BASES: dict[str, type[DeclarativeBase] | None] = {
    "order": order.Base,
    "customer": customer.Base,
    "inventory": inventory.Base,
    "payment": payment.Base,
    "orchestrator": None,
}
"""The services, each with the base of its business tables, if it has any."""


def make_business_tables(service: str, engine: Engine) -> None:
    """Create a service's tables and their first rows, if they are not there."""
    base = BASES[service]
    if base is None or inspect(engine).has_table(base.metadata.sorted_tables[0].name):
        return
    with engine.begin() as connection, Session(connection) as session:
        base.metadata.create_all(connection)
        session.add_all(_rows(service))
        session.flush()


def _rows(service: str) -> Iterator[Any]:
    match service:
        case "customer":
            yield from (customer.Customer(id=id) for id in (*CUSTOMERS, *DECLINED))
        case "inventory":
            for sku, available in INITIAL_STOCK.items():
                yield inventory.Stock(sku=sku, price=PRODUCTS.get(sku, Decimal("99.95")), available=available)
        case "payment":
            yield from (payment.Card(customer_id=id, limit=Decimal(1_000_000)) for id in CUSTOMERS)
            yield from (payment.Card(customer_id=id, limit=Decimal("1.00")) for id in DECLINED)
        case _:
            return


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """An order to place, and how it ends if every service answers in time."""

    body: dict[str, Any]
    expected: Status


def planned_orders(count: int, seed: int) -> list[PlannedOrder]:
    """The orders of a run: about 80 % fine, 8 % declined, 7 % out of stock, 5 % unknown. The first one is fine."""
    random = Random(seed)
    kinds = ["declined"] * _share(count, 0.08) + ["rare"] * _share(count, 0.07) + ["unknown"] * _share(count, 0.05)
    kinds = ["fine"] * max(1, count - len(kinds)) + kinds
    first, *rest = kinds[:count]
    random.shuffle(rest)
    return [_planned(kind, random) for kind in (first, *rest)]


def _share(count: int, share: float) -> int:
    return max(1, round(count * share))


def _planned(kind: str, random: Random) -> PlannedOrder:
    customer_id = random.choice(DECLINED if kind == "declined" else CUSTOMERS)
    wanted = {sku: random.randint(1, 5) for sku in random.sample(sorted(PRODUCTS), random.randint(1, 4))}
    expected = Status.COMPLETED
    match kind:
        case "declined":
            expected = Status.CANCELLED
        case "rare":
            wanted[random.choice(RARE)] = random.randint(SCARCE + 1, SCARCE + 5)
            expected = Status.CANCELLED
        case "unknown":
            expected = Status.REJECTED
            if random.choice((True, False)):
                customer_id = "customer-nobody"
            else:
                wanted["product-of-fantasy"] = 1
        case _:
            pass
    lines = [{"sku": sku, "quantity": quantity} for sku, quantity in wanted.items()]
    return PlannedOrder({"customer_id": customer_id, "lines": lines}, expected)
