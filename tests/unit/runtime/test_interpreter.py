"""The interpreter in a service's own process: its garbage collector, and how its threads take turns."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from kafkasaga.runtime.interpreter import SWITCH, YOUNG, relieve


@pytest.fixture
def _restored() -> Iterator[None]:
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("_restored")
def test_what_was_there_at_the_start_is_not_looked_at_again() -> None:
    there = [object() for _ in range(10)]
    relieve()
    assert gc.is_tracked(there)
    assert not any(found is there for found in gc.get_objects())
    assert gc.get_threshold()[0] == YOUNG


@pytest.mark.usefixtures("_restored")
def test_i14_cycles_that_come_later_are_still_collected() -> None:
    relieve()
    before = len(gc.get_objects())
    for _ in range(10 * YOUNG):
        ring: list[object] = []
        ring.append(ring)
    assert len(gc.get_objects()) < before + 2 * YOUNG


@pytest.mark.usefixtures("_restored")
def test_a_thread_at_work_does_not_keep_the_others_waiting_for_long() -> None:
    relieve()
    assert sys.getswitchinterval() == pytest.approx(SWITCH)
    assert SWITCH <= 0.001
