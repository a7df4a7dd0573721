"""A peer for tests: each order's statements one after the other, with nothing that would survive a crash.

python -m tests.integration.straight_shop DESCRIPTOR DSN FORGOTTEN
"""

import json
import sys
import time

import psycopg

from benchmarks.peers import steps
from benchmarks.peers.jobs import End, jobs


def place(connection: psycopg.Connection, body: bytes, forgotten: str) -> End:
    """Leaves out one statement, by its name, if there is one of that name."""
    sent, order = time.monotonic(), steps.parameters(json.loads(body))

    def run(name: str) -> int:
        return 0 if name == forgotten else connection.execute(getattr(steps, name), order).rowcount

    run("NOTE_CREATED")
    run("RESERVE")
    paid, decided = run("CHARGE") == 1, time.monotonic()
    for name in ("COMPLETE", "SELL") if paid else ("RELEASE", "CANCEL"):
        run(name)
    return End("COMPLETED" if paid else "CANCELLED", sent, decided, time.monotonic())


def main() -> None:
    descriptor, dsn, forgotten = int(sys.argv[1]), *sys.argv[2:]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for job, pipe in jobs(descriptor):
            pipe.send([place(connection, body, forgotten) for body in job.bodies])


if __name__ == "__main__":
    main()
