from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kafkasaga.messages import Mark, Operation
from kafkasaga.saga.definition import Saga
from kafkasaga.saga.events import StepCompensated
from kafkasaga.saga.flow import LocalStep, parallel
from kafkasaga.saga.inputs import Arrived, Ran, RefuseStuck, RetryStuck, SkipStuck, Start, Woken, start_of
from kafkasaga.saga.instance import SagaStatus, StepStatus
from kafkasaga.saga.machine import RunLocal, Send, decide, run_local
from kafkasaga.saga.policy import exponential
from kafkasaga.saga.transitions import fold
from tests.unit.saga.orders import (
    NOW,
    Cancelled,
    Completed,
    Created,
    Declined,
    Paid,
    Pay,
    PlaceOrder,
    Refund,
    Refunded,
    Rejected,
    Release,
    Released,
    Reserve,
    Reserved,
    Run,
    Ship,
    ShipLines,
    Shipped,
    SideBySide,
    State,
    Unavailable,
    Unshippable,
    WithBooking,
    WithPivot,
    approving,
    paying,
    pivot,
    reserving,
)

HALF_A_MINUTE = timedelta(seconds=30)
MINUTE = timedelta(minutes=1)


class Looking(Saga[State], name="looking", version=1, starts_on=Created):
    look = reserving(kind="read-only", compensation=None, compensated_on=())
    pay = paying()
    flow = parallel(look, pay)


class TwoLocals(Saga[State], name="two-locals", version=1, starts_on=Created):
    one = LocalStep[State](lambda s, session: setattr(s, "hold", "one"), kind="read-only")
    two = LocalStep[State](lambda s, session: setattr(s, "approver", "two"), kind="read-only")
    flow = parallel(one, two)


def booking(name: str) -> LocalStep[State]:
    def book(state: State, session: list[str]) -> None:
        session.append(f"book {name}")
        state.lines = (*state.lines, name)

    def unbook(state: State, session: list[str]) -> None:
        session.append(f"unbook {name}")
        state.lines = tuple(line for line in state.lines if line != name)

    return LocalStep[State](book, compensation=unbook)


class TwoBookings(Saga[State], name="two-bookings", version=1, starts_on=Created):
    one = booking("one")
    two = booking("two")
    pay = paying()
    flow = parallel(one, two) >> pay


class Patient(Saga[State], name="patient", version=1, starts_on=Created):
    reserve = reserving(retry=exponential(attempts=2))
    pay = paying()
    flow = parallel(pay, reserve)


class ApprovalBesidePayment(Saga[State], name="approval-beside-payment", version=1, starts_on=Created):
    reserve = reserving()
    approve = approving()
    pay = paying()
    flow = reserve >> parallel(approve, pay)


class ShippingBesideChecking(Saga[State], name="shipping-beside-checking", version=1, starts_on=Created):
    ship = pivot(kind="retriable")
    check = reserving(fails_on=())
    flow = parallel(ship, check)


# ---- forward


def test_a_start_sends_the_first_command() -> None:
    run = Run(PlaceOrder)
    assert run.sent() == [Reserve()]
    assert run.instance.wake_at == NOW + HALF_A_MINUTE


def test_a_success_sends_the_next_command_and_the_last_one_the_end() -> None:
    run = Run(PlaceOrder)
    run.reply(Reserved(), "reserve")
    assert run.sent() == [Pay()]
    run.reply(Paid(), "pay")
    assert run.sent() == [Completed()]
    assert run.instance.status is SagaStatus.COMPLETED


def test_a_second_start_is_a_recorded_no_op() -> None:
    run = Run(PlaceOrder)
    run.take(start_of(run.definition, Created()))
    assert run.ignored() == "this saga has been started already"


def test_a_saga_starts_from_a_state() -> None:
    decision = decide(PlaceOrder.definition, None, Start(key="x", state=State(order="o-9"), incarnation=3), NOW)
    assert decision.instance.incarnation == 3
    assert [effect.message for effect in decision.effects if isinstance(effect, Send)] == [Reserve(order="o-9")]


