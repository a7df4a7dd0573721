"""Ctrl-C and SIGTERM end the demo in good order, wherever it is."""

import asyncio
import signal
from types import FrameType
from typing import Self


class Stop:
    """Within its block both signals raise ``KeyboardInterrupt``, and whoever loops asks ``check`` as well.

    Raising alone is not enough: Python prints and drops what a signal's handler raises while a finalizer or the
    callback of a weak reference runs (``sys.unraisablehook``), and imports are full of those. An event loop is not
    interrupted by the first one: what runs in it looks often, and ends with all its tasks in order.
    """

    def __init__(self) -> None:
        self._asked = False
        # What a shell starts in the background of a script ignores Ctrl-C, which is not for it; it goes on to do so.
        both = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._before = {number: before for number, before in both.items() if before is not signal.SIG_IGN}

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal has come."""
        if self._asked:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        for number in self._before:
            signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        again, self._asked = self._asked, True
        if again or not _in_event_loop():
            raise KeyboardInterrupt


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
