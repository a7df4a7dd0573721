"""The verdict: what was lost, doubled or reordered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.faults.real.checker import business, messages
from tests.faults.real.checker.evidence import Evidence

LAWS: dict[str, tuple[Callable[[Evidence], Iterator[str]], ...]] = {
    "lost": (
        business.lost_orders,
        business.lost_progress,
        messages.lost_messages,
        messages.unread_messages,
        messages.lost_readings,
    ),
    "doubled": (business.wrong_effects, business.wrong_sums, messages.doubled_messages, messages.doubled_readings),
    "reordered": (messages.reordered_messages,),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, in words, by kind; and how much there was to look at."""

    wrong: dict[str, list[str]]
    orders: int
    readings: int
    records: int
    duplicates: dict[str, int]

    @property
    def good(self) -> bool:
        return not any(self.wrong.values())


def judge(evidence: Evidence) -> Verdict:
    """Hold the evidence against every law."""
    return Verdict(
        wrong={kind: [text for law in laws for text in law(evidence)] for kind, laws in LAWS.items()},
        orders=len(evidence.orders),
        readings=sum(evidence.readings.values()),
        records=len(evidence.records),
        duplicates=messages.duplicates(evidence),
    )
