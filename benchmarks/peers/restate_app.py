"""Place-order as a Restate handler, an ASGI application."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import restate

from benchmarks.peers import steps
from benchmarks.peers.pooled import Order, execute

shop = restate.Service("shop")


async def run(ctx: restate.Context, name: str, statement: str, order: Order) -> None:
    async def action() -> None:
        await execute(statement, order)

    await ctx.run_typed(name, action)


@shop.handler()
async def place(ctx: restate.Context, body: dict[str, Any]) -> dict[str, Any]:
    """The pattern of Restate's guide: compensations are collected on the way, and run in reverse."""
    order = steps.parameters(body)
    compensations: list[Callable[[], Awaitable[None]]] = []

    async def charge() -> tuple[bool, float]:
        return await execute(steps.CHARGE, order) == 1, time.monotonic()

    await run(ctx, "note created", steps.NOTE_CREATED, order)
    compensations.append(lambda: run(ctx, "release", steps.RELEASE, order))
    await run(ctx, "reserve", steps.RESERVE, order)
    paid, decided = await ctx.run_typed("charge", charge)
    if paid:
        await run(ctx, "complete", steps.COMPLETE, order)
        await run(ctx, "sell", steps.SELL, order)
        return {"status": "COMPLETED", "decided": decided}
    for compensate in reversed(compensations):
        await compensate()
    await run(ctx, "cancel", steps.CANCEL, order)
    return {"status": "CANCELLED", "decided": decided}


app = restate.app(services=[shop])
