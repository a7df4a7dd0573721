"""Every rule of the lint: the smallest saga that breaks it, and what is said about that."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kafkasaga.errors import DefinitionError
from kafkasaga.saga import definition as definition_module
from kafkasaga.saga import lint, lint_functions
from kafkasaga.saga.definition import Saga
from kafkasaga.saga.flow import Each, Ends, Flow, LocalStep, Step, WaitFor, parallel, reply
from tests.unit.saga.orders import (
    Approved,
    Created,
    Declined,
    Order,
    Pay,
    Release,
    Released,
    Reserve,
    Reserved,
    State,
    approving,
    paying,
    pivot,
    reserving,
    shipping,
)

Body = dict[str, Any]


class Narrow(Order, topic="narrow"): ...


# What a type checker would refuse, too.
AnyStep: Any = Step[State]
AnyEnds: Any = Ends[State]
AnyLocal: Any = LocalStep[State]
AnyWait: Any = WaitFor[State]
records: Any = reply


class Plain: ...


class Needy(State):
    totl: int


def define(body: Body, base: Any = Saga[State], **options: Any) -> type[Saga[Any]]:
    options = {"name": "s", "version": 1, "starts_on": Created} | options
    saga: type[Saga[Any]] = types.new_class("Broken", (base,), options, lambda namespace: namespace.update(body))
    return saga


def body(join: Callable[..., Flow[Any]] | None = None, **steps: Any) -> Body:
    """A class body: these steps, joined by ``join``, or one after the other."""
    if join is not None:
        return {**steps, "flow": join(**steps)}
    flow, *rest = steps.values()
    for step in rest:
        flow = flow >> step
    return {**steps, "flow": flow}


def retriable(**changed: Any) -> Step[State]:
    return pivot(kind="retriable", **changed)


def beside(**steps: Any) -> Body:
    return body(lambda **parts: parallel(*parts.values()), **steps)


TWICE = reserving()
FAILING_AFTER = body(pay=pivot(), reserve=reserving())
RULES: dict[str, tuple[Body, dict[str, Any], str]] = {
    "KS001": (body(reserve=reserving()), {"name": "Place Order"}, "use lower-case letters"),
    "KS002": (body(reserve=reserving()), {"version": 0}, "count from 1"),
    "KS003": (
        body(reserve=reserving()),
        {"starts_on": Order},
        "starts_on=Order starts nothing: message Order",
    ),
    "KS101": ({"reserve": reserving()}, {}, "write, for example, flow = reserve"),
    "KS102": (body(reserve=reserving()) | {"flwo": 1}, {}, "'flwo' is neither .* did you mean 'flow'?"),
    "KS103": (body(reserve=reserving()), {"base": Saga}, "does not say what it remembers"),
    "KS104": (body(reserve=reserving()), {"base": Saga[Needy]}, "Needy.totl is required.*did you mean 'total'"),
    "KS105": (body(reserve=reserving()) | {"pay": paying()}, {}, "step 'pay' is declared but not in the flow"),
    "KS106": (body(lambda reserve: reserve >> reserve, reserve=TWICE), {}, "step 'reserve' is in the flow twice"),
    "KS107": ({"flow": reserving()}, {}, "a step that has no name here"),
    "KS108": (body(reserve=reserving()) | {"ends": "soon"}, {}, "'ends' is not Ends"),
    "KS109": (body(reserve=TWICE) | {"hold": TWICE}, {}, "'reserve' and 'hold' are the same step"),
    "KS110": (beside(reserve=reserving()), {}, "at least two parts"),
    "KS201": (body(reserve=reserving(deadline=timedelta())), {}, "give it a positive one"),
    "KS202": (body(reserve=reserving(succeeds_on=())), {}, "step 'reserve' has nothing to wait for"),
    "KS203": (body(reserve=reserving(compensation=None, compensated_on=())), {}, "step 'reserve' cannot be undone"),
    "KS204": (body(reserve=reserving(kind="pivot")), {}, "its compensation would never run"),
    "KS205": (body(reserve=reserving(compensated_on=())), {}, "nothing confirms its compensation"),
    "KS206": (body(pay=pivot(compensated_on=Released)), {}, "compensated_on= but no compensation="),
    "KS207": (body(reserve=reserving(fails_on=Reserved)), {}, "'reserved' means both success and failure"),
    "KS208": (body(pay=pivot(kind="pivott")), {}, "unknown kind='pivott'.*did you mean 'pivot'"),
    "KS209": (body(reserve=reserving(command=Reserve)), {}, "command=: write .*lambda state: Reserve"),
    "KS210": (body(reserve=reserving(compensation="undo")), {}, "'undo' is not a function; write lambda state: …"),
    "KS211": (body(reserve=reserving(command=lambda: None)), {}, r"command=: it is called with \(state\)"),
    "KS212": (
        body(reserve=reserving(succeeds_on=records(Approved, State.reserved))),
        {},
        "step 'reserve', reply.Approved, ….: State.reserved records Reserved, not Approved",
    ),
    "KS213": (
        body(reserve=reserving(succeeds_on=Plain, fails_on=())),
        {},
        "step 'reserve' has a reply that never comes, succeeds_on=Plain: Plain is not a Message; declare it",
    ),
    "KS301": (FAILING_AFTER, {}, "step 'reserve' comes after the pivot 'pay' but can fail"),
    "KS302": (body(ship=retriable(), reserve=reserving()), {}, "step 'ship' is retriable .* 'reserve' comes after"),
    "KS303": (beside(pay=pivot(), ship=retriable()), {}, "pivot 'pay' runs beside 'ship'"),
    "KS304": (beside(ship=retriable(), reserve=reserving()), {}, "step 'ship' is retriable .* runs beside 'reserve'"),
    "KS305": (beside(one=approving(), two=approving()), {}, "step 'one' and 'two': several may wait for 'approved'"),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    broken, options, said = RULES[rule]
    with pytest.raises(DefinitionError) as caught:
        define(broken, **options)
    lines = [line for line in str(caught.value).splitlines() if rule in line]
    assert lines, str(caught.value)
    assert re.search(said, lines[0])


def test_every_rule_has_a_test() -> None:
    sources = [Path(module.__file__ or "").read_text() for module in (lint, lint_functions, definition_module)]
    assert set(re.findall(r"\[(KS\d+)\]", "".join(sources))) == RULES.keys()


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (body(approve=WaitFor[State]((), deadline=timedelta(1))), "KS202"),
        (body(book=LocalStep[State](lambda s, session: None)), "KS203"),
        (body(reserve=reserving(compensated_on=Reserved)), "KS207"),
        (body(approve=approving(fails_on=Approved)), "KS207"),
        (body(approve=approving(at_deadline="contine")), "KS208"),
        (body(pay=pivot(), approve=approving(fails_on=())), "KS301"),
        (body(pay=pivot(), again=pivot(fails_on=())), "KS301"),
        (body(lambda pay: pay.for_each(lambda s: s.lines), pay=pivot()), "KS303"),
        (body(lambda a: a.for_each(lambda s: s.lines), a=approving()), "KS305"),
        (body(reserve=reserving(compensation=Release)), "KS209"),
        (body(reserve=reserving(command=Reserve())), "KS209"),
        (body(reserve=reserving()) | {"ends": AnyEnds(completed=Reserved)}, "KS209"),
        (body(lambda reserve: reserve.when(True), reserve=reserving()), "KS210"),
        (body(reserve=reserving()) | {"ends": AnyEnds(cancelled=lambda s: Declined())}, "KS211"),
        (body(book=AnyLocal(lambda s: None, kind="read-only")), "KS211"),
        (body(lambda ship: ship.for_each(lambda: ()), ship=shipping()), "KS211"),
        (body(approve=approving(event=records(Reserved, State.approved))), "KS212"),
        (body(reserve=reserving(succeeds_on="reserved")), "KS213"),
        (body(reserve=reserving(compensated_on=Order)), "KS213"),
        (body(lambda a, b: parallel(a.when(bool), b.when(bool)), a=pivot(), b=reserving()), "KS303"),
    ],
)
def test_rules_hold_for_every_construct(broken: Body, rule: str) -> None:
    with pytest.raises(DefinitionError, match=rule):
        define(broken)


@pytest.mark.parametrize(
    "sound",
    [
        body(pay=pivot(), look=reserving(fails_on=(), kind="read-only", compensation=None, compensated_on=())),
        body(pay=pivot(), approve=approving(fails_on=(), at_deadline="continue")),
        body(reserve=reserving(), pay=pivot(), ship=retriable()),
        body(lambda a, b, c: parallel(a >> b, c), a=retriable(), b=retriable(), c=retriable()),
        body(lambda ship: ship.for_each(lambda s: s.lines), ship=shipping()),
        body(lambda a, b: a.when(bool, otherwise=b), a=pivot(), b=approving()),
    ],
)
def test_sound_sagas_are_accepted(sound: Body) -> None:
    assert define(sound).definition.name == "s"


def test_all_problems_are_reported_at_once_naming_saga_step_and_rule() -> None:
    broken = body(reserve=reserving(deadline=timedelta(), compensated_on=()), pay=paying(kind="pivot"))
    with pytest.raises(DefinitionError) as caught:
        define(broken, name="Bad Name")
    first, *problems = str(caught.value).splitlines()
    assert first == "saga 'Bad Name' (Broken) has 4 problems:"
    assert [re.findall(r"KS\d+", line)[0] for line in problems] == ["KS001", "KS201", "KS205", "KS204"]
    assert [line.split(".")[0].strip() for line in problems] == ["1", "2", "3", "4"]


def takes_anything(state: State, reply: Any) -> None: ...


def takes_either(state: State, reply: Reserved | Approved) -> None: ...


def takes_the_base(state: State, reply: Order) -> None: ...


def takes_an_element(state: Each[State, str], reply: Approved) -> None: ...


def takes_what_is_not_known_yet(state: State, reply: Later) -> None: ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    "record",
    [takes_anything, takes_either, takes_the_base, takes_an_element, takes_what_is_not_known_yet, lambda s, m: None],
)
def test_a_function_that_may_record_the_reply_is_accepted(record: Callable[[Any, Any], None]) -> None:
    assert define(body(reserve=reserving(succeeds_on=reply(Approved, record)))).definition.name == "s"


def test_an_abstract_message_is_no_reply() -> None:
    with pytest.raises(DefinitionError, match="fails_on=Order: message Order has no topic"):
        define(body(pay=pivot(fails_on=Order)))


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: AnyStep(command=lambda s: Pay(), kind="pivot"), "Step: it lacks succeeds_on=; it takes command=,"),
        (lambda: AnyStep(comand=lambda s: Pay()), r"it has no comand= \(did you mean command=\?\)"),
        (lambda: AnyEnds(complete=None), r"Ends: it has no complete= \(did you mean completed=\?\)"),
        (lambda: AnyWait(Approved), "WaitFor: it lacks deadline="),
        (AnyLocal, "LocalStep: it lacks action="),
        (lambda: types.new_class("Half", (Saga[State],), {"name": "half"}), "Half: it lacks version="),
    ],
)
def test_a_keyword_that_is_missing_or_unknown_is_named(declare: Callable[[], Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        declare()
