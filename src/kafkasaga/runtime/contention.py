"""How long the calling thread has waited for a processor, as Linux counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")
"""Nanoseconds on a processor, nanoseconds runnable without one, and the number of time slices (proc(5))."""


def waited() -> float:
    """Seconds so far; always 0 where the operating system does not say."""
    try:
        return int(_SCHEDSTAT.read_bytes().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
