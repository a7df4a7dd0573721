"""The customers of the Restate shop: they place orders over HTTP and wait for the answer.

python -m benchmarks.peers.restate_customers DESCRIPTOR INGRESS_URL
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial

import aiohttp

from benchmarks.peers.jobs import End, jobs, place_all


async def place(session: aiohttp.ClientSession, body: bytes, sent: float) -> End:
    headers = {"content-type": "application/json", "idempotency-key": json.loads(body)["order_id"]}
    async with session.post("/shop/place", data=body, headers=headers) as response:
        response.raise_for_status()
        answer = await response.json()
    return End(answer["status"], sent, answer["decided"], time.monotonic())


async def main() -> None:
    descriptor, url = int(sys.argv[1]), sys.argv[2]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:
        for job, pipe in jobs(descriptor):
            pipe.send(await place_all(job, partial(place, session)))


if __name__ == "__main__":
    asyncio.run(main())
