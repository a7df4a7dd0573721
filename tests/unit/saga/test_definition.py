from __future__ import annotations

from functools import partial

import pytest

from kafkasaga.messages import Message
from kafkasaga.saga.definition import Definition, Ends, Saga, messages_named_in
from kafkasaga.saga.flow import Step
from tests.unit.saga import orders
from tests.unit.saga.orders import (
    Cancelled,
    Completed,
    Created,
    Declined,
    Paid,
    Pay,
    PlaceOrder,
    Refund,
    Refunded,
    Release,
    Released,
    Reserve,
    Reserved,
    State,
    Unavailable,
    WithApproval,
    WithBooking,
    paying,
)


def test_a_definition_knows_what_it_reads() -> None:
    assert set(PlaceOrder.definition.replies) == {Reserved, Unavailable, Released, Paid, Declined, Refunded}


def test_a_definition_knows_what_it_sends() -> None:
    assert set(PlaceOrder.definition.sends) == {Reserve, Release, Pay, Refund, Completed, Cancelled}


def test_a_definition_knows_the_events_that_it_waits_for() -> None:
    assert WithApproval.definition.awaited_events == {"approved": ("approve",), "rejected": ("approve",)}


def test_a_path_leads_to_its_step() -> None:
    definition = PlaceOrder.definition
    assert definition.step_at("pay") is definition.steps["pay"]
    assert definition.step_at("pay[2][0]") is definition.steps["pay"]
    assert definition.failures_of("pay") == ("declined",)
    assert WithBooking.definition.failures_of("book") == ()


def made(s: State) -> Pay:
    return Pay()


def nested(s: State) -> list[Message]:
    return [Reserve() for _ in s.lines]


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda s: Pay(), [Pay]),
        (lambda s: orders.Pay(), [Pay]),
        (made, [Pay]),
        (partial(made), [Pay]),
        (nested, [Reserve]),
        (lambda s: None, []),
        (print, []),
    ],
)
def test_messages_are_found_without_running_anything(function: object, named: list[type[Message]]) -> None:
    assert list(dict.fromkeys(messages_named_in(function))) == named  # type: ignore[arg-type]


def test_the_state_begins_with_the_fields_that_it_shares_with_the_message() -> None:
    assert PlaceOrder.definition.begin(Created(order="o-7", total=3)) == State(order="o-7", total=3)


def test_a_state_may_begin_in_its_own_way() -> None:
    class Doubled(State):
        @classmethod
        def begin(cls, message: Created) -> Doubled:
            return cls(order=message.order, total=2 * message.total)

    class Own(Saga[Doubled], name="own", version=1, starts_on=Created):
        pay = Step[Doubled](command=lambda s: Pay(), succeeds_on=Paid, kind="read-only")
        flow = pay

    assert Own.definition.begin(Created(total=3)) == Doubled(order="o-1", total=6)


def test_one_step_serves_two_sagas_under_two_names() -> None:
    shared = paying()

    class One(Saga[State], name="one", version=1, starts_on=Created):
        pay = shared
        flow = pay

    class Two(Saga[State], name="two", version=1, starts_on=Created):
        charge = shared
        flow = charge
        ends = Ends[State]()

    assert (list(One.definition.steps), list(Two.definition.steps)) == (["pay"], ["charge"])


def test_definitions_are_told_apart_by_identity() -> None:
    assert PlaceOrder.definition != WithApproval.definition
    assert isinstance(PlaceOrder.definition, Definition)
