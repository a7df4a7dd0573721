"""Messages that end their process, and handlers that hang, in real processes (A21)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from kafkasaga import Message, Outbox
from kafkasaga.runtime.parking import DEATHS
from kafkasaga.runtime.watchdog import EXIT_STATUS
from kafkasaga.stores import create_store
from kafkasaga.stores.migrations import upgrade
from kafkasaga.testing import EmbeddedKafka

PROGRAM = """
import os, time
from kafkasaga import Message, Service

class Work(Message, topic="work", key="id"):
    id: str

service = Service("worker")

@service.handler
def handle(command: Work) -> None:
    if command.id == "kills":
        os._exit(9)
    if command.id == "hangs":
        while True:
            time.sleep(0.05)
    with open(os.environ["HANDLED"], "a") as file:
        print(command.id, file=file)
"""


class Work(Message, topic="work", key="id"):
    id: str


@pytest.mark.parametrize(("deadly", "status"), [("kills", 9), ("hangs", EXIT_STATUS)])
def test_a21_the_process_dies_a_few_times_and_the_partition_goes_on(tmp_path: Path, deadly: str, status: int) -> None:
    (tmp_path / "worker.py").write_text(PROGRAM)
    url, handled, log = f"sqlite:///{tmp_path / 'db.sqlite'}", tmp_path / "handled", tmp_path / "log"
    handled.touch()
    outbox = Outbox(source="test")
    store = create_store(url, outbox)
    upgrade(store.engine, store.tables)
    with Session(store.engine) as session, session.begin():
        outbox.publish(session, Work(id="before"), Work(id=deadly), Work(id="after"))
    store.close()
    with EmbeddedKafka() as broker:
        broker.create_topics(["work"])
        environment = os.environ | {
            "KAFKASAGA_DATABASE_URL": url,
            "KAFKASAGA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "KAFKASAGA_KAFKA": json.dumps(broker.kafka),
            "KAFKASAGA_HANDLER_TIMEOUT": "0.5",
            "HANDLED": str(handled),
        }
        statuses = [_run(tmp_path, environment, log, url, handled) for _ in range(DEATHS + 1)]
        assert statuses[:DEATHS] == [status] * DEATHS, log.read_text()
        while statuses[-1] is not None:
            assert len(statuses) <= DEATHS + 3, log.read_text()
            statuses.append(_run(tmp_path, environment, log, url, handled))
    if deadly == "hangs":
        assert "worker.handle" in log.read_text()


def _run(folder: Path, environment: dict[str, str], log: Path, url: str, handled: Path) -> int | None:
    """Run the service until it dies (its exit status), or has set a message aside and handled the others (None)."""
    command = [sys.executable, "-m", "kafkasaga", "run", "worker:service"]
    with log.open("a") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        engine = create_engine(url)
        try:
            end = time.monotonic() + 60
            while process.poll() is None:
                assert time.monotonic() < end, log.read_text()
                with engine.connect() as connection:
                    dead = connection.scalar(text("SELECT count(*) FROM parked_message WHERE status = 'dead'"))
                if dead == 1 and {"before", "after"} <= set(handled.read_text().split()):
                    process.terminate()
                    process.wait(30)
                    return None
                time.sleep(0.05)
            return process.returncode
        finally:
            engine.dispose()
            if process.poll() is None:
                process.kill()
                process.wait()
