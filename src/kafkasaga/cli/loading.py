"""Loading modules in a process that will run them until it ends.

What is imported stays, and there is much of it. Python's garbage collector would look through all of it, again and
again while it grows, to find nothing: a seventh of the CPU time until a service works.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def loading() -> Generator[None]:
    """Nothing is collected inside the block, and what is there at its end is not looked at afterwards either."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
