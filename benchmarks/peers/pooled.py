"""The steps of place-order, for peers that run them in an event loop; SHOP_DSN names the database."""

from __future__ import annotations

import os
from typing import Any

from psycopg_pool import AsyncConnectionPool

CONNECTIONS = 16
"""At most, in each process: more of them wait for one another's commits."""

Order = dict[str, Any]

pool = AsyncConnectionPool(
    os.environ.get("SHOP_DSN", ""),
    min_size=CONNECTIONS,
    max_size=CONNECTIONS,
    kwargs={"autocommit": True, "prepare_threshold": 0},
    open=False,
)


async def execute(statement: str, order: Order) -> int:
    """Run one statement in a transaction of its own; how many rows it touched."""
    if pool.closed:  # it needs the event loop, which is there now
        await pool.open()
    async with pool.connection() as connection:
        touched: int = (await connection.execute(statement, order)).rowcount
        return touched
