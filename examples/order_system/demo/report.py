"""What the demo shows: progress while it runs, and the account at the end."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kafkasaga.examples.order_system.order import ENDED, Status

from .check import Check
from .customers import Customers
from .story import SENT, story

TITLES = {"validate-order": "Order", "place-order": "Orchestrator"}


class OrderProgress:
    """A bar of orders that have ended, with their outcomes."""

    def __init__(self, console: Console, orders: int) -> None:
        columns = (BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("orders", total=orders, note="waiting for the services")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, placed: int, by_status: Mapping[Status, int]) -> None:
        ended = {status: by_status.get(status, 0) for status in ENDED}
        note = f"{placed} placed, " + ", ".join(f"{count} {status}" for status, count in ended.items())
        self._bar.update(self._task, completed=sum(ended.values()), note=note)


@dataclass(slots=True, kw_only=True)
class Facts:
    """The account of a run; also what ``--json`` writes."""

    outcomes: dict[str, int]
    reasons: dict[str, int]
    invariants: dict[str, bool]
    latency_ms: dict[str, float]
    """From the first attempt to place an order until the Order service knew its end."""
    sagas_per_second: float
    """Both sagas of an order count; a rejected one has only the first."""
    orders_per_second: float
    kills: int
    kills_by_service: dict[str, int]
    requests_repeated: int
    duration_s: float = 0.0

    @property
    def good(self) -> bool:
        return all(self.invariants.values())

    @classmethod
    def gather(cls, check: Check, customers: Customers, *, seconds: float, kills: dict[str, int]) -> Self:
        """``seconds`` is the time that all orders but the first one took; that one waited for the services to start."""
        placed = customers.placed
        ended = check.ended(placed)
        first = min(placed, key=placed.__getitem__, default=None)
        timed = [order for order in ended if order.order_id != first] or ended
        latencies = sorted((order.at - placed[order.order_id]) * 1000 for order in timed)
        sagas = sum(1 if order.status is Status.REJECTED else 2 for order in timed)
        return cls(
            outcomes=dict(Counter(str(order.status) for order in ended)),
            reasons=dict(sorted(Counter(order.kind for order in ended).items())),
            invariants=check.invariants(placed),
            latency_ms={name: round(_quantile(latencies, q), 1) for name, q in (("p50", 0.5), ("p99", 0.99))},
            sagas_per_second=round(sagas / seconds, 1),
            orders_per_second=round(len(timed) / seconds, 1),
            kills=sum(kills.values()),
            kills_by_service=kills,
            requests_repeated=customers.retries,
        )


def _quantile(values: list[float], q: float) -> float:
    return values[min(int(len(values) * q), len(values) - 1)] if values else 0.0


def write_json(facts: Facts, file: Path) -> None:
    file.write_text(json.dumps(asdict(facts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def show(console: Console, facts: Facts, check: Check, customers: Customers) -> None:
    """Stories, outcomes, invariants, figures."""
    # Of the cancelled ones the first in the alphabet: "card declined" has more to undo than "out of stock".
    ended = sorted(check.ended(customers.placed), key=lambda order: order.kind, reverse=True)
    examples = {order.status: order.order_id for order in ended}
    for status, order_id in examples.items():
        console.print(_story_table(status, order_id, check))
    console.print(EMPTY, soft_wrap=True)
    console.print(_outcome_table(facts))
    console.print(_invariant_table(facts))
    latency, speed = facts.latency_ms, f"{facts.orders_per_second:.0f} orders/s, {facts.sagas_per_second:.0f} sagas/s"
    console.print(
        f"latency p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms · {speed} · {facts.duration_s:.1f} s in all"
    )
    console.print(LATENCY, soft_wrap=True)
    if facts.kills:
        each = ", ".join(f"{name} {count}" for name, count in facts.kills_by_service.items())
        console.print(f"killed {facts.kills} times ({each}); {facts.requests_repeated} requests had to be repeated")
    console.print(NEXT, soft_wrap=True, highlight=False)


EMPTY = "(empty): there was nothing to undo, so the library answered, and the service's function was not called."
LATENCY = "p50: half of the orders had ended so long after their request; the others were under way at the same time"
NEXT = """
what next
  docs/tutorial/first-saga.md         build a saga of your own, in fifteen minutes
  kafkasaga demo --chaos              the same, while every service is killed again and again
  kafkasaga saga list, kafkasaga saga show
                                      what your own services' sagas do (the demo's databases are deleted)"""


def _story_table(status: Status, order_id: UUID, check: Check) -> Table:
    table = Table(title=f"an order that was {status}: {order_id}", title_justify="left", box=None, padding=(0, 1))
    table.add_column("ms", justify="right")
    for name in ("saga of", "", "topic", ""):
        table.add_column(name, no_wrap=name == "topic")
    lines = story(check, order_id)
    for line in lines:
        style = "cyan" if line.arrow == SENT else "green"
        table.add_row(
            _ms(lines[0].at, line.at), TITLES[line.saga], line.arrow, f"[{style}]{line.topic}[/]", line.remark
        )
    return table


def _ms(since: datetime, at: datetime) -> str:
    return f"{(at - since).total_seconds() * 1000:.0f}"


def _outcome_table(facts: Facts) -> Table:
    table = Table("outcome", "orders", title="outcomes", title_justify="left", box=None, padding=(0, 2))
    for reason, count in facts.reasons.items():
        table.add_row(reason, str(count))
    return table


def _invariant_table(facts: Facts) -> Table:
    title = "invariants, checked in the services' databases"
    table = Table("", "holds", title=title, title_justify="left", box=None, padding=(0, 2))
    for name, holds in facts.invariants.items():
        table.add_row(name, "[green]yes[/]" if holds else "[bold red]NO[/]")
    return table
