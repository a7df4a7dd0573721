"""Place-order as a DBOS workflow: one process, which also plays the customers.

python -m benchmarks.peers.dbos_app DESCRIPTOR DSN
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from dbos import DBOS, SetWorkflowID

from benchmarks.peers import steps
from benchmarks.peers.jobs import End, Job, due_times, jobs


class Local(threading.local):
    """What each thread has of its own."""

    connection: psycopg.Connection | None = None


local = Local()


def execute(statement: str, order: dict[str, str]) -> int:
    """Run one statement in a transaction of its own, on this thread's connection; how many rows it touched."""
    if local.connection is None:
        local.connection = psycopg.connect(sys.argv[2], autocommit=True, prepare_threshold=0)
    return local.connection.execute(statement, order).rowcount


@DBOS.step()
def note_created(order: dict[str, str]) -> None:
    execute(steps.NOTE_CREATED, order)


@DBOS.step()
def reserve(order: dict[str, str]) -> None:
    execute(steps.RESERVE, order)


@DBOS.step()
def charge(order: dict[str, str]) -> tuple[bool, float]:
    return execute(steps.CHARGE, order) == 1, time.monotonic()


@DBOS.step()
def release(order: dict[str, str]) -> None:
    execute(steps.RELEASE, order)


@DBOS.step()
def sell(order: dict[str, str]) -> None:
    execute(steps.SELL, order)


@DBOS.step()
def complete(order: dict[str, str]) -> None:
    execute(steps.COMPLETE, order)


@DBOS.step()
def cancel(order: dict[str, str]) -> None:
    execute(steps.CANCEL, order)


@DBOS.workflow()
def place_order(body: str) -> tuple[str, float]:
    order = steps.parameters(json.loads(body))
    note_created(order)
    reserve(order)
    paid, decided = charge(order)
    if paid:
        complete(order)
        sell(order)
        return "COMPLETED", decided
    release(order)
    cancel(order)
    return "CANCELLED", decided


def place(body: bytes, sent: float | None = None) -> End:
    sent = time.monotonic() if sent is None else sent
    with SetWorkflowID(json.loads(body)["order_id"]):
        status, decided = place_order(body.decode())
    return End(status, sent, decided, time.monotonic())


def work(job: Job, pool: ThreadPoolExecutor) -> list[End]:
    if not job.rate:
        return list(pool.map(place, job.bodies))
    futures = []
    for body, due in zip(job.bodies, due_times(job), strict=True):
        time.sleep(max(0.0, due - time.monotonic()))
        futures.append(pool.submit(place, body, due))
    return [future.result() for future in futures]


def main() -> None:
    descriptor, dsn = int(sys.argv[1]), sys.argv[2]
    DBOS(config={"name": "shop", "system_database_url": dsn, "log_level": "WARNING"})
    DBOS.launch()
    pools: dict[int, ThreadPoolExecutor] = {}  # kept, because the threads hold the connections
    for job, pipe in jobs(descriptor):
        pipe.send(work(job, pools.setdefault(job.in_flight, ThreadPoolExecutor(job.in_flight))))
    os._exit(0)  # the idle threads would be waited for


if __name__ == "__main__":
    main()
