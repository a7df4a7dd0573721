"""The demo, end to end: five processes, every invariant checked."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from kafkasaga.examples.order_system.demo import DemoOptions, run
from kafkasaga.examples.order_system.demo.seed import make_business_tables
from tests.support import KafkaServer, PostgresServer

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def _keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo leaves behind when it fails goes where pytest cleans up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def facts(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@pytest.mark.embedded
@pytest.mark.sqlite
def test_every_kind_of_order_ends_as_it_should(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "facts.json"
    assert run(DemoOptions(orders=20, json_file=file, time_limit=120)) == 0
    told = facts(file)
    assert told["outcomes"] == {"completed": 16, "cancelled": 3, "rejected": 1}
    assert set(told["invariants"].values()) == {True}
    assert told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]
    assert told["sagas_per_second"] > 0
    assert told["kills"] == 0
    shown = capsys.readouterr().out
    for topic in ("customer.validate.request", "payment.refund", "inventory.release", "order.cancelled"):
        assert topic in shown


@pytest.mark.embedded
@pytest.mark.sqlite
def test_killed_services_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    assert run(DemoOptions(orders=20, seed=7, chaos=True, kills_each=1, json_file=file, time_limit=150)) == 0
    told = facts(file)
    assert told["kills"] == 5
    assert sum(told["outcomes"].values()) == 20
    assert set(told["invariants"].values()) == {True}


@pytest.mark.parametrize(
    ("name", "chaos"),
    [
        pytest.param("shop", False, id="new databases"),
        pytest.param("shop", True, id="the same ones again, with chaos"),
        pytest.param("branch", False, id="other databases, on topics that hold earlier runs"),
    ],
)
def test_it_runs_on_kafka_and_postgresql(
    tmp_path: Path, kafka: KafkaServer, postgres: PostgresServer, name: str, *, chaos: bool
) -> None:
    file = tmp_path / "facts.json"
    options = DemoOptions(
        orders=10,
        chaos=chaos,
        kills_each=1,
        bootstrap_servers=kafka.bootstrap_servers,
        database_url=postgres.url(name),
        json_file=file,
        time_limit=150,
    )
    assert run(options) == 0
    assert sum(facts(file)["outcomes"].values()) == 10


def test_a_database_that_is_not_postgresql_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(DemoOptions(database_url="sqlite:///shop.sqlite")) == 1
    assert "postgresql+psycopg://" in capsys.readouterr().out


def test_a_service_that_ends_by_itself_ends_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kafkasaga.examples.order_system.demo.system.PACKAGE", "kafkasaga.examples.no_such_system")
    assert run(DemoOptions(orders=5, time_limit=60)) == 1
    assert "service ended with status" in capsys.readouterr().out


@pytest.mark.embedded
@pytest.mark.sqlite
@pytest.mark.parametrize("chaos", [False, True])
def test_a_run_that_takes_too_long_fails_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], chaos: bool
) -> None:
    file = tmp_path / "facts.json"
    assert run(DemoOptions(orders=3, chaos=chaos, json_file=file, time_limit=0.0)) == 1
    shown = capsys.readouterr().out
    assert "the time limit of 0 seconds was reached" in shown
    assert "orders were not placed" in shown
    assert facts(file)["invariants"]["every order placed, and ended in time"] is False


@pytest.mark.embedded
@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("number", "started"),
    [(signal.SIGINT, ""), (signal.SIGTERM, ""), (signal.SIGTERM, "trap '' INT; ")],
    ids=["ctrl-c", "terminated", "terminated in the background of a script"],
)
def test_a_signal_stops_everything_and_leaves_nothing(tmp_path: Path, number: signal.Signals, started: str) -> None:
    command = ["sh", "-c", f'{started}exec "$0" "$@"', sys.executable, "-m", "kafkasaga", "demo", "--orders", "100000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as demo:
        try:
            deadline = time.monotonic() + 30
            while not list(tmp_path.glob("*/order.sqlite-wal")) and time.monotonic() < deadline:
                time.sleep(0.05)
            demo.send_signal(number)
            shown, _ = demo.communicate(timeout=60)
        finally:
            demo.kill()
    assert demo.returncode == 130
    assert shown.strip().endswith("stopped")
    assert not list(tmp_path.iterdir())


@pytest.mark.embedded
@pytest.mark.sqlite
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_python_drops_while_the_demo_starts_ends_it_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """What a signal's handler raises in the callback of a weak reference is printed, and dropped."""

    def make_tables(name: str, engine: Engine) -> None:
        make_business_tables(name, engine)
        if name == "orchestrator":
            lives = {1}
            watcher = weakref.ref(lives, lambda _: signal.raise_signal(number))
            del lives
            assert watcher() is None

    monkeypatch.setattr("kafkasaga.examples.order_system.demo.databases.make_business_tables", make_tables)
    assert run(DemoOptions(orders=100_000, time_limit=60)) == 130
    assert capsys.readouterr().out.strip().endswith("stopped")


def services_of(demo: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = (line.split() for line in listed.splitlines())
    return [int(pid) for pid, parent in pairs if int(parent) == demo]


def runs(pid: int) -> bool:
    """Whether a process is there, and not only its exit status."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.strip().startswith("Z")


@pytest.mark.embedded
@pytest.mark.sqlite
def test_a_demo_that_is_killed_leaves_no_service_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kafkasaga", "demo", "--orders", "100000"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as demo:
        try:
            deadline = time.monotonic() + 90
            while len(services := services_of(demo.pid)) < 5 and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            demo.kill()
    try:
        assert len(services) == 5
        deadline = time.monotonic() + 90
        while (left := [pid for pid in services if runs(pid)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
    finally:
        for pid in filter(runs, services):
            os.kill(pid, signal.SIGKILL)
