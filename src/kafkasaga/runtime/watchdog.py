"""A handler that hangs ends its process, by name: the platform starts it again, and its partition's neighbours go on.

Python cannot stop a thread from outside, and a thread that hangs inside a transaction holds its locks. A new process
counts the attempts at each message (``suspects``, ``retries``), so one that hangs every time is set aside.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final

import structlog

from kafkasaga.clock import Clock
from kafkasaga.runtime.parking import log_fields
from kafkasaga.runtime.routing import HandlerRoute, Task

log = structlog.get_logger("kafkasaga.watchdog")

EXIT_STATUS: Final = 86
"""The exit status of a process that ended because a handler did not."""
LOOKS: Final = 8
"""How often in a handler's time it is looked at."""


class Watchdog:
    """Knows what each thread is running. ``on_hang`` is called when something has taken too long."""

    def __init__(self, timeout: float, clock: Clock, on_hang: Callable[[], None] | None = None) -> None:
        self._timeout, self._clock = timeout, clock
        self._on_hang = on_hang or _end
        self._running: dict[int, tuple[Task, float]] = {}
        """What each thread runs, and since when."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="kafkasaga-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End, if it was started."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def began(self, task: Task) -> None:
        """The calling thread runs ``task`` from now on."""
        self._running[threading.get_ident()] = task, self._clock.monotonic()

    def ended(self) -> None:
        """The calling thread runs nothing any more."""
        self._running.pop(threading.get_ident(), None)

    def look(self) -> bool:
        """Whether something hangs; then it has been logged."""
        now = self._clock.monotonic()
        running = [(thread, *run) for thread, run in self._running.copy().items()]
        hanging = [(thread, task, now - since) for thread, task, since in running if now - since > self._timeout]
        for thread, task, seconds in hanging:
            frame = _stacks().get(thread)
            log.critical(
                "a handler hangs; the process ends",
                **log_fields(task),
                handler=_name(task),
                seconds=round(seconds, 1),
                stack="".join(traceback.format_stack(frame)) if frame is not None else "",
            )
        return bool(hanging)

    def _watch(self) -> None:
        while not self._clock.wait(self._stopping, min(self._timeout / LOOKS, 5.0)):
            if self.look():
                self._on_hang()
                return


def _name(task: Task) -> str:
    return task.route.handler.name if isinstance(task.route, HandlerRoute) else task.consumer


def _end() -> None:
    sys.stderr.flush()
    os._exit(EXIT_STATUS)


def _stacks() -> dict[int, FrameType]:
    """What every thread is at: the one way to see another thread's stack."""
    return sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
