"""How wide transactions are: halved where they meet others, for ten times as long as that took."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkasaga.runtime.width import SHARE, WIDEST, Width
from tests.unit.runtime.kit import VirtualClock


@pytest.fixture
def width(clock: VirtualClock) -> Width:
    return Width(clock)


def test_nothing_bounds_it_at_first(width: Width, clock: VirtualClock) -> None:
    assert width.now == WIDEST
    clock.sleep(100)
    assert width.now == WIDEST


def test_it_is_half_of_what_met_another_transaction(width: Width) -> None:
    width.conflicted(40, 1.0)
    assert width.now == 20
    width.conflicted(20, 1.0)
    assert width.now == 10


def test_it_doubles_whenever_ten_times_as_long_has_passed(width: Width, clock: VirtualClock) -> None:
    width.conflicted(40, 1.0)
    clock.sleep(9.9)
    assert width.now == 20
    clock.sleep(0.2)
    assert width.now == 40
    assert width.now == 40, "once"
    clock.sleep(10)
    assert width.now == 80


def test_after_a_while_nothing_bounds_it_again(width: Width, clock: VirtualClock) -> None:
    width.conflicted(2, 0.01)
    for _ in range(30):
        clock.sleep(0.1)
        assert width.now > 1
    assert width.now == WIDEST


def test_an_hour_of_nothing_is_time_that_has_passed(width: Width, clock: VirtualClock) -> None:
    width.conflicted(2, 1.0)
    clock.sleep(3600)
    assert width.now == WIDEST


def test_what_was_cheap_does_not_shorten_what_is_held_for_what_was_dear(width: Width, clock: VirtualClock) -> None:
    width.conflicted(40, 1.0)
    width.conflicted(20, 0.005)
    clock.sleep(9.9)
    assert width.now == 10
    clock.sleep(0.2)
    assert width.now == 20
    width.conflicted(20, 0.005)
    clock.sleep(9.9)
    assert width.now == 10, "also while it grows again"


costs = st.floats(0.001, 2.0)


@given(bad=st.integers(2, 200), dear=costs, cheap=costs, every=st.integers(2, 100), ratio=st.floats(0.1, 10))
def test_of_the_time_little_is_lost(bad: int, dear: float, cheap: float, every: int, ratio: float) -> None:
    """Where each transaction of ``bad`` messages or more meets another one, and now and then any of several does."""
    clock, lost, worst = VirtualClock(), 0.0, max(dear, cheap)
    width = Width(clock)
    for number in range(3000):
        messages = min(width.now, 200)
        meets = dear if messages >= bad else cheap if messages > 1 and number % every == 0 else 0.0
        clock.sleep(meets or dear * ratio)
        lost += meets
        if meets:
            width.conflicted(messages, meets)
    narrowing = (200).bit_length() * worst  # until it fits for the first time
    assert lost <= narrowing + SHARE * clock.monotonic()
