"""Ctrl-C and SIGTERM end the demo in good order, wherever it is."""

import asyncio
import signal
from types import FrameType
from typing import Self


class Stop:
    """Within its block both signals raise ``KeyboardInterrupt``, and whoever loops asks ``check`` as well.

    Raising alone is not enough: Python prints and drops what a signal's handler raises while a finalizer or the
    callback of a weak reference runs (``sys.unraisablehook``), and imports are full of those. An event loop is not
    interrupted at all: what runs in it looks often, and ends with all its tasks in order.
    """

    def __init__(self) -> None:
        self._asked = False

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal has come."""
        if self._asked:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        # What a shell starts in the background of a script ignores Ctrl-C, which is not for it; it goes on to do so.
        ours = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._ask) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if not _in_event_loop():
            raise KeyboardInterrupt


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
