"""One process of a service, which is killed, frozen and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.faults.real.proxy import Proxy
from tests.support.process import Guard

ROOT = Path(__file__).resolve().parents[3]
STOP_SECONDS = 45.0
DUMP_SECONDS = 2.0
"""For a process to write where its threads are."""
LOG_TAIL = 30
DUMP_TAIL = 150


class Milestone(NamedTuple):
    """What a process has noted."""

    at: float
    """On the system's monotonic clock."""
    pid: int
    cpu: float
    """Seconds that the process had needed by then."""
    what: str


@dataclass
class Replica:
    """A process, its two ways over the network, and what is known of its lives."""

    name: str
    service: str
    module: Sequence[str]
    """What follows ``python -m``."""
    environment: Mapping[str, str]
    folder: Path
    kafka: Proxy
    postgres: Proxy
    kills: int = 0
    stuck: list[str] = field(default_factory=list[str])
    """Where its threads were when it did not stop in time."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def _orders(self) -> Path:
        return self.folder / f"{self.name}.orders"

    @property
    def _milestones(self) -> Path:
        return self.folder / f"{self.name}.milestones"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self._orders.unlink(missing_ok=True)
        own = {"MORTAL_ORDERS": str(self._orders), "MORTAL_LOG": str(self._milestones)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.real.mortal", *self.module],
                cwd=ROOT,
                env={**os.environ, **self.environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        Guard.get().tell("watch", self.pid)

    def kill(self) -> float:
        """SIGKILL; returns the moment."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._buried()
        return time.monotonic()

    def order_death(self, point: str, calls: int) -> None:
        """Let it die when it comes to ``point`` for the ``calls``-th time from now on."""
        draft = self._orders.with_suffix(".draft")
        draft.write_text(json.dumps({"point": point, "calls": calls}))
        draft.rename(self._orders)

    def died(self) -> float | None:
        """When it died as ordered; None while it lives."""
        if self._process is None or self._process.poll() is None:
            return None
        pid = self.pid
        moments = [one.at for one in self.milestones() if one.pid == pid and one.what.startswith("died ")]
        if moments:
            self._buried()
            return moments[0]
        return None

    def ended_by_itself(self) -> str | None:
        """If it has ended and nobody has killed it: how, with the end of its log."""
        if self._process is None or (status := self._process.poll()) is None or self.died() is not None:
            return None
        return f"{self.name} ended with status {status}:\n{self.log_tail()}"

    @property
    def killed(self) -> bool:
        """Whether SIGKILL was what its process ended by."""
        return self._process is not None and self._process.poll() == -signal.SIGKILL

    @property
    def frozen(self) -> bool:
        return stands_still(self.pid)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def ask_to_stop(self) -> None:
        if self.alive:
            os.kill(self.pid, signal.SIGTERM)

    def stop(self) -> int | None:
        """Wait for its end; returns its exit status, 0 also for a web server, which ends itself by the same signal."""
        if self._process is None:
            return None
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGUSR1)
            time.sleep(DUMP_SECONDS)
            self.stuck.append(f"{self.name} did not stop within {STOP_SECONDS:.0f} s:\n{self.log_tail(DUMP_TAIL)}")
            self._process.kill()
            status = self._process.wait()
        Guard.get().tell("forget", self.pid)
        return 0 if status == -signal.SIGTERM else status

    def milestones(self) -> list[Milestone]:
        """Everything its processes have noted."""
        if not self._milestones.exists():
            return []
        lines = (line.split(" ", 3) for line in self._milestones.read_text().splitlines())
        return [Milestone(float(at), int(pid), float(cpu), what) for at, pid, cpu, what in lines]

    def owners(self) -> set[str]:
        """The names under which it has owned partitions, in all its lives."""
        return {one.what.removeprefix("owner ") for one in self.milestones() if one.what.startswith("owner ")}

    def log_tail(self, lines: int = LOG_TAIL) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _buried(self) -> None:
        self.kills += 1
        Guard.get().tell("forget", self.pid)


def stands_still(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP); the letter behind its name in parentheses says so."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
