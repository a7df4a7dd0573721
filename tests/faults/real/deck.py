"""In which order the faults come, and which must."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from tests.faults.real.account import Account


def planned(names: Iterable[str], only: Iterable[str]) -> list[str]:
    """The faults that a run has to reach: all, or those whose names contain one of ``only``."""
    wanted = tuple(only)
    return [name for name in names if not wanted or any(part in name for part in wanted)]


def deal(account: Account, random: Random, *, for_ever: bool) -> Iterator[str]:
    """Each planned fault once, in an order that ``random`` decides; then those that were not reached, again.

    ``for_ever`` begins anew at the end, for few faults that are to fill the whole time.
    """
    deck = list(account.planned)
    while True:
        random.shuffle(deck)
        yield from deck
        while account.outstanding:
            yield from account.outstanding
        if not for_ever:
            return
