"""Place-order as a Temporal workflow, and its activities; SHOP_DSN names the database."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from psycopg_pool import AsyncConnectionPool
from temporalio import activity, workflow

from benchmarks.peers import steps

CONNECTIONS = 16
"""At most: more of them wait for one another's commits."""
LONGEST = timedelta(seconds=30)
"""Of one try of a step, after which it is tried again."""

Order = dict[str, Any]
Step = Callable[[Order], Awaitable[Any]]

pool = AsyncConnectionPool(
    os.environ.get("SHOP_DSN", ""),
    min_size=CONNECTIONS,
    max_size=CONNECTIONS,
    kwargs={"autocommit": True, "prepare_threshold": 0},
    open=False,
)


async def execute(statement: str, order: Order) -> int:
    """Run one statement in a transaction of its own; how many rows it touched."""
    async with pool.connection() as connection:
        touched: int = (await connection.execute(statement, order)).rowcount
        return touched


@activity.defn
async def note_created(order: Order) -> None:
    await execute(steps.NOTE_CREATED, order)


@activity.defn
async def reserve(order: Order) -> None:
    await execute(steps.RESERVE, order)


@activity.defn
async def charge(order: Order) -> tuple[bool, float]:
    return await execute(steps.CHARGE, order) == 1, time.monotonic()


@activity.defn
async def release(order: Order) -> None:
    await execute(steps.RELEASE, order)


@activity.defn
async def sell(order: Order) -> None:
    await execute(steps.SELL, order)


@activity.defn
async def complete(order: Order) -> None:
    await execute(steps.COMPLETE, order)


@activity.defn
async def cancel(order: Order) -> None:
    await execute(steps.CANCEL, order)


ACTIVITIES = (note_created, reserve, charge, release, sell, complete, cancel)


async def in_this_process(step: Step, order: Order) -> Any:
    return await workflow.execute_local_activity(step, order, start_to_close_timeout=LONGEST)


async def through_the_server(step: Step, order: Order) -> Any:
    return await workflow.execute_activity(step, order, start_to_close_timeout=LONGEST)


async def place(run: Callable[[Step, Order], Awaitable[Any]], order: Order) -> tuple[str, float]:
    """The pattern of Temporal's saga samples: compensations are collected on the way, and run in reverse."""
    compensations: list[Step] = []
    await run(note_created, order)
    compensations.append(release)
    await run(reserve, order)
    paid, decided = await run(charge, order)
    if paid:
        await run(complete, order)
        await run(sell, order)
        return "COMPLETED", decided
    for compensation in reversed(compensations):
        await run(compensation, order)
    await run(cancel, order)
    return "CANCELLED", decided


@workflow.defn(sandboxed=False)
class PlaceOrderLocally:
    """Every step is a local activity."""

    @workflow.run
    async def run(self, order: Order) -> tuple[str, float]:
        return await place(in_this_process, order)


@workflow.defn(sandboxed=False)
class PlaceOrder:
    """Every step is an activity."""

    @workflow.run
    async def run(self, order: Order) -> tuple[str, float]:
        return await place(through_the_server, order)


WORKFLOWS: dict[str, type[PlaceOrderLocally | PlaceOrder]] = {
    "local activities": PlaceOrderLocally,
    "activities": PlaceOrder,
}
