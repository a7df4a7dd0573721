from __future__ import annotations

import doctest
import sys
from datetime import timedelta
from typing import Any

import pytest

from kafkasaga.messages import Message
from kafkasaga.saga.definition import Saga
from kafkasaga.saga.flow import Step
from kafkasaga.saga.instance import SagaStatus
from kafkasaga.testing import scenario
from tests.unit.saga.orders import (
    Approved,
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
    Ship,
    ShipLines,
    Shipped,
    State,
    Unavailable,
    WithApproval,
    WithBooking,
)


def test_a_declined_payment_undoes_both() -> None:
    saga = scenario(PlaceOrder).given(Created())
    saga.expect(Reserve()).when(Reserved(hold="h-2"))
    saga.expect(Pay()).when(Declined()).expect(Refund())
    saga.when(Refunded()).expect(Release(hold="h-2"))
    saga.when(Released()).expect(Cancelled(reason="declined", refused_by="Declined")).expect_cancelled(
        reason="declined"
    )
    assert saga.state.hold == "h-2"


def test_a_saga_starts_from_a_state_with_the_key_that_it_holds() -> None:
    saga = scenario(PlaceOrder).given(State(order="o-5")).expect(Reserve(order="o-5"))
    saga.when(Reserved(order="o-5")).expect(Pay(order="o-5"))


def test_the_same_message_again_changes_nothing() -> None:
    saga = scenario(PlaceOrder).given(Created()).expect(Reserve()).again().expect_nothing()
    saga.when(Reserved()).expect(Pay()).again().expect_nothing()
    assert "ignored" in saga.story


def test_time_passes_in_order_of_what_is_due() -> None:
    saga = scenario(PlaceOrder).given(Created()).expect(Reserve())
    saga.after(timedelta(seconds=29)).expect_nothing()
    saga.after(timedelta(seconds=1)).expect(Release(hold=None))
    saga.after(timedelta(minutes=5)).expect(Release(hold=None)).expect_stuck("reserve")
    saga.retry("reserve").expect(Release(hold=None)).after(timedelta(hours=1)).expect(Release(hold=None))
    saga.skip("reserve", why="done by hand").expect_cancelled()


def test_a_fan_out_is_answered_element_by_element() -> None:
    saga = scenario(ShipLines).given(Created(lines=("a", "b"))).expect(Ship(line="b"), Ship(line="a"))
    with pytest.raises(AssertionError, match=r"'shipped' may answer ship\[0\], ship\[1\]; say which: .when\(…, to="):
        saga.when(Shipped(tracking="t"))
    saga.when(Shipped(tracking="t1"), to="ship[1]").when(Shipped(tracking="t0"), to="ship[0]")
    saga.expect(Completed()).expect_completed()
    assert saga.state.tracking == {"a": "t0", "b": "t1"}


def test_a_compensation_is_answered_by_its_path_too() -> None:
    saga = scenario(PlaceOrder).given(Created()).when(Unavailable(), to="reserve").when(Released(), to="reserve")
    saga.expect_cancelled()


def test_an_early_event_is_kept() -> None:
    saga = scenario(WithApproval).given(Created()).expect(Reserve()).when(Approved()).expect_nothing()
    saga.when(Reserved()).expect(Completed())


def test_local_steps_run_with_the_session_that_was_given() -> None:
    session: list[str] = []
    saga = scenario(WithBooking).with_session(session).given(Created()).expect(Pay())
    assert saga.state.booked
    saga.when(Declined()).when(Refunded()).expect_cancelled()
    assert session == ["book", "unbook"]


def test_a_session_that_is_missing_is_asked_for() -> None:
    with pytest.raises(AssertionError, match="with_session"):
        scenario(WithBooking).given(Created())


def test_the_example_in_the_documentation_runs() -> None:
    from kafkasaga.testing import story
    from tests.unit.saga import orders

    module = sys.modules[story.__name__.replace("story", "scenario")]
    result = doctest.testmod(module, extraglobs=vars(orders))
    assert (result.failed, result.attempted) == (0, 5)


# ---- failures


