"""The worker of the Temporal shop, in one process with its customers; SHOP_DSN names the database.

python -m benchmarks.peers.temporal_app DESCRIPTOR ADDRESS NAME_OF_THE_RUN KIND_OF_ACTIVITIES
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.worker import PollerBehaviorAutoscaling, Worker

from benchmarks.peers import steps
from benchmarks.peers.jobs import End, jobs, place_all
from benchmarks.peers.pooled import pool
from benchmarks.peers.temporal_workflow import ACTIVITIES, WORKFLOWS

GIVEN_UP = timedelta(minutes=15)
"""Nothing of a run that failed is left on the server for longer."""


def customer(client: Client, name: str, kind: str) -> Callable[[bytes, float], Awaitable[End]]:
    """Places one order and waits for its end; one that is placed twice runs once."""

    async def place(body: bytes, sent: float) -> End:
        order = steps.parameters(json.loads(body))
        status, decided = await client.execute_workflow(
            WORKFLOWS[kind].run,
            order,
            id=f"{name}/{order['order']}",
            task_queue=name,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            execution_timeout=GIVEN_UP,
            request_eager_start=True,
        )
        return End(status, sent, decided, time.monotonic())

    return place


async def main() -> None:
    descriptor, address, name, kind = int(sys.argv[1]), *sys.argv[2:]
    client = await Client.connect(address)
    polling = PollerBehaviorAutoscaling()
    worker = Worker(
        client,
        task_queue=name,
        workflows=list(WORKFLOWS.values()),
        activities=ACTIVITIES,
        workflow_task_poller_behavior=polling,
        activity_task_poller_behavior=polling,
        no_remote_activities=kind == "local activities",
    )
    async with pool, worker:
        orders = jobs(descriptor)
        while (given := await asyncio.to_thread(next, orders, None)) is not None:
            job, pipe = given
            pipe.send(await place_all(job, customer(client, name, kind)))


if __name__ == "__main__":
    asyncio.run(main())
