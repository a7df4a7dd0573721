"""The garbage collector in a service's own process."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from kafkasaga.runtime.collector import YOUNG, relieve


@pytest.fixture
def _restored() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
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
