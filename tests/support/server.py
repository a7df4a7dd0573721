"""What every throw-away server has: a process on data of its own, to be killed, frozen and restarted."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from tests.support.process import ServerProcess, TemporaryDirectory


class Server(ABC):
    """A server that is created when it is first needed, and gone with its data at the end."""

    def __init__(self, *, ready_within: float) -> None:
        self._ready_within = ready_within
        self._directory: TemporaryDirectory | None = None
        self._process: ServerProcess | None = None

    @abstractmethod
    def _create(self) -> ServerProcess:
        """Make its directory and its data; what is to be started on them."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether it answers."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process(self) -> ServerProcess:
        if self._process is None:
            self._process = self._create()
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        """Start the server; the first time, create its data."""
        self.process.start(self._ready, within=self._ready_within)

    def stop(self) -> None:
        """Stop in good order, disconnecting everybody; the data stays."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL it and all that it has started."""
        self.process.kill()

    def pause(self) -> None:
        """Freeze it and all that it has started: connections stay open and are not answered."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def restart(self) -> None:
        """Stop (unless it is dead already) and start again, on the same port and data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the server and delete its data."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._directory is not None:
            self._directory.remove()
            self._directory = None
