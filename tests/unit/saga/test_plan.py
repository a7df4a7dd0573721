from __future__ import annotations

from typing import Any

import pytest

from kafkasaga.saga.flow import Flow, parallel
from kafkasaga.saga.plan import TOP, Choice, Fan, Leaf, Node, Series, compile_plan, leaves, split_path, steps_of
from tests.unit.saga.orders import approving, paying, reserving, shipping


def compiled(flow: Flow[Any], **steps: Any) -> Node:
    return compile_plan(flow, {id(step): name for name, step in steps.items()})


def test_sequences_are_flattened() -> None:
    a, b, c = reserving(), paying(), approving()
    plan = compiled(a >> (b >> c), a=a, b=b, c=c)
    assert isinstance(plan, Series)
    assert [type(part) for part in plan.parts] == [Leaf] * 3


def test_choices_around_one_step_have_names_of_their_own() -> None:
    a, b = reserving(), paying()
    plan = compiled((a.when(bool) >> b).when(bool), a=a, b=b)
    assert isinstance(plan, Choice)
    assert isinstance(plan.then, Series)
    inner = plan.then.parts[0]
    assert isinstance(inner, Choice)
    assert (inner.name, plan.name) == ("a?", "a??")


def test_fan_outs_within_fan_outs_have_names_of_their_own() -> None:
    ship: Flow[Any] = shipping()
    plan = compiled(ship.for_each(lambda s: s.item).for_each(lambda s: s.lines), ship=ship)
    assert isinstance(plan, Fan)
    assert isinstance(plan.body, Fan)
    assert (plan.body.name, plan.name) == ("ship[]", "ship[][]")
    assert TOP.within(plan, 2).within(plan.body, 0).suffix == "[2][0]"


def test_leaves_come_in_the_order_in_which_they_are_written() -> None:
    a, b, c = reserving(), paying(), approving()
    flow = parallel(c, a).when(bool, otherwise=b)
    assert [leaf.name for leaf in leaves(compiled(flow, a=a, b=b, c=c))] == ["c", "a", "b"]
    assert list(steps_of(flow)) == [c, a, b]


def test_a_path_splits_into_name_and_elements() -> None:
    assert split_path("ship") == ("ship", ())
    assert split_path("ship[2][10]") == ("ship", (2, 10))


def test_what_is_no_flow_is_refused() -> None:
    with pytest.raises(TypeError, match="not a part of a flow"):
        list(steps_of(object()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not a part of a flow"):
        compile_plan(object(), {})  # type: ignore[arg-type]
