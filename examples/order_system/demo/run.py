"""The course of a demo: start, order, wait, check, tell."""

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from rich.console import Console

from kafkasaga import KafkasagaError

from .chaos import Chaos
from .check import Check
from .customers import Customers, FrontError
from .report import Facts, OrderProgress, show, write_json
from .seed import planned_orders
from .stop import Stop
from .system import ServiceEnded, System, running_system

LOOK_SECONDS = 0.1
"""Between looks at the orders' database."""
QUIET_SECONDS = 30.0
"""For the last messages to arrive, after the last order has ended."""


class TookTooLong(RuntimeError):
    """The time limit was reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What can be chosen."""

    orders: int = 200
    seed: int = 1
    chaos: bool = False
    bootstrap_servers: str | None = None
    """A real Kafka; by default the embedded broker."""
    database_url: str | None = None
    """PostgreSQL; by default SQLite files."""
    json_file: Path | None = None
    kills_each: int = 3
    """With chaos: how often each service is killed."""
    time_limit: float = 300.0
    """Seconds for all orders to come to their end."""


def run(options: DemoOptions) -> int:
    """Run the demo; returns the exit status: 0 if every invariant holds."""
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="kafkasaga-demo-"))
    try:
        with Stop() as stop:
            facts = _course(options, console, folder, stop)
    except KeyboardInterrupt:
        console.print("stopped")
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    except (ServiceEnded, TookTooLong, FrontError, KafkasagaError) as error:
        console.print(f"[red]failed:[/] {error}\nThe services' logs are in {folder}", soft_wrap=True)
        return 1
    if options.json_file is not None:
        write_json(facts, options.json_file)
    if not facts.good:
        console.print(f"[red]failed:[/] an invariant does not hold. Databases and logs are in {folder}", soft_wrap=True)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _course(options: DemoOptions, console: Console, folder: Path, stop: Stop) -> Facts:
    began = time.monotonic()
    console.print("starting a broker, five databases and five services …")
    with running_system(options.bootstrap_servers, options.database_url, folder) as system:
        check = Check(system.databases)
        customers = Customers(system.front, run_id=uuid4().hex)
        chaos = Chaos(system.processes, options.kills_each if options.chaos else 0, options.seed)
        with OrderProgress(console, options.orders) as progress:
            course = _Course(options, system, check, customers, chaos, progress, stop)
            ordering, late = time.monotonic(), None
            try:
                seconds = asyncio.run(course.all_orders())
            except TookTooLong as reached:
                seconds, late = time.monotonic() - ordering, reached
            finally:
                chaos.stop()
            stop.check()
            course.wait_until_quiet()
        facts = Facts.gather(check, customers, seconds=seconds, kills={p.name: p.kills for p in system.processes})
        facts.invariants |= verdict(late, placed=len(customers.placed), planned=options.orders)
        if not options.chaos:
            # Under chaos an answer may come after its deadline, and an order be cancelled that was planned to be fine.
            facts.invariants["outcomes as planned"] = facts.outcomes == course.planned
        facts.duration_s = round(time.monotonic() - began, 1)
        show(console, facts, check, customers)
        if late is not None:
            console.print(f"[red]{late}[/]")
            for line in missing(check.under_way(customers.placed), len(customers.placed), options.orders):
                console.print(line, soft_wrap=True)
        return facts


def verdict(late: TookTooLong | None, *, placed: int, planned: int) -> dict[str, bool]:
    """What holds of the run as a whole. Orders that were never placed break no other invariant."""
    return {"every order placed, and ended in time": late is None and placed == planned}


def missing(under_way: Mapping[UUID, str], placed: int, planned: int) -> Iterator[str]:
    """Which orders did not come to their end, and how far each came."""
    if placed < planned:
        yield f"{planned - placed} of {planned} orders were not placed"
    for order_id, status in sorted(under_way.items(), key=lambda item: (item[1], str(item[0]))):
        yield f"order {order_id} did not end: {status}"


class _Course:
    """All orders, from the first to the last."""

    def __init__(
        self,
        options: DemoOptions,
        system: System,
        check: Check,
        customers: Customers,
        chaos: Chaos,
        progress: OrderProgress,
        stop: Stop,
    ) -> None:
        self._options, self._system, self._check = options, system, check
        self._customers, self._chaos, self._progress, self._stop = customers, chaos, progress, stop
        self._limit = time.monotonic() + options.time_limit
        self._before = check.by_status()
        self._orders = planned_orders(options.orders, options.seed)

    @property
    def planned(self) -> dict[str, int]:
        """How many orders are to end in each status, if every service answers in time."""
        return Counter(str(order.expected) for order in self._orders)

    async def all_orders(self) -> float:
        """Place them and wait for their end; returns the seconds from the second order on."""
        first, *rest = self._orders
        # The first order goes through all services: once it has ended, all of them are there.
        await self._watched(self._customers.place([first], first=0, spread=0.0), orders=1)
        began = time.monotonic()
        if self._options.chaos:
            self._chaos.start()
        if rest:
            placing = self._customers.place(rest, first=1, spread=self._chaos.seconds)
            await self._watched(placing, orders=self._options.orders)
        return time.monotonic() - began

    def wait_until_quiet(self) -> None:
        """The last message may still be on its way when the last order has ended. What stays, the invariants tell."""
        limit = time.monotonic() + QUIET_SECONDS
        while not self._check.quiet() and time.monotonic() < limit:
            time.sleep(LOOK_SECONDS)
            self._system.check_alive()

    async def _watched(self, placing: Coroutine[Any, Any, None], *, orders: int) -> None:
        """Place orders and wait until as many have ended, with an eye on the services."""
        task = asyncio.create_task(placing)
        try:
            while not (task.done() and self._all_ended(orders) and self._chaos.over):
                if task.done():
                    task.result()  # raises what went wrong
                await asyncio.sleep(LOOK_SECONDS)
                self._look()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _all_ended(self, orders: int) -> bool:
        placed = self._customers.placed
        return len(placed) == orders == len(self._check.ended(placed))

    def _look(self) -> None:
        self._stop.check()
        self._system.check_alive()
        now = self._check.by_status() - self._before
        self._progress.show(len(self._customers.placed), now)
        if time.monotonic() > self._limit:
            found = ", ".join(f"{count} {status}" for status, count in now.items())
            raise TookTooLong(f"the time limit of {self._options.time_limit:.0f} seconds was reached; orders: {found}")
