"""What a function of a saga raises says whose it is."""

from __future__ import annotations

import types
from typing import Any

import pytest

from kafkasaga.errors import DefinitionError
from kafkasaga.saga.definition import Saga
from kafkasaga.saga.flow import Ends, LocalStep
from kafkasaga.saga.functions import whose
from kafkasaga.testing import scenario
from tests.unit.saga.orders import Created, Order, Reserved, State, Unavailable, paying, reserving, shipping


def broken(*_: Any) -> Any:
    raise ValueError("broken")


def saga(**body: Any) -> type[Saga[State]]:
    options = {"name": "s", "version": 1, "starts_on": Created}
    made: type[Saga[State]] = types.new_class("Some", (Saga[State],), options, lambda namespace: namespace.update(body))
    return made


def steps(**body: Any) -> type[Saga[State]]:
    first, *others = body.values()
    for other in others:
        first = first >> other
    return saga(**body, flow=first)


def begun(which: type[Saga[State]]) -> None:
    scenario(which).given(Created(order="o", lines=("a",)))


def failed(which: type[Saga[State]]) -> None:
    scenario(which).given(Created(order="o")).when(Unavailable(order="o"))


def reserved(which: type[Saga[State]]) -> None:
    scenario(which).given(Created(order="o")).when(Reserved(order="o"))


class Fussy(State):
    @classmethod
    def begin(cls, event: Created) -> Fussy:
        raise ValueError("broken")


RESERVE, PAY = reserving(), paying()
OPTIONS = {"name": "s", "version": 1, "starts_on": Created}
FUSSY: Any = types.new_class("Some", (Saga[Fussy],), OPTIONS, lambda namespace: namespace.update(pay=PAY, flow=PAY))


@pytest.mark.parametrize(
    ("do", "which", "where"),
    [
        (begun, steps(reserve=reserving(command=broken)), "step 'reserve', command="),
        (failed, steps(reserve=reserving(compensation=broken)), "step 'reserve', compensation="),
        (begun, saga(r=RESERVE, flow=RESERVE.when(broken)), "step 'r'.when(…)"),
        (begun, saga(ship=(ship := shipping()), flow=ship.for_each(broken)), "step 'ship'.for_each(…)"),
        (begun, steps(book=LocalStep[State](broken, kind="read-only")), "step 'book', local action"),
        (reserved, saga(r=RESERVE, flow=RESERVE, ends=Ends[State](completed=broken)), "ends, completed="),
        (begun, FUSSY, "Fussy from Created"),
    ],
)
def test_an_error_names_saga_step_and_operation(do: Any, which: type[Saga[State]], where: str) -> None:
    with pytest.raises(ValueError, match="broken") as caught:
        do(which)
    assert whose(caught.value) == f"saga 's', {where}"


def test_an_error_in_the_message_of_the_end_names_it() -> None:
    ends = Ends[State](cancelled=broken)
    which = saga(r=(r := reserving(compensation=None, compensated_on=(), kind="pivot")), flow=r, ends=ends)
    with pytest.raises(ValueError, match="broken") as caught:
        failed(which)
    assert whose(caught.value) == "saga 's', ends, cancelled="


@pytest.mark.parametrize(
    ("built", "error", "said"),
    [
        (lambda s: None, TypeError, "it returned None, not a message"),
        (lambda s: {"order": s.order}, TypeError, "it returned a dict, not a message"),
        (lambda s: Order(order=s.order), DefinitionError, "message Order has no topic"),
    ],
)
def test_a_command_that_is_no_message_is_refused_where_it_is_built(
    built: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        begun(steps(reserve=reserving(command=built)))
    assert whose(caught.value) == "saga 's', step 'reserve', command="


def test_other_errors_are_nobodys() -> None:
    assert whose(ValueError("x")) is None
    noted = ValueError("x")
    noted.add_note("a note of the user's")
    assert whose(noted) is None
