"""A name that nobody defines is found before the lambda that uses it is called."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from kafkasaga import Service, Settings
from kafkasaga.errors import DefinitionError
from kafkasaga.runtime.runner import Runner
from kafkasaga.saga.definition import Saga
from kafkasaga.saga.functions import Written
from kafkasaga.saga.names import check_names
from kafkasaga.testing import scenario
from tests.unit.saga.orders import Created, Pay, PlaceOrder, Release, ShipLines, State, WithApproval, reserving


def written(source: str) -> Any:
    """A function of this module, out of sight of linters and type checkers."""
    return eval(source, globals())  # noqa: S307


class Forgetful(Saga[State], name="forgetful", version=1, starts_on=Created):
    seat = reserving(
        command=written("lambda s: Zzz(order=s.order)"),
        compensation=written("lambda s: [Release(order=s.order, hold=x) for x in qqq][0]"),
    )
    flow = seat


def test_a_scenario_names_step_operation_and_name() -> None:
    with pytest.raises(DefinitionError) as caught:
        scenario(Forgetful)
    assert str(caught.value).splitlines() == [
        "saga 'forgetful' has 2 problems:",
        "  1. step 'seat', command=: the name 'Zzz' is not defined",
        "  2. step 'seat', compensation=: the name 'qqq' is not defined",
    ]


def test_a_service_with_such_a_saga_does_not_start() -> None:
    runner = Runner(Service("svc", sagas=[Forgetful]), Settings.load())
    with pytest.raises(DefinitionError, match="the name 'Zzz' is not defined"):
        runner.start()


def check(function: Any) -> None:
    check_names("s", [Written("here", function, ("state",))])


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(DefinitionError, match="here: the name 'Releas' is not defined; did you mean 'Release'"):
        check(written("lambda s: Releas(s)"))


def sets_it_later() -> None:
    global set_later  # noqa: PLW0603
    set_later = 1  # type: ignore[name-defined]


class Taken:
    def method(self, s: Any) -> Any:
        return Pay(order=s)


def closing(inner: str) -> Any:
    return lambda s: (inner, s.attribute, len(s), [Pay for _ in s], Below, set_later)  # type: ignore[name-defined]


@pytest.mark.parametrize("function", [closing("x"), Taken().method, partial(closing, "x"), len, Release, None])
def test_names_that_are_there_or_will_be_raise_no_alarm(function: Any) -> None:
    assert "set_later" not in globals()
    check(function)


@pytest.mark.parametrize("saga", [PlaceOrder, WithApproval, ShipLines])
def test_sound_sagas_raise_no_alarm(saga: Any) -> None:
    saga.definition.check_names()
    assert saga.definition.functions


class Below: ...
