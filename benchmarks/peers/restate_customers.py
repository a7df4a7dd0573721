"""The customers of the Restate shop: they place orders over HTTP and wait for the answer.

python -m benchmarks.peers.restate_customers DESCRIPTOR INGRESS_URL
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator

import aiohttp

from benchmarks.peers.jobs import End, Job, due_times, jobs


async def place(session: aiohttp.ClientSession, body: bytes, sent: float) -> End:
    headers = {"content-type": "application/json", "idempotency-key": json.loads(body)["order_id"]}
    async with session.post("/shop/place", data=body, headers=headers) as response:
        response.raise_for_status()
        answer = await response.json()
    return End(answer["status"], sent, answer["decided"], time.monotonic())


async def turns(job: Job) -> AsyncIterator[float]:
    """When each order is to be placed: waits until then."""
    if job.rate:
        for due in due_times(job):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            yield due
    else:
        for _ in job.bodies:
            yield 0.0


async def work(job: Job, session: aiohttp.ClientSession) -> list[End]:
    places = asyncio.Semaphore(job.in_flight)

    async def one(body: bytes, due: float) -> End:
        async with places:
            return await place(session, body, due or time.monotonic())

    remaining = iter(job.bodies)
    tasks = [asyncio.create_task(one(next(remaining), due)) async for due in turns(job)]
    return await asyncio.gather(*tasks)


async def main() -> None:
    descriptor, url = int(sys.argv[1]), sys.argv[2]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:
        for job, pipe in jobs(descriptor):
            pipe.send(await work(job, session))


if __name__ == "__main__":
    asyncio.run(main())
