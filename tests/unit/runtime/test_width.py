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
    width.conflicted(1, 0.01)
    for _ in range(30):
        clock.sleep(0.1)
        assert width.now > 1
    assert width.now == WIDEST


def test_a_message_alone_stays_one(width: Width) -> None:
    width.conflicted(1, 1.0)
    assert width.now == 1


@given(bad=st.integers(2, 200), cost=st.floats(0.001, 2.0), ratio=st.floats(0.1, 10))
def test_of_the_time_little_is_lost(bad: int, cost: float, ratio: float) -> None:
    """Where each transaction of ``bad`` messages or more meets another one, and waits for it to no avail."""
    clock, lost = VirtualClock(), 0.0
    width = Width(clock)
    narrowing = (200).bit_length() * cost  # until it fits for the first time
    while clock.monotonic() < 300 * cost:
        messages = min(width.now, 200)
        if messages >= bad:
            clock.sleep(cost)
            lost += cost
            width.conflicted(messages, cost)
        else:
            clock.sleep(cost * ratio)
    assert lost <= narrowing + SHARE * clock.monotonic()
