"""Place-order as a Restate handler, an ASGI application; SHOP_DSN names the database."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import restate
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers import steps

CONNECTIONS = 16
"""At most, in each process: more of them wait for one another's commits."""

shop = restate.Service("shop")
pool = AsyncConnectionPool(
    os.environ.get("SHOP_DSN", ""),
    min_size=CONNECTIONS,
    max_size=CONNECTIONS,
    kwargs={"autocommit": True, "prepare_threshold": 0},
    open=False,
)


async def execute(statement: str, order: dict[str, Any]) -> int:
    """Run one statement in a transaction of its own; how many rows it touched."""
    if pool.closed:  # it needs the event loop, which is there now
        await pool.open()
    async with pool.connection() as connection:
        touched: int = (await connection.execute(statement, order)).rowcount
        return touched


async def run(ctx: restate.Context, name: str, statement: str, order: dict[str, Any]) -> None:
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
