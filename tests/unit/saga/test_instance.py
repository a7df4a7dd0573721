from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from kafkasaga.saga.events import Ignored, StepSucceeded
from kafkasaga.saga.inputs import Woken
from kafkasaga.saga.instance import (
    Fan,
    Instance,
    SagaStatus,
    StepState,
    StepStatus,
    Turned,
    from_snapshot,
    saga_id,
    to_snapshot,
)
from kafkasaga.saga.transitions import evolve
from tests.unit.saga.orders import NOW, Declined, PlaceOrder, Run, SideBySide


def test_the_id_of_a_saga_follows_from_its_name_key_and_incarnation() -> None:
    assert saga_id("a", "k") == saga_id("a", "k", 0)
    assert len({saga_id("a", "k"), saga_id("b", "k"), saga_id("a", "l"), saga_id("a", "k", 1)}) == 4
    assert str(saga_id("place-order", "o-1")) == "a222c2b9-3498-5e2d-842f-4b30daee9db1", "ids in databases must stay"


def test_the_clock_concerns_the_earliest_of_what_is_due() -> None:
    assert Run(SideBySide).instance.wake_at == NOW + timedelta(seconds=30)


def test_a_saga_that_turned_back_is_compensating() -> None:
    run = Run(SideBySide)
    before, after = run.instance, run.reply(Declined(), "pay").instance
    assert (before.status, after.status) == (SagaStatus.RUNNING, SagaStatus.COMPENSATING)


def test_a_snapshot_holds_why_the_saga_turned_back() -> None:
    run = Run(PlaceOrder)
    run.take(Woken(), after=timedelta(minutes=1))
    stored = from_snapshot(to_snapshot(run.instance))
    assert stored.turned is not None
    assert stored.turned.step == "reserve"
    assert stored == run.instance


def test_a_snapshot_that_an_earlier_version_wrote_is_read() -> None:
    text = (
        '{"saga":"s","version":1,"key":"\\u00fc","incarnation":0,"data":"{}","seq":3,"steps":{"pay":["pending",0,1,0,'
        '"00000000-0000-0000-0000-000000000007","2030-01-01T00:00:00.000005+00:00"],"book":["failed",1,0,0,null,null]},'
        '"branches":{"pay?":true},"fans":{"ship[]":[2,"{}"]},"turned":["pay","no","declined","{}"],"early":{"m":"{}"},'
        '"ended":null}'
    )
    due = datetime(2030, 1, 1, microsecond=5, tzinfo=UTC)
    pay, book = StepState(StepStatus.PENDING, 0, 1, 0, UUID(int=7), due), StepState(StepStatus.FAILED, 1)
    assert from_snapshot(text) == Instance(
        *("s", 1, "\xfc", 0, "{}", 3, {"pay": pay, "book": book}, {"pay?": True}, {"ship[]": Fan(2, "{}")}),
        early={"m": "{}"},
        turned=Turned("pay", "no", "declined", "{}"),
    )


def test_an_instance_knows_its_id_or_finds_it_out() -> None:
    run = Run(PlaceOrder)
    id, text = saga_id("place-order", run.instance.key), to_snapshot(run.instance)
    known = from_snapshot(text, UUID(int=7))
    assert (known.id, from_snapshot(text).id, run.instance.id) == (UUID(int=7), id, id)
    assert known == from_snapshot(text), "which says no more than the rest"
    for event in (Ignored(message="m", reason="late"), StepSucceeded(step="reserve", message="m", data=None)):
        assert evolve(known, event).id == UUID(int=7)


def test_only_two_statuses_are_ends() -> None:
    assert [status for status in SagaStatus if status.ended] == [SagaStatus.COMPLETED, SagaStatus.CANCELLED]