def test_a_start_needs_a_message_or_a_state() -> None:
    with pytest.raises(ValueError, match="needs a message or a state"):
        decide(PlaceOrder.definition, None, Start(key="x"), NOW)


def test_a_saga_starts_on_its_own_message_only() -> None:
    with pytest.raises(ValueError, match="does not start on Paid"):
        start_of(PlaceOrder.definition, Paid())


def test_i15_an_instance_is_decided_under_its_own_version_only() -> None:
    run = Run(PlaceOrder)
    newer = replace(run.instance, version=2)
    with pytest.raises(ValueError, match="version 2"):
        decide(run.definition, newer, Woken(), NOW)


def test_nothing_but_a_start_makes_sense_without_an_instance() -> None:
    with pytest.raises(ValueError, match="needs an instance"):
        decide(PlaceOrder.definition, None, Woken(), NOW)


def test_two_incarnations_of_a_key_send_under_different_ids() -> None:
    ids = {decide(PlaceOrder.definition, None, Start("x", Created(), None, n), NOW).effects[0] for n in (0, 1)}
    assert len(ids) == 2


# ---- back


def test_a_refusal_undoes_the_refusing_step_first_and_the_others_in_reverse() -> None:
    run = Run(PlaceOrder)
    run.reply(Reserved(), "reserve")
    run.reply(Declined(reason="no funds"), "pay")
    assert run.sent() == [Refund()]
    run.undone(Refunded(), "pay", mark=Mark.EMPTY)
    assert run.sent() == [Release(hold="h-1")]
    run.undone(Released(), "reserve")
    assert run.sent() == [Cancelled(reason="no funds", refused_by="Declined")]
    assert run.instance.status is SagaStatus.CANCELLED


def test_a_compensation_names_the_replies_that_mean_nothing_was_done() -> None:
    run = Run(PlaceOrder)
    run.reply(Unavailable(), "reserve")
    (effect,) = run.last.effects
    assert isinstance(effect, Send)
    assert effect.context is not None
    assert effect.context.failures == ("unavailable",)
    assert effect.context.operation is Operation.COMPENSATION


def test_a_barriers_answer_needs_no_body_and_no_type_of_its_own() -> None:
    run = Run(PlaceOrder)
    run.reply(Unavailable(), "reserve")
    run.undone(Paid(), "reserve", mark=Mark.EMPTY)
    event = run.last.events[0]
    assert isinstance(event, StepCompensated)
    assert event.mark == "empty"


def test_a23_a_step_that_did_not_answer_in_time_is_undone() -> None:
    run = Run(PlaceOrder)
    run.take(Woken(), after=HALF_A_MINUTE)
    assert run.instance.steps["reserve"].status is StepStatus.UNDOING
    assert run.sent() == [Release(hold=None)]


def test_a26_a_step_of_which_only_the_command_is_known_is_undone() -> None:
    """Whoever has only the log, and no reply, knows that the step may have run: by nothing but its command."""
    run = Run(PlaceOrder)
    recovered = fold(run.last.events)
    assert recovered is not None
    run.last = replace(run.last, instance=recovered)
    run.take(Woken(), after=HALF_A_MINUTE)
    assert run.sent() == [Release(hold=None)]
    run.undone(Released(), "reserve")
    assert run.instance.ended is SagaStatus.CANCELLED


def test_a23_a_late_reply_is_ignored_once_its_compensation_began() -> None:
    run = Run(PlaceOrder)
    run.take(Woken(), after=HALF_A_MINUTE)
    run.reply(Reserved(), "reserve")
    assert run.ignored() == "step 'reserve' is undoing: too late"


def test_a_reply_that_comes_before_its_deadline_is_looked_at_wins() -> None:
    run = Run(PlaceOrder)
    run.now += HALF_A_MINUTE
    run.reply(Reserved(), "reserve")
    assert run.sent() == [Pay()]
    assert not run.take(Woken()).events


