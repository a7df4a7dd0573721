from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from kafkasaga.errors import CorruptLog
from kafkasaga.saga.events import (
    Cancelled,
    CommandSent,
    CompensationBegan,
    CompensationSent,
    Completed,
    Event,
    Ignored,
    Started,
    StepBegan,
    StepCompensated,
    StepRetried,
    StepStuck,
    StepSucceeded,
)
from kafkasaga.saga.instance import Fan, Instance, SagaStatus, StepState, StepStatus, Turned
from kafkasaga.saga.transitions import STEP_TRANSITIONS, evolve, fold

NOW = datetime(2030, 1, 1, tzinfo=UTC)
STARTED = Started(saga="s", version=1, key="k", incarnation=0, message="m", data="{}")


def instance() -> Instance:
    return evolve(None, STARTED)


def test_an_empty_log_is_no_saga() -> None:
    assert fold([]) is None


def test_a_log_opens_with_started_and_only_there() -> None:
    with pytest.raises(CorruptLog, match="opens with 'completed'"):
        evolve(None, Completed(messages=()))
    with pytest.raises(CorruptLog, match="starts twice"):
        fold([STARTED, STARTED])


def test_what_is_not_in_the_table_cannot_happen() -> None:
    with pytest.raises(CorruptLog, match="step 'a' is not begun; 'step-succeeded' cannot happen"):
        evolve(instance(), StepSucceeded(step="a", message="", data=None))
    begun = evolve(instance(), StepBegan(step="a", deadline=None, early=None))
    with pytest.raises(CorruptLog, match="step 'a' is pending; 'step-compensated' cannot happen"):
        evolve(begun, StepCompensated(step="a", message="", mark=None, data=None))


def test_an_event_of_a_step_changes_nothing_else() -> None:
    fan, turned = Fan(1, "[]"), Turned("a", "no", "m", "{}")
    before = Instance("s", 1, "k", 2, "{}", 7, {}, {"a?": True}, {"b[]": fan}, {"e": "{}", "f": "1"}, turned)
    began = evolve(before, StepBegan(step="a", deadline=NOW, early="e"))
    assert began == replace(before, seq=8, steps={"a": StepState(StepStatus.PENDING, due=NOW)}, early={"f": "1"})
    done = evolve(began, StepSucceeded(step="a", message="m", data='{"x":1}'))
    assert done == replace(began, seq=9, steps={"a": StepState(StepStatus.SUCCEEDED)}, data='{"x":1}')


def test_after_the_end_only_ignored_messages_are_logged() -> None:
    ended = evolve(instance(), Completed(messages=()))
    assert evolve(ended, Ignored(message="m", reason="late")).seq == 3
    with pytest.raises(CorruptLog, match="is completed, but its log goes on with 'cancelled'"):
        evolve(ended, Cancelled(reason="", messages=()))


def test_a_saga_turns_back_once() -> None:
    back = CompensationBegan(step="a", reason="", message=None, body=None)
    with pytest.raises(CorruptLog, match="turns back twice"):
        fold([STARTED, back, back])


def test_every_status_is_reached_and_left_except_the_last() -> None:
    reached = set(STEP_TRANSITIONS.values())
    left = {before for before, _ in STEP_TRANSITIONS if before is not None}
    assert reached == set(StepStatus)
    assert reached - left == {StepStatus.COMPENSATED}


def test_nothing_becomes_pending_again_once_it_is_undone() -> None:
    forward = {StepStatus.PENDING, StepStatus.WAITING, StepStatus.SUCCEEDED, StepStatus.STUCK}
    back = {StepStatus.UNDOING, StepStatus.UNDO_WAITING, StepStatus.UNDO_STUCK, StepStatus.COMPENSATED}
    assert not [key for key, after in STEP_TRANSITIONS.items() if key[0] in back and after in forward]


def test_attempts_that_an_operator_wrote_off_are_those_of_one_operation() -> None:
    sent = CommandSent(step="a", generation=0, attempt=1, command_id=UUID(int=1), message="m", deadline=NOW)
    undo = CompensationSent(step="a", generation=0, attempt=1, command_id=UUID(int=3), message="m", deadline=NOW)
    retried: list[Event] = [StepStuck(step="a", generation=0, reason=""), StepRetried(step="a", by="ann", why="")]
    again = replace(sent, attempt=2, command_id=UUID(int=2))
    forward = fold([STARTED, sent, *retried, again])
    assert forward is not None
    assert (forward.steps["a"].attempt, forward.steps["a"].spent) == (2, 1)
    back = evolve(evolve(forward, StepSucceeded(step="a", message="m", data=None)), undo)
    assert (back.steps["a"].attempt, back.steps["a"].spent) == (1, 0)


def test_a_saga_that_has_ended_says_how() -> None:
    assert evolve(instance(), Cancelled(reason="", messages=())).status is SagaStatus.CANCELLED
