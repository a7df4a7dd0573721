"""What really happened in a run, noted at each commit, and what was wrong with it at once.

The checks do not trust the library's own tables: an effect is what a handler did in a transaction that committed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from kafkasaga.messages import Envelope, Operation, SagaContext
from kafkasaga.ports import BarrierKey, InboxKey, LogEntry, Prunable, SagaChange, TopicPartition
from kafkasaga.saga.instance import Instance


@dataclass(frozen=True, slots=True)
class Violation:
    """A law that was broken."""

    law: str
    what: str

    def __str__(self) -> str:
        return f"{self.law}: {self.what}"


class Lane(NamedTuple):
    """One (topic, key), as one consumer reads it, or as one service writes it."""

    who: str
    topic: str
    key: str


@dataclass(frozen=True, slots=True)
class Effect:
    """A message took effect: a handler returned, or a saga noted it."""

    service: str
    inbox: InboxKey
    type: str
    lane: Lane | None
    saga: SagaContext | None
    reply: str | None
    """The type of what the handler answered."""

    @property
    def barrier(self) -> BarrierKey | None:
        """The operation of a step that it carried out, if it did."""
        saga = self.saga
        if saga is None or saga.command_id is not None or self.inbox.consumer.startswith("saga:"):
            return None
        return BarrierKey(saga.saga_id, saga.step, saga.generation, saga.operation)


@dataclass(slots=True)
class Transaction:
    """What one transaction did, as long as it is not known whether it commits."""

    service: str
    process: str
    began: int
    claimed: set[InboxKey] = field(default_factory=set[InboxKey])
    effects: list[Effect] = field(default_factory=list[Effect])
    changes: list[SagaChange] = field(default_factory=list[SagaChange])
    sent: list[Envelope] = field(default_factory=list[Envelope])
    parked: set[InboxKey] = field(default_factory=set[InboxKey])
    unmatched: set[UUID] = field(default_factory=set[UUID])
    waiting: set[BarrierKey] = field(default_factory=set[BarrierKey])
    """What was asked for by the commands that it parked behind others."""
    offsets: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    wrote: bool = False


class Sent(NamedTuple):
    """A message of a committed transaction."""

    service: str
    envelope: Envelope
    began: int
    committed: int


class Committed(NamedTuple):
    """An effect and its place in the order of commits."""

    at: int
    effect: Effect


class History:
    """Everything that was committed in one run."""

    def __init__(self, fail: Callable[[Violation], None]) -> None:
        self._fail = fail
        self.clock = 0
        """Counts begins and commits of transactions."""
        self.effects: list[Committed] = []
        self.sent: dict[UUID, Sent] = {}
        self.inbox: dict[str, dict[InboxKey, int]] = defaultdict(dict)
        self.parked: dict[str, set[InboxKey]] = defaultdict(set)
        self.unmatched = set[UUID]()
        """Messages that were parked because they belonged to no saga: the runtime keeps them in no lane."""
        self.instances: dict[UUID, Instance] = {}
        self.logs: dict[UUID, list[LogEntry]] = defaultdict(list)
        self.log_at: dict[UUID, list[int]] = defaultdict(list)
        """For each entry of a log, when it was committed."""
        self.forgotten = Counter[Prunable]()
        """How much was forgotten because of its age."""
        self.homes: dict[UUID, str] = {}
        """The service in whose database a saga lies."""
        self.offsets: dict[tuple[str, TopicPartition], int] = {}
        self.read: Mapping[str, Mapping[tuple[str, int, int], Sequence[InboxKey]]] = {}
        """For each service, the inbox keys of each record that it was given."""
        self.before_change: Callable[[Transaction, SagaChange], None] = lambda _, __: None
        self._done: dict[tuple[str, InboxKey], Effect] = {}
        self._carried_out: dict[tuple[str, BarrierKey], Effect] = {}

    def begin(self, service: str, process: str) -> Transaction:
        """A transaction begins."""
        self.clock += 1
        return Transaction(service, process, self.clock)

    def commit(self, done: Transaction) -> None:
        """It has committed."""
        self.clock += 1
        for change in done.changes:
            self._change(done, change)
        for effect in done.effects:
            self._effect(effect)
        for asked in done.waiting:
            self._waiting(done.service, asked)
        for envelope in done.sent:
            self.sent.setdefault(envelope.id, Sent(done.service, envelope, done.began, self.clock))
        for key in done.claimed:
            self.inbox[done.service][key] = self.clock
        self.parked[done.service] |= done.parked
        self.unmatched |= done.unmatched
        for place, offset in done.offsets.items():
            self._advance(done.service, place, offset)

    def saga_effect(self, effect: Effect) -> None:
        """A saga has noted a message; a second transaction must not."""
        self._effect(effect)

    def _effect(self, effect: Effect) -> None:
        key = (effect.service, effect.inbox)
        if key in self._done:
            self._fail(Violation("I3 once", f"{effect.service} handled {effect.type} {effect.inbox.message_id} twice"))
        self._done[key] = effect
        self.effects.append(Committed(self.clock, effect))
        if (barrier := effect.barrier) is not None:
            self._barrier(effect, barrier)

    def _barrier(self, effect: Effect, key: BarrierKey) -> None:
        """The laws of the barrier that concern what went before (invariant I9)."""
        who, what = effect.service, f"{key.operation} of step {key.step!r} generation {key.generation}"
        if (who, key) in self._carried_out:
            self._fail(Violation("I9 barrier", f"{who} carried out the {what} twice"))
        if key.operation is Operation.ACTION:
            if self._compensated(who, key):
                self._fail(
                    Violation("I9 barrier", f"{who} carried out the {what} after its compensation (it hangs now)")
                )
        else:
            action = self._carried_out.get((who, key._replace(operation=Operation.ACTION)))
            if action is None:
                self._fail(Violation("I9 barrier", f"{who} carried out the {what}, but its action never ran"))
            elif effect.saga is not None and action.reply in effect.saga.failures:
                self._fail(Violation("I9 barrier", f"{who} carried out the {what}, but its action had been refused"))
        self._carried_out[who, key] = effect

    def _waiting(self, who: str, key: BarrierKey) -> None:
        """What a compensation waits behind may be its own action, dead: it has to be answered where nothing ran."""
        if key.operation is Operation.COMPENSATION and (who, key.action) not in self._carried_out:
            self._fail(
                Violation(
                    "I9 barrier",
                    f"{who} let the {key.operation} of step {key.step!r} generation {key.generation} wait behind "
                    "parked messages, although its action never ran",
                )
            )

    def _compensated(self, who: str, action: BarrierKey) -> bool:
        compensation = action._replace(operation=Operation.COMPENSATION)
        if (who, compensation) in self._carried_out:
            return True
        return any(
            sent.service == who
            and (saga := sent.envelope.saga) is not None
            and saga.mark is not None
            and BarrierKey(saga.saga_id, saga.step, saga.generation, saga.operation) == compensation
            for sent in self.sent.values()
        )

    def _change(self, done: Transaction, change: SagaChange) -> None:
        id, log = change.instance.id, self.logs[change.instance.id]
        if change.before_seq != len(log):
            self._fail(
                Violation("I6 fencing", f"a transition from entry {change.before_seq} was saved on top of {len(log)}")
            )
        self.before_change(done, change)
        log += change.entries
        self.log_at[id] += [self.clock] * len(change.entries)
        self.instances[id], self.homes[id] = change.instance, done.service

    def _advance(self, service: str, place: TopicPartition, offset: int) -> None:
        """A position in the database says that everything before it was handled, or parked (invariant I5)."""
        was = self.offsets.get((service, place), 0)
        self.offsets[service, place] = max(was, offset)
        records, inbox = self.read.get(service, {}), self.inbox[service]
        for n in range(was, offset):
            keys = records.get((place.topic, place.partition, n))
            if keys is None or any(key not in inbox for key in keys):
                self._fail(
                    Violation(
                        "I5 offsets follow commits",
                        f"{service} noted offset {offset} of {place.topic}/{place.partition}, "
                        f"but nothing that it committed deals with the record at {n}",
                    )
                )
                return