def test_a_clock_that_was_wrong_changes_nothing() -> None:
    run = Run(PlaceOrder)
    assert not run.take(Woken(), after=-timedelta(days=1)).events


def test_a_branch_under_way_is_awaited_before_it_is_undone() -> None:
    run = Run(SideBySide)
    run.reply(Declined(), "pay")
    assert run.sent() == [Refund()]
    run.reply(Reserved(hold="h-7"), "reserve")
    assert run.sent() == [Release(hold="h-7")]


def test_a_branch_that_does_not_answer_is_undone_at_its_deadline() -> None:
    run = Run(SideBySide)
    run.reply(Declined(), "pay")
    run.take(Woken(), after=HALF_A_MINUTE)
    assert run.sent() == [Release(hold=None)]


def test_a27_a_compensation_that_is_not_confirmed_is_sent_again_and_then_stuck() -> None:
    run = Run(PlaceOrder)
    run.reply(Unavailable(), "reserve")
    first = run.last.effects[0]
    run.take(Woken(), after=HALF_A_MINUTE)
    assert run.sent() == []
    run.take(Woken(), after=timedelta(seconds=1))
    assert run.sent() == [Release(hold=None)]
    assert run.last.effects[0].id != first.id  # type: ignore[union-attr]
    run.take(Woken(), after=HALF_A_MINUTE)
    assert run.instance.status is SagaStatus.STUCK
    assert run.instance.wake_at is None


def test_a_stuck_compensation_goes_on_when_its_reply_comes_after_all() -> None:
    run = stuck_undoing()
    run.undone(Released(), "reserve")
    assert run.instance.status is SagaStatus.CANCELLED


def test_an_operator_has_a_stuck_compensation_sent_again() -> None:
    run = stuck_undoing()
    run.take(RetryStuck("reserve", "ann", "broker was away"))
    assert run.sent() == [Release(hold=None)]
    assert run.last.events[0].kind == "step-retried"
    run.take(Woken(), after=HALF_A_MINUTE)
    assert run.instance.status is SagaStatus.COMPENSATING, "a retry gets all its attempts anew"


def test_an_operator_skips_a_stuck_compensation_with_a_reason() -> None:
    run = stuck_undoing()
    run.take(SkipStuck("reserve", "ann", "released by hand"))
    assert run.last.events[0].why == "released by hand"  # type: ignore[union-attr]
    assert run.instance.status is SagaStatus.CANCELLED


def test_only_a_stuck_step_can_be_operated_on() -> None:
    run = Run(PlaceOrder)
    for path, stands in (("reserve", "is pending"), ("pay", "has not begun")):
        with pytest.raises(ValueError, match=stands):
            run.take(RetryStuck(path, "ann", ""))


def test_a_saga_that_has_ended_is_not_woken_by_what_it_left_behind() -> None:
    run = Run(Looking)
    run.reply(Declined(), "pay")
    run.undone(Refunded(), "pay")
    assert run.instance.status is SagaStatus.CANCELLED
    assert run.instance.wake_at is None
    assert not run.take(Woken(), after=MINUTE).events


# ---- pivot and retriable


def test_an_unknown_pivot_is_sent_again_until_it_is_stuck_and_never_undone() -> None:
    run = paying_pivot()
    run.take(Woken(), after=MINUTE)
    run.take(Woken(), after=timedelta(seconds=1))
    assert run.sent() == [Pay()]
    run.take(Woken(), after=MINUTE)
    assert run.instance.status is SagaStatus.STUCK
    assert run.instance.turned is None


def test_success_of_the_first_attempt_counts_after_the_second_was_sent() -> None:
    run = paying_pivot()
    run.take(Woken(), after=MINUTE)
    run.take(Woken(), after=timedelta(seconds=1))
    run.reply(Paid(), "pay")
    assert run.instance.status is SagaStatus.COMPLETED


