"""Python's interpreter in a process that does nothing but run a service.

Its garbage collector: a batch makes tens of thousands of objects that live until it ends and hold no cycles. The
collector would look at all of them, and at everything that was ever imported, many times a batch, to find nothing
(measured: 15 % of the orchestrator's CPU time, 20 % of the relay's).

Its lock: the relay works in short steps, and behind each it needs the lock again. A consumer that is at work gives it
away after 5 ms only, each time, while a committed message waits to be sent (ADR 27).
"""

from __future__ import annotations

import gc
import sys
from typing import Final

YOUNG: Final = 20_000
"""Objects made since the last collection that start the next one (Python's own: 700): some batches."""
SWITCH: Final = 0.0002
"""Seconds after which a thread gives the interpreter to another one that waits for it (Python's own: 0.005)."""


def relieve() -> None:
    """Have the collector leave alone what is there now and look at what is new less often, and threads take turns.

    For the owner of a process only, when it has started: what is garbage by then stays.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    sys.setswitchinterval(SWITCH)
