"""How long a consumer gathers: nothing while it is idle, a moment while it is busy."""

import pytest

from kafkasaga.runtime.pace import BATCHES, LONGEST, WORTH, Pace
from tests.unit.runtime.kit import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def rounds(pace: Pace, clock: VirtualClock, count: int, *, wait: float, work: float, messages: int = 50) -> None:
    """The consumer's loop: wait for the first record, gather, work."""
    for _ in range(count):
        gather = pace.gather
        clock.sleep(wait + gather)
        pace.polled(gather)
        clock.sleep(work)
        pace.worked(messages)


def test_one_that_is_idle_gathers_next_to_nothing(clock: VirtualClock) -> None:
    pace = Pace(clock)
    assert pace.gather == 0
    rounds(pace, clock, 100, wait=0.2, work=0.002)
    assert pace.gather < 0.002 / 10


@pytest.mark.parametrize("work", [0.002, 0.01])
def test_one_that_is_always_at_work_gathers_for_the_time_of_some_batches(clock: VirtualClock, work: float) -> None:
    pace = Pace(clock)
    rounds(pace, clock, 1000, wait=0, work=work)
    assert pace.gather == pytest.approx(BATCHES * work, rel=0.01), "to gather is not to be idle"


def test_the_moment_has_an_end_however_long_batches_take(clock: VirtualClock) -> None:
    pace = Pace(clock)
    rounds(pace, clock, 100, wait=0, work=2.0)
    assert pace.gather == LONGEST


@pytest.mark.parametrize(("messages", "gathers"), [(1, False), (WORTH - 1, False), (WORTH + 1, True)])
def test_where_messages_come_one_by_one_there_is_nothing_to_gather(
    clock: VirtualClock, messages: int, *, gathers: bool
) -> None:
    pace = Pace(clock)
    rounds(pace, clock, 500, wait=0, work=0.005, messages=messages)
    assert (pace.gather > 0) == gathers


def test_the_busier_the_longer(clock: VirtualClock) -> None:
    gathered: list[float] = []
    for share in (0.1, 0.3, 0.5, 0.8):
        pace = Pace(clock)
        rounds(pace, clock, 2000, wait=0.01 * (1 - share), work=0.01 * share)
        gathered.append(pace.gather)
        assert pace.gather == pytest.approx(BATCHES * 0.01 * share * share, rel=0.1)
    assert gathered == sorted(gathered)


def test_a_pause_is_enough_to_be_idle_again(clock: VirtualClock) -> None:
    pace = Pace(clock)
    rounds(pace, clock, 500, wait=0, work=0.005)
    rounds(pace, clock, 1, wait=2, work=0.005)
    assert pace.gather < 0.005 / 10


def test_batches_that_became_fast_again_are_what_counts(clock: VirtualClock) -> None:
    pace = Pace(clock)
    rounds(pace, clock, 20, wait=0, work=1.0)
    rounds(pace, clock, 60, wait=0, work=0.005)
    assert pace.gather == pytest.approx(BATCHES * 0.005, rel=0.1)


def test_a_poll_that_returned_before_its_time_was_not_in_the_future(clock: VirtualClock) -> None:
    """A batch that is full ends the gathering."""
    pace = Pace(clock)
    for _ in range(200):
        pace.polled(LONGEST)
        clock.sleep(0.02)
        pace.worked(50)
    assert pace.gather == pytest.approx(BATCHES * 0.02, rel=0.01)