def test_success_of_the_first_attempt_counts_while_the_second_waits() -> None:
    run = paying_pivot()
    run.take(Woken(), after=MINUTE)
    run.reply(Paid(), "pay")
    assert run.instance.status is SagaStatus.COMPLETED
    assert not run.take(Woken(), after=MINUTE).events


def test_a_stuck_pivot_completes_when_its_reply_comes_after_all() -> None:
    run = stuck_pivot()
    run.reply(Paid(), "pay")
    assert run.instance.status is SagaStatus.COMPLETED


def test_an_operator_declares_a_stuck_pivot_done() -> None:
    run = stuck_pivot()
    run.take(SkipStuck("pay", "ann", "seen in the bank's list"))
    assert run.instance.status is SagaStatus.COMPLETED


def test_an_operator_declares_a_stuck_pivot_refused() -> None:
    run = stuck_pivot()
    run.take(RefuseStuck("pay", "ann", "the bank never had it"))
    assert run.sent() == [Release(hold="h-1")]
    run.undone(Released(), "reserve")
    assert run.sent() == [Cancelled(reason="the bank never had it")]


def test_only_a_pivot_can_be_declared_refused() -> None:
    run = stuck_undoing()
    with pytest.raises(ValueError, match="not a pivot"):
        run.take(RefuseStuck("reserve", "ann", ""))


def test_a_refused_retriable_step_is_asked_again_as_a_new_generation() -> None:
    run = Run(ShipLines, Created(lines=("a",)))
    run.reply(Unshippable(), "ship[0]")
    assert run.sent() == []
    run.take(Woken(), after=timedelta(seconds=1))
    (effect,) = run.last.effects
    assert isinstance(effect, Send)
    assert effect.context is not None
    assert effect.context.generation == 1
    assert run.instance.turned is None


def test_a_refusal_repeated_without_headers_does_not_use_up_attempts() -> None:
    run = Run(ShipLines, Created(lines=("a",)))
    run.reply(Unshippable(), "ship[0]")
    run.take(Arrived("unshippable", Unshippable(), None))
    assert run.ignored() == "no step waits for it"


def test_a_late_refusal_of_an_unknown_attempt_is_known_at_once() -> None:
    run = Run(ShipLines, Created(lines=("a",)))
    run.take(Woken(), after=MINUTE)
    run.reply(Unshippable(), "ship[0]")
    assert run.instance.steps["ship[0]"].generation == 1


def test_an_operators_retry_after_a_refusal_is_not_answered_with_the_old_refusal() -> None:
    run = Run(ShipLines, Created(lines=("a",)))
    run.reply(Unshippable(), "ship[0]")
    run.take(Woken(), after=timedelta(seconds=1))
    run.reply(Unshippable(), "ship[0]", generation=1)
    assert run.instance.status is SagaStatus.STUCK
    run.take(RetryStuck("ship[0]", "ann", "repaired"))
    (effect,) = run.last.effects
    assert isinstance(effect, Send)
    assert effect.context is not None
    assert effect.context.generation == 2


def test_nothing_turns_back_once_a_retriable_step_has_begun() -> None:
    run = Run(ShippingBesideChecking)
    run.take(Woken(), after=HALF_A_MINUTE)
    assert run.instance.steps["check"].status is StepStatus.STUCK
    assert run.instance.turned is None


# ---- fan-out and conditions


def test_a_fan_out_sends_one_command_for_each_element_and_records_each_reply() -> None:
    run = Run(ShipLines, Created(lines=("a", "b")))
    assert run.sent() == [Ship(line="a"), Ship(line="b")]
    run.reply(Shipped(tracking="t2"), "ship[1]")
    run.reply(Shipped(tracking="t1"), "ship[0]")
    assert State.model_validate_json(run.instance.data).tracking == {"a": "t1", "b": "t2"}
    assert run.instance.status is SagaStatus.COMPLETED


def test_a_fan_out_over_nothing_is_done_at_once() -> None:
    assert Run(ShipLines).instance.status is SagaStatus.COMPLETED


