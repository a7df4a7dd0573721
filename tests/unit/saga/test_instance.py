from __future__ import annotations

from datetime import timedelta

from kafkasaga.saga.inputs import Woken
from kafkasaga.saga.instance import SagaStatus, from_snapshot, saga_id, to_snapshot
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


def test_only_two_statuses_are_ends() -> None:
    assert [status for status in SagaStatus if status.ended] == [SagaStatus.COMPLETED, SagaStatus.CANCELLED]
