"""Laws that hold for every saga under every schedule."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from kafkasaga.saga.definition import Definition
from kafkasaga.saga.events import (
    CompensationSent,
    Event,
    Ignored,
    StepCompensated,
    StepSkipped,
    StepSucceeded,
    from_body,
    step_of,
    to_body,
)
from kafkasaga.saga.flow import WaitFor
from kafkasaga.saga.inputs import Arrived, Woken
from kafkasaga.saga.instance import SagaStatus, StepStatus, from_snapshot, to_snapshot
from kafkasaga.saga.machine import RunLocal, decide
from kafkasaga.saga.plan import Choice, Fan, Group, Leaf, Node, Series, leaves, split_path
from kafkasaga.saga.transitions import fold
from tests.property.strategies import beginnings, definitions, schedules
from tests.property.world import Turn, World


@st.composite
def worlds(draw: st.DrawFn, *, settled: bool = False) -> World:
    """A random saga after a random schedule; ``settled``, when everything was answered in the end."""
    world = World.begin(draw(definitions()), draw(beginnings))
    for choice in draw(schedules):
        world.move(choice)
    if settled:
        world.settle()
    return world


@given(worlds())
def test_the_fold_of_the_log_is_the_instance(world: World) -> None:
    assert fold(world.log) == world.saga
    assert world.saga.seq == len(world.log)


@given(worlds())
def test_a_snapshot_reads_back_as_the_instance(world: World) -> None:
    assert from_snapshot(to_snapshot(world.saga)) == world.saga


@given(worlds())
def test_a_log_row_reads_back_as_the_event(world: World) -> None:
    for event in world.log:
        assert from_body(event.kind, step_of(event), to_body(event)) == event


@given(worlds())
def test_deciding_twice_gives_equal_decisions(world: World) -> None:
    for instance, input, now, decision in world.turns:
        assert decide(world.definition, instance, input, now) == decision


@given(worlds())
def test_a_decision_goes_by_the_log_alone(world: World) -> None:
    """A replica that has only the snapshot decides the same."""
    for instance, input, now, decision in world.turns:
        stored = None if instance is None else from_snapshot(to_snapshot(instance))
        assert decide(world.definition, stored, input, now) == decision


@given(worlds())
def test_a_message_at_once_repeated_changes_nothing_but_an_ignored_entry(world: World) -> None:
    for _, input, now, decision in world.turns:
        if isinstance(input, Arrived):
            again = decide(world.definition, decision.instance, input, now)
            assert [type(event) for event in again.events] == [Ignored]
            assert not again.effects
            assert fold([*_log_until(world, decision.instance.seq), *again.events]) == again.instance


@given(worlds())
def test_the_clock_does_its_work_once(world: World) -> None:
    for _, input, now, decision in world.turns:
        if isinstance(input, Woken):
            assert not decide(world.definition, decision.instance, Woken(), now).events


@given(worlds())
def test_no_command_is_sent_twice_under_one_id(world: World) -> None:
    assert len(set(world.sent)) == len(world.sent)


@given(worlds())
def test_a_saga_waits_is_stuck_or_has_ended(world: World) -> None:
    """No silent stall (I10): the clock concerns every saga that has not ended and needs nobody."""
    for *_, decision in _whole_turns(world):
        saga = decision.instance
        if saga.ended is not None:
            assert saga.wake_at is None
        elif saga.wake_at is None:
            assert saga.status is SagaStatus.STUCK


@given(worlds())
def test_the_clock_matters_at_wake_at_and_not_before(world: World) -> None:
    for *_, decision in _whole_turns(world):
        due = decision.instance.wake_at
        if due is not None:
            assert decide(world.definition, decision.instance, Woken(), due).events
            early = due - timedelta(microseconds=1)
            assert not decide(world.definition, decision.instance, Woken(), early).events


@settings(max_examples=300)
@given(worlds(settled=True))
def test_a_saga_whose_commands_are_answered_ends(world: World) -> None:
    assert world.saga.ended is not None


@settings(max_examples=300)
@given(worlds(settled=True))
def test_a_completed_saga_has_done_every_step_it_reached(world: World) -> None:
    if world.saga.status is SagaStatus.COMPLETED:
        assert all(state.status is StepStatus.SUCCEEDED for state in world.saga.steps.values())
        assert not any(isinstance(event, CompensationSent) for event in world.log)


@settings(max_examples=300)
@given(worlds(settled=True))
def test_a_saga_whose_pivot_succeeded_is_not_cancelled(world: World) -> None:
    kinds = [(world.definition.step_at(path).kind, state.status) for path, state in world.saga.steps.items()]
    if ("pivot", StepStatus.SUCCEEDED) in kinds:
        assert world.saga.status is SagaStatus.COMPLETED
    if any(kind == "retriable" for kind, _ in kinds):
        assert world.saga.status is SagaStatus.COMPLETED


@settings(max_examples=400)
@given(worlds(settled=True))
def test_i08_a_cancelled_saga_has_undone_exactly_what_may_have_run(world: World) -> None:
    if world.saga.status is not SagaStatus.CANCELLED:
        return
    undoable = {path for path in world.saga.steps if _has_compensation(world.definition, path)}
    assert {path for path, state in world.saga.steps.items() if state.status is StepStatus.COMPENSATED} == undoable
    assert {event.step for event in world.log if isinstance(event, CompensationSent)} == undoable
    done = {path for (path, _), outcome in world.outcomes.items() if outcome == "done"}
    skipped = {event.step for event in world.log if isinstance(event, StepSkipped)}
    assert {path for path in done if _has_compensation(world.definition, path)} <= world.undone | skipped


@settings(max_examples=400)
@given(worlds(settled=True))
def test_i08_each_step_is_undone_after_the_next_was_confirmed(world: World) -> None:
    began = _first(world.log, CompensationSent)
    confirmed = {**_first(world.log, StepCompensated), **_first_skipped(world.log, began)}
    for earlier, later in _ordered(world.definition, list(began)):
        assert confirmed[later] < began[earlier]


@given(worlds())
def test_steps_in_sequence_begin_in_order(world: World) -> None:
    began = {path: n for n, path in reversed(list(enumerate(map(step_of, world.log)))) if path is not None}
    succeeded = {**_first_skipped(world.log, began), **_first(world.log, StepSucceeded)}
    for earlier, later in _ordered(world.definition, list(began)):
        assert succeeded[earlier] < began[later]


def _whole_turns(world: World) -> list[Turn]:
    """Turns after which no local step is still to be run."""
    return [turn for turn in world.turns if not any(isinstance(e, RunLocal) for e in turn[3].effects)]


def _log_until(world: World, seq: int) -> list[Event]:
    return world.log[:seq]


def _has_compensation(definition: Definition, path: str) -> bool:
    step = definition.step_at(path)
    return not isinstance(step, WaitFor) and step.compensation is not None


def _first(log: list[Event], kind: type[Event]) -> dict[str, int]:
    """Where the first event of this kind is, for each step."""
    found: dict[str, int] = {}
    for n, event in enumerate(log):
        if isinstance(event, kind):
            found.setdefault(step_of(event) or "", n)
    return found


def _first_skipped(log: list[Event], began: dict[str, int]) -> dict[str, int]:
    found = [(n, event.step) for n, event in enumerate(log) if isinstance(event, StepSkipped)]
    return {step: n for n, step in found if n > began.get(step, 0)}


def _ordered(definition: Definition, paths: list[str]) -> Iterator[tuple[str, str]]:
    """Every two paths of which the plan puts the first before the second, read off the plan without the machine."""
    before = {(one, two): depth for one, two, depth in _before(definition.plan, 0)}
    for one in paths:
        for two in paths:
            (first, here), (second, there) = split_path(one), split_path(two)
            depth = before.get((first, second))
            if depth is not None and here[:depth] == there[:depth]:
                yield one, two


def _before(node: Node, depth: int) -> Iterator[tuple[str, str, int]]:
    match node:
        case Series(parts):
            for n, part in enumerate(parts):
                yield from _before(part, depth)
                for later in parts[n + 1 :]:
                    yield from ((a.name, b.name, depth) for a in leaves(part) for b in leaves(later))
        case Group(parts):
            for part in parts:
                yield from _before(part, depth)
        case Choice(then=then, otherwise=otherwise):
            yield from _before(then, depth)
            yield from _before(otherwise, depth)
        case Fan(body=body):
            yield from _before(body, depth + 1)
        case Leaf():
            return
