"""The shortest schedule that still breaks the law: delta debugging over the names of faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

SECONDS = 8.0
"""How long to try."""


def shortest(schedule: Sequence[str], breaks: Callable[[Sequence[str]], bool]) -> tuple[list[str], int]:
    """The fewest of ``schedule`` for which ``breaks`` still holds, and how many were tried.

    It halves the parts to leave out until they are single faults (ddmin); what is left can spare none of them, unless
    the time ran out.
    """
    left, tried, end = list(schedule), 0, time.monotonic() + SECONDS
    size = max(len(left), 1)
    while left and time.monotonic() < end:
        for start in range(0, len(left), size):
            candidate = left[:start] + left[start + size :]
            tried += 1
            if breaks(candidate):
                left = candidate
                size = max(min(size, len(left)), 1)
                break
        else:
            if size == 1:
                break
            size = max(size // 2, 1)
    return left, tried
