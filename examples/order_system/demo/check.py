"""What became of the orders, and whether everything adds up: read in the services' databases, not asked of them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from kafkasaga import Operator
from kafkasaga.examples.order_system.front import NewOrder
from kafkasaga.examples.order_system.inventory import Stock
from kafkasaga.examples.order_system.order import ENDED, Change, Order, Status
from kafkasaga.examples.order_system.payment import Charge, Refund

from .databases import Database
from .seed import INITIAL_STOCK


@dataclass(frozen=True, slots=True)
class Ended:
    """An order that came to its end."""

    order_id: UUID
    status: Status
    reason: str | None
    at: float

    @property
    def kind(self) -> str:
        """Why, without the particulars: ``cancelled: out of stock``."""
        return self.status if self.reason is None else f"{self.status}: {self.reason.partition(':')[0]}"


class Check:
    """Questions to all databases of the system."""

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self._databases = databases
        self._operators = {name: Operator(database.store) for name, database in databases.items()}

    def by_status(self) -> Counter[Status]:
        with self._session("order") as session:
            rows = session.execute(select(Order.status, func.count().label("orders")).group_by(Order.status))
            return Counter({row.status: row.orders for row in rows})

    def ended(self, order_ids: Collection[UUID]) -> list[Ended]:
        """Those of the orders that came to their end."""
        query = select(Order.id, Order.status, Order.reason, Change.at).join_from(
            Order, Change, (Change.order_id == Order.id) & (Change.status == Order.status)
        )
        with self._session("order") as session:
            rows = session.execute(query.where(Order.status.in_(ENDED)))
            return [Ended(row.id, row.status, row.reason, _seconds(row.at)) for row in rows if row.id in order_ids]

    def under_way(self, order_ids: Collection[UUID]) -> dict[UUID, str]:
        """Those of the orders that did not come to their end, with what is known of them."""
        with self._session("order") as session:
            known: dict[UUID, Status] = {row.id: row.status for row in session.execute(select(Order.id, Order.status))}
        found = {id: known.get(id) for id in order_ids}
        return {id: status or "unknown to the Order service" for id, status in found.items() if status not in ENDED}

    def quiet(self) -> bool:
        """Nothing is under way any more: no message, no saga, no reservation."""
        with self._session("inventory") as session:
            held = session.scalar(select(func.sum(Stock.reserved)))
        counts = [operator.counts() for operator in self._operators.values()]
        return not held and not any(c.outbox or c.parked or c.sagas for c in counts)

    def invariants(self, placed: Collection[UUID]) -> dict[str, bool]:
        """Name → whether it holds."""
        counts = [operator.counts() for operator in self._operators.values()]
        with self._session("order") as orders, self._session("inventory") as stock, self._session("payment") as money:
            completed = orders.execute(select(Order.total, Order.request).where(Order.status == Status.COMPLETED)).all()
            known = set(orders.scalars(select(Order.id)))
            balance = _sum(money.scalars(select(Charge.amount))) - _sum(money.scalars(select(Refund.amount)))
            shelves = stock.scalars(select(Stock)).all()
        wanted = Counter[str]()
        for _, request in completed:
            wanted.update({line.sku: line.quantity for line in NewOrder.model_validate_json(request).lines})
        return {
            "no order lost": known.issuperset(placed),
            "every order terminal": not (self.by_status().keys() - set(ENDED)),
            "stock conserved": all(s.available + s.reserved + s.sold == INITIAL_STOCK[s.sku] for s in shelves),
            "sold = what was completed, nothing left reserved": all(
                s.reserved == 0 and s.sold == wanted[s.sku] for s in shelves
            ),
            "charged − refunded = value of completed orders": balance == _sum(row.total for row in completed),
            "no unsent outbox row": all(c.outbox == 0 and c.blocked == 0 for c in counts),
            "nothing parked": all(c.parked == 0 and c.dead == 0 for c in counts),
            "every saga ended": all(not c.sagas for c in counts),
            "saga log folds to every saga's state": all(
                problem is None for operator in self._operators.values() for _, problem in operator.verify_all()
            ),
        }

    def operator(self, service: str) -> Operator:
        return self._operators[service]

    def _session(self, service: str) -> Session:
        return Session(self._databases[service].store.engine)


def _sum(amounts: Iterable[Decimal | None]) -> Decimal:
    return sum((amount for amount in amounts if amount is not None), Decimal())


def _seconds(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
