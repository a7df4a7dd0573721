from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from kafkasaga.messages import Mark, SagaContext, contract_of
from kafkasaga.messages import Operation as Op
from kafkasaga.saga.events import CameEarly
from kafkasaga.saga.inputs import Arrived, Woken
from kafkasaga.saga.instance import SagaStatus, StepStatus
from kafkasaga.saga.machine import decide
from tests.unit.saga.orders import (
    Approved,
    Created,
    Order,
    Paid,
    Pay,
    PlaceOrder,
    Refunded,
    Rejected,
    Release,
    Released,
    Reserved,
    Run,
    ShipLines,
    Shipped,
    SideBySide,
    State,
    Unavailable,
    WithApproval,
)


def bare(message: Order) -> Arrived:
    """A message without our headers."""
    return Arrived(contract_of(message).type, message, None)


def test_reply_for_an_earlier_step_is_ignored() -> None:
    run = Run(PlaceOrder)
    run.reply(Reserved(), "reserve")
    run.reply(Reserved(hold="other"), "reserve")
    assert run.ignored() == "step 'reserve' is succeeded: too late"


def test_reply_for_a_step_that_has_not_begun_is_ignored() -> None:
    run = Run(PlaceOrder)
    run.reply(Paid(), "pay")
    assert run.ignored() == "step 'pay' has not begun"


def test_reply_of_another_step_is_ignored() -> None:
    run = Run(SideBySide)
    run.reply(Paid(), "reserve")
    assert run.ignored() == "it is not a reply of step 'reserve'"


def test_reply_of_another_generation_is_ignored() -> None:
    run = Run(PlaceOrder)
    run.reply(Reserved(), "reserve", generation=1)
    assert run.ignored() == "it answers generation 1 of step 'reserve', which is at 0"


def test_reply_of_another_operation_is_ignored() -> None:
    run = Run(PlaceOrder)
    run.undone(Released(), "reserve")
    assert run.ignored() == "step 'reserve' is pending: too late"


def test_a24_reply_to_an_earlier_incarnation_is_ignored() -> None:
    run = Run(PlaceOrder)
    run.reply(Reserved(), "reserve", saga_id=UUID(int=1))
    assert run.ignored() == f"it answers another saga ({UUID(int=1)})"


def test_reply_of_a_superseded_action_is_ignored() -> None:
    run = Run(PlaceOrder)
    run.reply(Reserved(), "reserve", mark=Mark.SUPERSEDED)
    assert run.ignored() == "step 'reserve' was overtaken by its compensation"


def test_reply_after_the_end_is_ignored() -> None:
    run = Run(PlaceOrder)
    run.reply(Reserved(), "reserve")
    run.reply(Paid(), "pay")
    run.reply(Paid(), "pay")
    assert run.ignored() == "the saga has ended (completed)"


def test_a_success_without_a_body_is_not_taken_for_one() -> None:
    run = Run(PlaceOrder)
    context = SagaContext("place-order", run.instance.id, "reserve", 0, Op.ACTION, mark=Mark.REPEATED)
    run.take(Arrived("reserved", None, context))
    assert run.ignored() == "it has no body, and step 'reserve' needs one"


def test_reply_without_headers_is_taken_for_the_only_pending_step() -> None:
    run = Run(PlaceOrder)
    run.take(bare(Reserved()))
    assert run.sent() == [Pay()]


def test_confirmation_without_headers_is_taken_for_the_only_compensation() -> None:
    run = Run(PlaceOrder)
    run.take(bare(Unavailable()))
    run.take(bare(Released()))
    assert run.instance.status is SagaStatus.CANCELLED


def test_reply_without_headers_that_no_step_waits_for_is_ignored() -> None:
    run = Run(PlaceOrder)
    run.take(bare(Refunded()))
    assert run.ignored() == "no step waits for it"


def test_reply_without_headers_that_several_steps_wait_for_is_ignored() -> None:
    run = Run(ShipLines, Created(lines=("a", "b")))
    run.take(bare(Shipped(tracking="t")))
    assert run.ignored() == "several steps wait for it (ship[0], ship[1]); its headers do not say which"


def test_i08_reply_without_headers_is_not_taken_for_the_last_of_several_elements() -> None:
    """It may be another one's reply once more."""
    run = Run(ShipLines, Created(lines=("a", "b")))
    run.reply(Shipped(tracking="t"), "ship[0]")
    run.take(bare(Shipped(tracking="t")))
    assert run.ignored() == (
        "step 'ship[1]' is one of several elements; its headers do not say which of them it answers"
    )


def test_reply_without_headers_is_taken_for_an_only_element() -> None:
    run = Run(ShipLines, Created(lines=("a",)))
    run.take(bare(Shipped(tracking="t")))
    assert run.instance.steps["ship[0]"].status is StepStatus.SUCCEEDED


# ---- events from outside


def test_an_event_ends_a_wait() -> None:
    run = Run(WithApproval)
    run.reply(Reserved(), "reserve")
    run.take(bare(Approved(by="bob")))
    assert run.instance.status is SagaStatus.COMPLETED
    assert State.model_validate_json(run.instance.data).approver == "bob"


def test_a06_an_event_that_comes_early_is_kept_until_the_saga_waits_for_it() -> None:
    run = Run(WithApproval)
    run.take(bare(Approved(by="bob")))
    assert [type(event) for event in run.last.events] == [CameEarly]
    run.reply(Reserved(), "reserve")
    assert run.instance.status is SagaStatus.COMPLETED
    assert State.model_validate_json(run.instance.data).approver == "bob"
    assert run.instance.early == {}


def test_a06_a_rejection_that_comes_early_turns_the_saga_back_when_it_gets_there() -> None:
    run = Run(WithApproval)
    run.take(bare(Rejected()))
    run.reply(Reserved(), "reserve")
    assert run.sent() == [Release(hold="h-1")]


def test_an_event_that_comes_early_twice_is_kept_once() -> None:
    run = Run(WithApproval)
    run.take(bare(Approved(by="bob")))
    run.take(bare(Approved(by="cid")))
    assert run.ignored() == "it came early, and one like it is kept already"


def test_an_event_after_its_wait_is_ignored() -> None:
    run = Run(WithApproval)
    run.reply(Reserved(), "reserve")
    run.take(bare(Rejected()))
    run.take(bare(Approved()))
    assert run.ignored() == "no step waits for it"


def test_an_event_may_carry_the_headers_of_whatever_caused_it() -> None:
    for saga_id in (None, UUID(int=1)):
        run = Run(WithApproval)
        run.reply(Reserved(), "reserve")
        run.reply(Approved(), "reserve", **({} if saga_id is None else {"saga_id": saga_id}))
        assert run.instance.status is SagaStatus.COMPLETED


def test_a_wait_that_nobody_ends_is_undone_at_its_deadline() -> None:
    run = Run(WithApproval)
    run.reply(Reserved(), "reserve")
    run.take(Woken(), after=timedelta(days=2))
    assert run.sent() == [Release(hold="h-1")]


def test_a_branch_not_taken_waits_for_nothing() -> None:
    run = Run(WithApproval, Created(total=1))
    run.reply(Reserved(), "reserve")
    assert run.instance.status is SagaStatus.COMPLETED


def test_matching_never_depends_on_the_attempt() -> None:
    run = Run(PlaceOrder)
    context = SagaContext("place-order", run.instance.id, "reserve", 0, Op.ACTION, command_id=UUID(int=5))
    decision = decide(run.definition, run.instance, Arrived("reserved", Reserved(), context), run.now)
    assert decision.instance.steps["reserve"].status == "succeeded"
