from __future__ import annotations

from datetime import timedelta

import pytest

from kafkasaga.errors import DefinitionError
from kafkasaga.saga.policy import ONCE, exponential

SECOND = timedelta(seconds=1)


def test_waits_grow_up_to_the_longest() -> None:
    retry = exponential(attempts=9, first=SECOND, factor=3, longest=timedelta(seconds=20))
    assert [retry.delay(n) / SECOND for n in (1, 2, 3, 4, 1000)] == [1, 3, 9, 20, 20]


def test_the_horizon_is_the_sum_of_all_waits() -> None:
    assert exponential(attempts=4, first=SECOND).horizon() == 7 * SECOND
    assert ONCE.horizon() == timedelta()


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first": -SECOND}, {"longest": -SECOND}, {"factor": 0.5}])
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DefinitionError, match="retry: "):
        exponential(**wrong)  # type: ignore[arg-type]
