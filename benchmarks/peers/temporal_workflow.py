"""Place-order as a Temporal workflow, and its activities."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow

from benchmarks.peers import steps
from benchmarks.peers.pooled import Order, execute

LONGEST = timedelta(seconds=30)
"""Of one try of a step, after which it is tried again."""

Step = Callable[[Order], Awaitable[Any]]


def step(name: str, statement: str) -> Step:
    """An activity that runs one statement."""

    async def run(order: Order) -> None:
        await execute(statement, order)

    named: Step = activity.defn(name=name)(run)
    return named


note_created = step("note_created", steps.NOTE_CREATED)
reserve = step("reserve", steps.RESERVE)
release = step("release", steps.RELEASE)
sell = step("sell", steps.SELL)
complete = step("complete", steps.COMPLETE)
cancel = step("cancel", steps.CANCEL)


@activity.defn
async def charge(order: Order) -> tuple[bool, float]:
    return await execute(steps.CHARGE, order) == 1, time.monotonic()


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
