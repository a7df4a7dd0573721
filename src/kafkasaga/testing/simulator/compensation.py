"""Invariant I8 as it shows at the end: what ran at the participants, and was undone, is what the saga says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from kafkasaga.messages import Operation
from kafkasaga.saga.events import (
    CommandSent,
    CompensationSent,
    Event,
    StepCompensated,
    StepSkipped,
    StepSucceeded,
    step_of,
)
from kafkasaga.saga.flow import Step
from kafkasaga.saga.instance import Instance, SagaStatus
from kafkasaga.saga.plan import Choice, Fan, Group, Leaf, Node, Series, leaves, split_path
from kafkasaga.testing.simulator.history import Committed, Violation

if TYPE_CHECKING:
    from kafkasaga.testing.simulator.run import Run

_NEVER = 1 << 30


def check(run: Run, id: UUID, instance: Instance) -> Iterator[Violation]:
    """What really ran at the participants is what the saga's end says (invariant I8)."""
    law, definition = "I8 compensation", run.plan.definition
    if instance.saga != definition.name or instance.version != definition.version:
        return
    ran = _carried_out(run, id, Operation.ACTION)
    undone = _carried_out(run, id, Operation.COMPENSATION)
    saga = f"saga {instance.key!r} is {instance.status}, "
    for path, action in ran.items():
        step = definition.step_at(path)
        if not isinstance(step, Step) or action.effect.reply in step.fails_on:
            continue
        to_undo = instance.status is SagaStatus.CANCELLED and step.compensation is not None
        if to_undo and path not in undone and not _skipped(run, id, path):
            yield Violation(law, f"{saga}but step {path!r} was carried out and not undone")
        if instance.status is SagaStatus.COMPLETED and path in undone:
            yield Violation(law, f"{saga}but step {path!r} was undone")
    yield from _reverse_order(run, id, undone, saga)


def _carried_out(run: Run, id: UUID, operation: Operation) -> dict[str, Committed]:
    return {
        committed.effect.barrier.step: committed
        for committed in run.history.effects
        if committed.effect.barrier is not None
        and committed.effect.barrier.saga_id == id
        and committed.effect.barrier.operation is operation
    }


def _skipped(run: Run, id: UUID, path: str) -> bool:
    return any(isinstance(e.event, StepSkipped) and e.event.step == path for e in run.history.logs[id])


def _reverse_order(run: Run, id: UUID, undone: dict[str, Committed], saga: str) -> Iterator[Violation]:
    """A step that comes after another one in the flow is undone, and confirmed, before that one is."""
    sent, undo_sent = _first(run, id, CommandSent), _first(run, id, CompensationSent)
    succeeded, confirmed = _first(run, id, StepSucceeded), _first(run, id, StepCompensated)
    for later, began in sent.items():
        step = run.plan.definition.step_at(later)
        undoable = isinstance(step, Step) and step.compensation is not None
        for earlier in (path for path, at in succeeded.items() if at < began and path in undo_sent):
            if not one_after_the_other(run.plan.definition.plan, earlier, later):
                continue
            if undoable and undo_sent[earlier] < confirmed.get(later, _NEVER):
                yield Violation("I8 compensation", f"{saga}and {earlier!r} was undone before {later!r} was confirmed")
            elif later in undone and earlier in undone and undone[earlier].at < undone[later].at:
                yield Violation("I8 compensation", f"{saga}and {earlier!r} was undone before {later!r}")


def _first(run: Run, id: UUID, kind: type[Event]) -> dict[str, int]:
    """For each step, where in the saga's log an event of a kind is first."""
    found: dict[str, int] = {}
    for seq, entry in enumerate(run.history.logs[id]):
        path = step_of(entry.event)
        if isinstance(entry.event, kind) and path is not None:
            found.setdefault(path, seq)
    return found


def one_after_the_other(node: Node, first: str, second: str) -> bool:
    """Whether the flow has the step ``second`` only after ``first``: not beside it, nor in another element of a fan."""
    (name, indices), (other, others) = split_path(first), split_path(second)
    while not isinstance(node, Leaf):
        match node:
            case Series(parts) | Group(parts):
                at, then = _part(parts, name), _part(parts, other)
                if at != then:
                    return isinstance(node, Series) and at < then
                node = parts[at]
            case Choice():
                node = node.then if _has(node.then, name) else node.otherwise
                if not _has(node, other):
                    return False
            case Fan():
                if indices[:1] != others[:1]:
                    return False
                node, indices, others = node.body, indices[1:], others[1:]
    return False


def _part(parts: tuple[Node, ...], name: str) -> int:
    return next(n for n, part in enumerate(parts) if _has(part, name))


def _has(node: Node, name: str) -> bool:
    return any(leaf.name == name for leaf in leaves(node))