def test_a_failure_shows_expected_against_sent_and_the_story() -> None:
    saga = scenario(PlaceOrder).given(Created()).after(timedelta(seconds=90))
    with pytest.raises(AssertionError) as caught:
        saga.expect(Reserve(), Pay())
    assert (
        str(caught.value)
        == """\
place-order: the saga sent something else than expected

expected:
    Reserve(order='o-1')
  ! Pay(order='o-1')   (not sent)
sent:
    Reserve(order='o-1')
  ! Release(order='o-1', hold=None)   (not expected)
  ! Release(order='o-1', hold=None)   (not expected)

the saga so far:
  +0s   started                      key=o-1  message=created
  +0s   command-sent        reserve  attempt=1  message=reserve
  +30s  step-expired        reserve  reason=no reply from step 'reserve' within 0:00:30
  +30s  compensation-began  reserve  reason=no reply from step 'reserve' within 0:00:30
  +30s  compensation-sent   reserve  attempt=1  message=release
  +60s  retry-scheduled     reserve  at=+61s  reason=compensation of step 'reserve' not confirmed within 0:00:30
  +61s  compensation-sent   reserve  attempt=2  message=release
now it is compensating; the clock concerns reserve (undoing until +91s)"""
    )


def test_what_was_sent_twice_is_expected_twice() -> None:
    saga = scenario(ShipLines).given(Created(lines=("a", "a")))
    with pytest.raises(AssertionError, match="not expected"):
        saga.expect(Ship(line="a"))


def test_the_wrong_end_is_named() -> None:
    saga = scenario(PlaceOrder).given(Created())
    with pytest.raises(AssertionError, match="expected the saga to be completed, but it is running"):
        saga.expect_completed()
    with pytest.raises(AssertionError, match="expected step 'pay' to be stuck, but it has not begun"):
        saga.expect_stuck("pay")
    saga.when(Unavailable()).when(Released())
    with pytest.raises(AssertionError, match="cancelled for 'fire', but it was for 'none left'"):
        saga.expect_cancelled(reason="fire")
    assert saga.status is SagaStatus.CANCELLED


def test_a_message_for_another_saga_is_a_mistake_of_the_test() -> None:
    with pytest.raises(AssertionError, match="its key is 'o-2', this saga's is 'o-1'"):
        scenario(PlaceOrder).given(Created()).when(Reserved(order="o-2"))


def test_a_step_that_has_not_begun_cannot_be_answered() -> None:
    with pytest.raises(AssertionError, match="step 'pay' has not begun; those that have are reserve"):
        scenario(PlaceOrder).given(Created()).when(Paid(), to="pay")


def test_a_scenario_begins_with_given() -> None:
    with pytest.raises(AssertionError, match=r"start it with \.given"):
        scenario(PlaceOrder).when(Paid())
    with pytest.raises(AssertionError, match="nothing was delivered yet"):
        scenario(PlaceOrder).again()


class Opaque(Message, topic="opaque", key="order"):
    order: str = "o-1"
    thing: Any = None


def test_what_json_cannot_carry_fails() -> None:
    class Sends(Saga[State], name="sends", version=1, starts_on=Created):
        step = Step[State](command=lambda s: Opaque(thing=object()), succeeds_on=Paid, kind="read-only")
        flow = step

    with pytest.raises(AssertionError, match="cannot travel as JSON"):
        scenario(Sends).given(Created())


def test_what_json_changes_fails() -> None:
    class Sends(Saga[State], name="sends", version=1, starts_on=Created):
        step = Step[State](command=lambda s: Opaque(thing=(1, 2)), succeeds_on=Paid, kind="read-only")
        flow = step

    with pytest.raises(AssertionError, match="does not survive JSON"):
        scenario(Sends).given(Created())


def test_a_reply_that_names_its_step_is_taken_under_another_key_which_is_noted() -> None:
    saga = scenario(PlaceOrder).given(Created(order="o-1")).when(Reserved(order="o-2"), to="reserve")
    assert "step-succeeded  reserve  message=reserved  other_key=o-2" in saga.story


def test_a_reply_for_another_saga_says_how_it_would_be_taken() -> None:
    with pytest.raises(AssertionError, match=r"say which step: .when\(…, to=…\)"):
        scenario(PlaceOrder).given(Created(order="o-1")).when(Reserved(order="o-2"))


def test_a_message_that_starts_nothing_is_told_what_does() -> None:
    with pytest.raises(AssertionError, match="'place-order' does not start on Paid; it starts on Created"):
        scenario(PlaceOrder).given(Paid(order="o-1"))


@pytest.mark.parametrize("start", [Created(order=""), State(order="")])
def test_a_saga_does_not_start_without_a_key(start: Any) -> None:
    with pytest.raises(AssertionError, match="order='', which is"):
        scenario(PlaceOrder).given(start)
