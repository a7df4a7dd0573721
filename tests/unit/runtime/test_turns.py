"""The turns of a consumer: alone for ten times as long as a deadlock took, and longer where that was not enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkasaga.ports import Turn
from kafkasaga.runtime.turns import LONGEST, SHARE, WITHOUT, Turns
from tests.unit.runtime.kit import VirtualClock


@pytest.fixture
def turns(clock: VirtualClock) -> Turns:
    return Turns(clock)


def alone_for(turns: Turns, clock: VirtualClock) -> float:
    """Seconds, by the tenth."""
    began = clock.monotonic()
    while turns.next is Turn.ALONE:
        clock.sleep(0.1)
    return clock.monotonic() - began


def test_all_go_beside_each_other_at_first(turns: Turns, clock: VirtualClock) -> None:
    assert turns.next is Turn.BESIDE
    clock.sleep(100)
    assert turns.next is Turn.BESIDE


def test_who_met_a_deadlock_goes_alone_for_ten_times_as_long(turns: Turns, clock: VirtualClock) -> None:
    turns.deadlocked(1.0)
    assert alone_for(turns, clock) == pytest.approx(10, abs=0.2)


def test_twice_as_long_whenever_that_was_not_enough(turns: Turns, clock: VirtualClock) -> None:
    seen = []
    for _ in range(7):
        turns.deadlocked(1.0)
        seen.append(alone_for(turns, clock))
    assert seen == pytest.approx([10, 20, 40, 80, 160, LONGEST, LONGEST], abs=0.2)


def test_a_deadlock_long_after_the_last_one_begins_anew(turns: Turns, clock: VirtualClock) -> None:
    for _ in range(3):
        turns.deadlocked(1.0)
    assert alone_for(turns, clock) == pytest.approx(40, abs=0.2)
    clock.sleep(40)
    turns.deadlocked(1.0)
    assert alone_for(turns, clock) == pytest.approx(10, abs=0.2)


def test_without_turns_for_a_minute_after_a_lock_that_did_not_come(turns: Turns, clock: VirtualClock) -> None:
    turns.deadlocked(WITHOUT)
    turns.timed_out()
    seen = []
    for seconds in (0, WITHOUT - 1, 2):
        clock.sleep(seconds)
        seen.append(turns.next)
    assert seen == [Turn.NONE, Turn.NONE, Turn.ALONE], "then as it was before"


@given(every=st.floats(0.0, 100.0), cost=st.floats(0.001, 20.0))
def test_of_the_time_little_is_lost(every: float, cost: float) -> None:
    """Where a deadlock comes whenever one has gone beside others for so many seconds."""
    clock, lost = VirtualClock(), 0.0
    turns = Turns(clock)
    for _ in range(30):
        while turns.next is Turn.ALONE:
            clock.sleep(max(cost, 0.1))
        clock.sleep(every + cost)
        lost += cost
        turns.deadlocked(cost)
    assert lost <= cost + SHARE * clock.monotonic()
