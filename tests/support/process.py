"""A server process of a test: started, watched, killed, frozen, and cleaned up after."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

from tests.support import guard

POLL_SECONDS = 0.05  # between two attempts to reach a server that is starting
STOP_SECONDS = 30.0  # for an orderly stop, before it is an error
LOG_TAIL = 30  # lines of a server's log in an error message

FIRST_PORT, LAST_PORT = 15_000, 32_000


class ServerError(Exception):
    """A server did not do what a test asked of it; the message ends with its log."""


class UnavailableError(Exception):
    """This machine cannot run the server; the message says what it lacks."""


def free_port() -> int:
    """A loopback port nobody listens on, from below the range that outgoing connections use.

    From inside that range, a client that keeps trying to reach a stopped server is one day given the server's own port
    for its side, connects to itself, and the server cannot be restarted there.
    """
    while True:
        port = random.randrange(FIRST_PORT, LAST_PORT)
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port


class Guard:
    """This process's end of the pipe to `guard.py`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal is for us; the guard sees the pipe end
        )

    @classmethod
    @cache
    def get(cls) -> Self:
        return cls()

    def tell(self, verb: str, argument: object) -> None:
        pipe = self._process.stdin
        if pipe is None:  # pragma: no cover (always a pipe, see above)
            raise AssertionError
        with self._lock:
            pipe.write(f"{verb} {argument}\n")
            pipe.flush()


class TemporaryDirectory:
    """A directory that is removed in the end, also when this process is killed."""

    def __init__(self, prefix: str, owner: str | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        Guard.get().tell("owns", self.path)
        if owner is not None:
            shutil.chown(self.path, owner, owner)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        Guard.get().tell("disowns", self.path)


class ServerProcess:
    """One server: the same command line whenever it is (re)started, its output appended to one log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._stop_signal = stop_signal
        self._user = user
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; `ServerError` when it is not running."""
        return self._running().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], *, within: float) -> None:
        """Start it and return when `ready` says so; it is asked again and again."""
        if self.running:
            raise ServerError(f"{self.name} is running already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C in the terminal stops the tests, which then stop the servers
            )
        Guard.get().tell("watch", self._process.pid)
        try:
            self._wait_until(ready, within)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it in good order; nothing happens when it is not running."""
        if not self.running:
            return
        process = self._running()
        process.send_signal(self._stop_signal)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"{self.name} did not stop within {STOP_SECONDS:.0f} s and was killed") from None
        self._reaped()

    def kill(self) -> None:
        """SIGKILL for it and its workers, as when the machine dies; nothing happens when it is not running."""
        if not self.running:
            return
        process = self._running()
        guard.kill_with_children(process.pid)
        process.wait()
        self._reaped()

    def pause(self) -> None:
        """Freeze it and its workers: connections stay open and are not answered."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)  # first, so that no more workers appear
        self._signal_children(pid, signal.SIGSTOP)

    def resume(self) -> None:
        pid = self.pid
        self._signal_children(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGCONT)

    def error(self, what: str) -> ServerError:
        return ServerError(f"{self.name} {what}; the end of its log:\n{self.log_tail()}")

    def log_tail(self) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:])

    def _wait_until(self, ready: Callable[[], bool], within: float) -> None:
        deadline = time.monotonic() + within
        while not ready():
            if not self.running:
                raise self.error("ended while it was starting")
            if time.monotonic() > deadline:
                raise self.error(f"was not ready within {within:.0f} s")
            time.sleep(POLL_SECONDS)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self.name} is not running")
        return self._process

    def _reaped(self) -> None:
        if self._process is not None:
            Guard.get().tell("forget", self._process.pid)

    @staticmethod
    def _signal_children(pid: int, number: signal.Signals) -> None:
        for child in guard.children_of(pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)
