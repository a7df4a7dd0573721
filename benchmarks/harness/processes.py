"""The contenders as processes of the operating system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.process import Guard

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 30.0
LOG_TAIL = 25


class WorkerEnded(RuntimeError):
    """A process ended before it was told to; the message ends with its log."""


class Worker:
    """One process, its output in a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        descriptors: Sequence[int] = (),
    ) -> None:
        """``descriptors`` stay open in the process."""
        self.name = name
        self._log = folder / f"{name}.log"
        self._file = self._log.open("wb")
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=descriptors,
        )
        Guard.get().tell("watch", self.pid)  # it must not outlive this program, however that ends

    @property
    def pid(self) -> int:
        return self._process.pid

    def check_alive(self) -> None:
        if (status := self._process.poll()) is not None:
            raise WorkerEnded(f"{self.name} ended with status {status}:\n{self._tail()}")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):  # its workers, if it has any, are of its session
            os.killpg(self.pid, signal.SIGKILL)
        Guard.get().tell("forget", self.pid)
        self._file.close()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_TAIL:])


@contextmanager
def running(*workers: Worker) -> Generator[tuple[Worker, ...]]:
    """Stop them at the end of the block."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def service_command(target: str, *roles: str) -> list[str]:
    """A kafkasaga service, started as its users start it."""
    return [sys.executable, "-m", "kafkasaga", "run", target, *(part for role in roles for part in ("--role", role))]


def service_environment(url: str, bootstrap_servers: str, **more: str) -> dict[str, str]:
    return {
        "KAFKASAGA_DATABASE_URL": url,
        "KAFKASAGA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "KAFKASAGA_LOG_LEVEL": "WARNING",
        **more,
    }


def ceiling_command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.ceiling.{module}", *arguments]
