"""The services as processes of the operating system: started, killed, started again, stopped."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

LEASH = f"{__package__}.leash"
STOP_SECONDS = 15.0
"""For a service to finish what it has begun; then it is killed."""


@dataclass
class ServiceProcess:
    """One service: ``python -m`` something. Its output goes to a file, one for all its lives; it ends with the demo."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log_file: Path
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        self._log = self._log or self.log_file.open("ab")
        self._let_go()
        interpreter, module = self.command[:2], self.command[2:]
        # A session of its own: Ctrl-C is for the demo, which then stops its services in good order.
        self._process = subprocess.Popen(  # noqa: S603 (the demo wrote the command itself)
            [*interpreter, LEASH, *module],
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,  # nothing is written: that it ends tells the service that the demo has ended
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def kill_and_restart(self) -> None:
        """SIGKILL: no chance to finish anything. Then start it again at once, as a platform would."""
        with self._guard:
            assert self._process is not None
            self._process.kill()
            self._process.wait()
            self.kills += 1
            self.start()

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    @property
    def exit_code(self) -> int | None:
        """The status with which it ended by itself; None while it runs."""
        with self._guard:
            return None if self._process is None else self._process.poll()

    def ask_to_stop(self) -> None:
        with self._guard:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Wait for it to end; kill it if it takes too long."""
        with self._guard:
            if self._process is not None:
                try:
                    self._process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
                self._let_go()
                self._process = None
            if self._log is not None:
                self._log.close()
                self._log = None


def stop_all(processes: Sequence[ServiceProcess]) -> None:
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.stop()


def run_command(target: str) -> list[str]:
    """``kafkasaga run <target>``, in this interpreter."""
    return [sys.executable, "-m", "kafkasaga", "run", target]


def web_command(factory: str, port: int) -> list[str]:
    """The web server of an application, in this interpreter."""
    serve = ["-m", "uvicorn", "--factory", factory, "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, *serve, "--no-access-log", "--timeout-graceful-shutdown", "5"]
