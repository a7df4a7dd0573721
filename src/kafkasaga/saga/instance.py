"""One saga as it stands: the fold of its log. Frozen; ``transitions.evolve`` makes the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from kafkasaga.messages import NAMESPACE, derived, from_text, to_id, to_text
from kafkasaga.values import value


class StepStatus(StrEnum):
    """Where a step stands. A step that was not reached has none."""

    PENDING = "pending"
    WAITING = "waiting"
    """Its next attempt comes later; a reply to an earlier one still counts."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    STUCK = "stuck"
    UNDOING = "undoing"
    UNDO_WAITING = "undo-waiting"
    UNDO_STUCK = "undo-stuck"
    COMPENSATED = "compensated"

    __hash__ = str.__hash__  # an enumeration's own is written in Python

    @property
    def stuck(self) -> bool:
        return self in _STUCK


_STUCK: Final = frozenset({StepStatus.STUCK, StepStatus.UNDO_STUCK})
_STATUSES: Final = {status.value: status for status in StepStatus}


class SagaStatus(StrEnum):
    """Where a saga stands."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    STUCK = "stuck"
    COMPLETED = "completed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self is SagaStatus.COMPLETED or self is SagaStatus.CANCELLED


@value(frozen=True, slots=True)
class StepState:
    """One step of one instance."""

    status: StepStatus
    generation: int = 0
    attempt: int = 0
    """How many commands of the current operation were sent; never falls, so that every command has an id of its own."""
    spent: int = 0
    """Attempts that an operator's retry has written off."""
    command_id: UUID | None = None
    """The last command sent of this generation and operation; None if none was."""
    due: datetime | None = None
    """When the clock next concerns this step: its deadline, or its next attempt."""


@value(frozen=True, slots=True)
class Fan:
    """The elements of a fan-out: how many, and the state (JSON) that they came from."""

    count: int
    data: str


@value(frozen=True, slots=True)
class Turned:
    """Why the saga turned back. ``message`` and ``body`` are the failure reply, if there was one."""

    step: str
    reason: str
    message: str | None = None
    body: str | None = None


@value(frozen=True, slots=True)
class Instance:
    """A saga instance: everything that the machine needs to know, and nothing of how it is stored."""

    saga: str
    version: int
    key: str
    incarnation: int
    data: str
    """The saga's state as JSON."""
    seq: int = 0
    """How many events the log holds."""
    steps: Mapping[str, StepState] = field(default_factory=dict[str, StepState])
    """By path, in the order in which they began."""
    branches: Mapping[str, bool] = field(default_factory=dict[str, bool])
    fans: Mapping[str, Fan] = field(default_factory=dict[str, Fan])
    early: Mapping[str, str] = field(default_factory=dict[str, str])
    """Events that came before the saga waits for them: type and body (JSON)."""
    turned: Turned | None = None
    ended: SagaStatus | None = None
    _id: UUID | None = field(default=None, repr=False, compare=False)

    @property
    def id(self) -> UUID:
        """Follows from the saga, its key and its incarnation; who knows it gives it, since every transition asks."""
        return self._id or saga_id(self.saga, self.key, self.incarnation)

    @property
    def status(self) -> SagaStatus:
        if self.ended is not None:
            return self.ended
        if not _STUCK.isdisjoint([step.status for step in self.steps.values()]):
            return SagaStatus.STUCK
        return SagaStatus.RUNNING if self.turned is None else SagaStatus.COMPENSATING

    @property
    def wake_at(self) -> datetime | None:
        """When the clock next concerns this saga; None if it never does."""
        if self.ended is not None:
            return None
        return min([step.due for step in self.steps.values() if step.due is not None], default=None)


@lru_cache(maxsize=10_000)  # every transition asks several times
def saga_id(saga: str, key: str, incarnation: int = 0) -> UUID:
    """The id of an instance: a name-based UUID, so that a saga started twice with one key is one saga."""
    return derived(NAMESPACE, f"saga/{saga}/{incarnation}/{key}")


def to_snapshot(instance: Instance) -> str:
    """The instance as JSON. Every field is written, so that a snapshot can be compared with the fold of its log."""
    return to_text(
        {
            "saga": instance.saga,
            "version": instance.version,
            "key": instance.key,
            "incarnation": instance.incarnation,
            "data": instance.data,
            "seq": instance.seq,
            "steps": {
                # An enumeration's member would be written alike, in ten times the time.
                path: [str(step.status), step.generation, step.attempt, step.spent, step.command_id, step.due]
                for path, step in instance.steps.items()
            },
            "branches": instance.branches,
            "fans": {name: [fan.count, fan.data] for name, fan in instance.fans.items()} if instance.fans else {},
            "turned": None if instance.turned is None else [getattr(instance.turned, f) for f in Turned.__slots__],
            "early": instance.early,
            "ended": None if instance.ended is None else str(instance.ended),
        }
    )


def from_snapshot(text: str, id: UUID | None = None) -> Instance:
    """What ``to_snapshot`` wrote of the saga with this id."""
    raw: dict[str, Any] = from_text(text)
    raw["steps"] = {
        path: StepState(
            _STATUSES[status],
            generation,
            attempt,
            spent,
            None if command is None else to_id(command),
            None if due is None else datetime.fromisoformat(due),
        )
        for path, (status, generation, attempt, spent, command, due) in raw["steps"].items()
    }
    if raw["fans"]:
        raw["fans"] = {name: Fan(*fan) for name, fan in raw["fans"].items()}
    if raw["turned"] is not None:
        raw["turned"] = Turned(*raw["turned"])
    if raw["ended"] is not None:
        raw["ended"] = SagaStatus(raw["ended"])
    return Instance(**raw, _id=id)


def forgotten(instance: Instance) -> Instance:
    """What is left of an ended saga whose state and log are deleted: which it was, and how it ended.

    It answers whatever still comes as the whole one would.
    """
    if instance.ended is None:
        raise ValueError(f"saga {instance.id} has not ended")
    which = (instance.saga, instance.version, instance.key, instance.incarnation)
    return Instance(*which, data="{}", seq=instance.seq, ended=instance.ended)