# ---- local steps


def test_a_local_step_runs_and_the_saga_goes_on_with_what_it_left() -> None:
    run, session = Run(WithBooking), list[str]()
    (effect,) = run.last.effects
    assert isinstance(effect, RunLocal)
    run.take(run_local(run.definition, run.instance, effect, session))
    assert session == ["book"]
    assert State.model_validate_json(run.instance.data).booked
    assert run.sent() == [Pay()]


def test_a_local_step_is_undone_in_its_place() -> None:
    run, session = Run(WithBooking), list[str]()
    (effect,) = run.last.effects
    assert isinstance(effect, RunLocal)
    run.take(run_local(run.definition, run.instance, effect, session))
    run.reply(Declined(), "pay")
    run.undone(Refunded(), "pay")
    (effect,) = run.last.effects
    assert isinstance(effect, RunLocal)
    run.take(run_local(run.definition, run.instance, effect, session))
    assert session == ["book", "unbook"]
    assert run.instance.status is SagaStatus.CANCELLED


def test_a_local_step_that_was_not_to_run_is_an_error() -> None:
    run = Run(WithBooking)
    with pytest.raises(ValueError, match="no compensation of local step 'book' was to be run: it is pending"):
        run.take(Ran("book", Operation.COMPENSATION, "{}"))


def test_local_steps_side_by_side_run_one_after_the_other_so_that_neither_loses_the_others_state() -> None:
    run = Run(TwoLocals)
    for _ in range(2):
        (effect,) = run.last.effects
        assert isinstance(effect, RunLocal)
        run.take(run_local(run.definition, run.instance, effect, None))
    state = State.model_validate_json(run.instance.data)
    assert (state.hold, state.approver) == ("one", "two")
    assert run.instance.status is SagaStatus.COMPLETED


def test_local_steps_side_by_side_are_undone_one_after_the_other() -> None:
    run, session = Run(TwoBookings), list[str]()
    for _ in range(2):
        run.take(run_local(run.definition, run.instance, only_local(run), session))
    run.reply(Declined(), "pay")
    run.undone(Refunded(), "pay")
    for _ in range(2):
        run.take(run_local(run.definition, run.instance, only_local(run), session))
    assert session == ["book one", "book two", "unbook two", "unbook one"]
    assert run.instance.status is SagaStatus.CANCELLED
    assert State.model_validate_json(run.instance.data).lines == ()


def test_a_step_that_waits_for_its_next_attempt_is_undone_at_once_when_the_saga_turns_back() -> None:
    run = Run(Patient)
    run.take(Woken(), after=HALF_A_MINUTE)
    assert run.instance.steps["reserve"].status is StepStatus.WAITING
    run.reply(Declined(), "pay")
    assert run.sent() == [Release(hold=None), Refund()]


def test_a_saga_that_an_early_event_turns_back_begins_nothing_more() -> None:
    run = Run(ApprovalBesidePayment)
    run.take(Arrived("rejected", Rejected(), None))
    run.reply(Reserved(), "reserve")
    assert run.sent() == [Release(hold="h-1")]


def only_local(run: Run) -> RunLocal:
    (effect,) = run.last.effects
    assert isinstance(effect, RunLocal)
    return effect


def stuck_undoing() -> Run:
    run = Run(PlaceOrder)
    run.reply(Unavailable(), "reserve")
    for seconds in (30, 1, 30):
        run.take(Woken(), after=timedelta(seconds=seconds))
    assert run.instance.steps["reserve"].status is StepStatus.UNDO_STUCK
    return run


def paying_pivot() -> Run:
    run = Run(WithPivot)
    run.reply(Reserved(), "reserve")
    return run


def stuck_pivot() -> Run:
    run = paying_pivot()
    for after in (MINUTE, timedelta(seconds=1), MINUTE):
        run.take(Woken(), after=after)
    assert run.instance.steps["pay"].status is StepStatus.STUCK
    return run
