"""The timekeeper: deadlines, next attempts, and parked messages whose time has come.

A deadline says "no reply came". That is true only once every reply that *has* come was read. So a saga whose timer is
due is not woken before

1. its command has left the outbox (else the participant cannot have had it), and then had the deadline's time;
2. this service has read the reply topics up to the ends that they had after the timer fell due.

An orchestrator that was away for an hour therefore does not cancel sagas whose replies wait in the topic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.messages import Envelope
from kafkasaga.ports import Store, TopicPartition
from kafkasaga.runtime import progress
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.orchestrator import Definitions, SagaTurn
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.saga.flow import LocalStep
from kafkasaga.saga.instance import Instance
from kafkasaga.saga.machine import Woken

log = structlog.get_logger("kafkasaga.timekeeper")

AT_ONCE = 200
"""Sagas woken in one transaction."""
INTERVAL = 0.25
"""Seconds between looks at the timers."""
UNAVAILABLE = 2.0
"""Seconds between looks while something is away."""
RECHECK = timedelta(seconds=1)
"""Between looks at a saga whose command is still in the outbox."""
FAILED = timedelta(seconds=30)
"""Until a saga is woken again after a function of its definition has raised."""


Due = frozenset[tuple[str, datetime]]
"""The steps of a saga that are due, and since when."""


@dataclass(frozen=True, slots=True)
class _Gate:
    """Sagas that are due, and how far the reply topics must have been read before they may be woken."""

    due: Mapping[UUID, Due]
    ends: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class _Hold:
    """A saga that is due and may not be woken yet."""

    until: datetime
    unsent: bool
    """Its command was in the outbox when last looked at: from when it is seen to be gone, the deadline's time runs."""


class Timekeeper:
    """Wakes sagas when they are due, and has parked messages tried again."""

    def __init__(
        self,
        group: str,
        store: Store,
        ends: Callable[[], Mapping[TopicPartition, int]],
        definitions: Definitions,
        sender: Sender,
        batches: BatchRunner,
    ) -> None:
        self._group, self._store, self._ends = group, store, ends
        self._definitions, self._sender, self._batches = definitions, sender, batches
        self._gate: _Gate | None = None
        self._held: dict[UUID, _Hold] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        """Keep time until ``stop``."""
        away = False
        while not self._stopping.is_set():
            try:
                busy = self.step()
                if away:
                    log.info("timekeeper goes on")
                away = False
            except EnvironmentUnavailable as error:
                busy = False
                if not away:
                    log.warning("timekeeper waits", error=str(error))
                away = True
            except SerializationConflict:
                busy = False
            if not busy:
                self._sender.clock.wait(self._stopping, UNAVAILABLE if away else INTERVAL)

    def stop(self) -> None:
        """Let ``run`` end (from any thread)."""
        self._stopping.set()

    def step(self) -> bool:
        """One look at the timers and one at the parked messages; True if there was something to do."""
        woke = self._wake_due() if self._definitions else False
        retried = self._batches.retry_parked()
        return woke or retried

    def _wake_due(self) -> bool:
        if self._gate is None:
            due = self._due()
            if not due:
                return False
            self._gate = _Gate(due, dict(self._ends()))
        gate = self._gate
        read = self._store.positions(self._group, gate.ends.keys())
        if any(read.get(partition, 0) < end for partition, end in gate.ends.items()):
            return False
        self._gate = None
        self._wake(gate.due)
        return True

    def _due(self) -> dict[UUID, Due]:
        """Sagas that are due and whose commands have left the outbox long enough ago."""
        now = self._sender.clock.now()
        # Those on hold must not hide the others behind them.
        limit = AT_ONCE + len(self._held)
        ids = self._store.due_sagas(now, limit)
        if len(ids) < limit:
            self._held = {id: hold for id, hold in self._held.items() if id in ids}
        ids = [id for id in ids if id not in self._held or self._held[id].until <= now][:AT_ONCE]
        if not ids:
            return {}
        with self._store.begin() as uow:
            instances = uow.load_sagas(ids)
        waiting = {id: self._commands(instance, now) for id, instance in instances.items()}
        unsent = self._store.unsent([command for commands in waiting.values() for command in commands])
        ready = [id for id, commands in waiting.items() if self._may_wake(id, commands, unsent, now)]
        return {id: _due_steps(instances[id], now) for id in ready}

    def _may_wake(self, id: UUID, commands: Mapping[UUID, timedelta], unsent: Collection[UUID], now: datetime) -> bool:
        hold = self._held.pop(id, None)
        if any(command in unsent for command in commands):
            self._held[id] = _Hold(now + RECHECK, unsent=True)
        elif hold is not None and hold.unsent:
            self._held[id] = _Hold(now + max(commands.values(), default=timedelta()), unsent=False)
        return id not in self._held

    def _commands(self, instance: Instance, now: datetime) -> dict[UUID, timedelta]:
        """The commands whose deadlines are due, and how long those are."""
        definition = self._definitions.get((instance.saga, instance.version))
        found: dict[UUID, timedelta] = {}
        for path, state in instance.steps.items():
            if definition is None or state.due is None or state.due > now or state.command_id is None:
                continue
            step = definition.steps[path.partition("[")[0]]
            found[state.command_id] = timedelta() if isinstance(step, LocalStep) else step.deadline
        return found

    def _wake(self, due: Mapping[UUID, Due]) -> None:
        """All in one transaction; if a function of some saga's definition raises, each in one of its own."""
        try:
            self._commit(due)
        except (EnvironmentUnavailable, SerializationConflict):
            raise
        except Exception:
            if len(due) == 1:
                log.exception("a saga that is due could not be woken; it is tried again", saga_id=str(*due))
                self._held |= {id: _Hold(self._sender.clock.now() + FAILED, unsent=False) for id in due}
                return
            for id, steps in due.items():
                self._wake({id: steps})

    def _commit(self, due: Mapping[UUID, Due]) -> None:
        with self._store.begin() as uow:
            turn = SagaTurn(uow, self._sender, self._definitions)
            instances = turn.instances(sorted(due))
            outgoing: list[Envelope] = []
            now = self._sender.clock.now()
            for id, instance in instances.items():
                # What fell due since then has not passed the gate: its command may be unsent, its reply unread.
                if _due_steps(instance, now) <= due[id]:
                    outgoing += turn.act(id, Woken(), now)
            turn.finish(outgoing)
        progress.tell(turn.happened)


def _due_steps(instance: Instance, now: datetime) -> Due:
    return frozenset((path, s.due) for path, s in instance.steps.items() if s.due is not None and s.due <= now)
