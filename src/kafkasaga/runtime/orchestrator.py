"""Running sagas: from messages to decisions to log entries and commands, one transaction a batch.

All sagas that a batch concerns are locked and read by one statement, in the order of their ids; the machine decides for
each message in turn; one snapshot and all log entries of each saga are written at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Final
from uuid import UUID

import structlog

from kafkasaga.errors import KafkasagaError
from kafkasaga.messages import Envelope, SagaContext, SagaState, derived, id_text
from kafkasaga.ports import LogEntry, SagaChange, UnitOfWork
from kafkasaga.runtime.logs import carried
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.progress import Happened
from kafkasaga.runtime.routing import SagaRoute, Task
from kafkasaga.saga.definition import Definition
from kafkasaga.saga.instance import Instance, saga_id
from kafkasaga.saga.machine import Arrived, Input, RunLocal, Send, Start, Woken, decide, run_local
from kafkasaga.stores import CONTEXT, PublishContext, Published

log = structlog.get_logger("kafkasaga.orchestrator")
_SAGA: Final = carried("saga")
_SAGA_ID: Final = carried("saga_id")

Definitions = Mapping[tuple[str, int], Definition]


class Unmatched(KafkasagaError):
    """A message is for a saga that this service does not know."""


@dataclass(slots=True)
class _Changing:
    """A saga as this transaction changes it."""

    id: UUID
    before_seq: int
    instance: Instance | None
    entries: list[LogEntry]
    woken: bool = False


_Target = tuple[UUID, SagaContext | None]
"""The saga that a message is for, and what the message says of it."""


class SagaTurn:
    """The sagas of one batch, in one transaction."""

    def __init__(
        self,
        uow: UnitOfWork,
        sender: Sender,
        definitions: Definitions,
        tasks: Iterable[Task] = (),
        published: Published | None = None,
    ) -> None:
        self._uow, self._sender, self._definitions = uow, sender, definitions
        self.published = published or Published(sender.place)
        self._newest = dict(sorted(definitions))
        self._now: datetime | None = None
        self._changing: dict[UUID, _Changing] = {}
        self._targets = self._find(tasks)
        self._load([saga_id for saga_id, _ in self._targets.values()])

    def handle(self, task: Task) -> list[Envelope]:
        """What a message makes its saga send.

        Raises:
            Unmatched: if it is for no saga that is known here.
            Exception: whatever a function of the saga's definition raises.
        """
        route = task.route
        assert isinstance(route, SagaRoute)
        target = self._targets.get(id(task))
        if target is None:
            log.debug("reply for another saga", saga=route.saga, message_id=str(task.attributes.id))
            return []
        changing, context = self._changing[target[0]], target[1]
        input: Input
        if route.starts and context is None:
            assert task.message is not None
            input = Start(key=task.key, message=task.message)
        elif changing.instance is None:
            named = f"saga {context.saga_id}" if context is not None else f"a {route.saga!r} saga with key {task.key!r}"
            raise Unmatched(f"{task.attributes.type!r} is for {named}, which is not known here")
        else:
            input = Arrived(task.attributes.type, task.message, context)
        return self._decide(changing, route.saga, input, cause=task)

    def start(
        self, definition: Definition, key: str, state: SagaState, incarnation: int
    ) -> tuple[UUID, list[Envelope]]:
        """Start a saga from a state."""
        target = saga_id(definition.name, key, incarnation)
        self._load({target})
        start = Start(key=key, state=state, incarnation=incarnation)
        return target, self._decide(self._changing[target], definition.name, start, cause=None)

    def act(self, target: UUID, input: Input, at: datetime | None = None) -> list[Envelope]:
        """Give a saga an input that no message brought, at a time (by default: now).

        Raises:
            Unmatched: if the saga does not exist.
        """
        self._load({target})
        changing = self._changing[target]
        if changing.instance is None:
            raise Unmatched(f"there is no saga {target}")
        changing.woken |= isinstance(input, Woken)
        return self._decide(changing, changing.instance.saga, input, cause=None, at=at)

    def instances(self, ids: Collection[UUID]) -> dict[UUID, Instance]:
        """Lock and read sagas."""
        self._load(ids)
        return {id: found for id in ids if (found := self._changing[id].instance) is not None}

    @property
    def happened(self) -> Happened:
        """What has happened to each saga."""
        return [
            (c.instance, [entry.event for entry in c.entries])
            for c in self._changing.values()
            if c.instance is not None and c.entries
        ]

    def time_passed(self) -> None:
        """Something was done that may have taken long."""
        self._now = None

    def finish(self, envelopes: Iterable[Envelope]) -> None:
        """Write what local steps left in the session, what changed, and what is to be sent of it."""
        self._uow.flush()
        self.save()
        self._uow.add_outbox(self.published.kept(envelopes))

    def save(self) -> None:
        """Write what changed."""
        changes = [
            SagaChange(c.before_seq, c.instance, tuple(c.entries), c.woken)
            for c in self._changing.values()
            if c.instance is not None and (c.entries or c.woken)
        ]
        if changes:
            self._uow.save_sagas(changes)

    def _find(self, tasks: Iterable[Task]) -> dict[int, _Target]:
        """Which saga each task is for, by ``id(task)``; a reply that another saga awaits is for none."""
        found: dict[int, _Target] = {}
        by_key: dict[tuple[str, str], list[Task]] = {}
        for task in tasks:
            route = task.route
            if not isinstance(route, SagaRoute):
                continue
            if task.saga is not None:
                found[id(task)] = task.saga, route.context(task.attributes)
            elif task.is_sought:
                by_key.setdefault((route.saga, task.key), []).append(task)
        current = self._uow.current_sagas(by_key.keys()) if by_key else {}
        for key, waiting in by_key.items():
            # Unknown so far, it may still begin in this very batch: then it is the first incarnation.
            newest = current.get(key) or saga_id(*key)
            found |= {id(task): (newest, None) for task in waiting}
        return found

    def _load(self, ids: Collection[UUID]) -> None:
        missing = [id for id in ids if id not in self._changing]
        if not missing:
            return
        loaded = self._uow.load_sagas(missing)
        for id in missing:
            instance = loaded.get(id)
            self._changing[id] = _Changing(id, 0 if instance is None else instance.seq, instance, [])

    def _decide(
        self, changing: _Changing, saga: str, input: Input, cause: Task | None, at: datetime | None = None
    ) -> list[Envelope]:
        definition = self._definition(saga, changing.instance)
        bound, bound_id = _SAGA.set(saga), _SAGA_ID.set(id_text(changing.id))
        try:
            return self._turns(changing, definition, input, cause, at)
        finally:
            _SAGA_ID.reset(bound_id)
            _SAGA.reset(bound)

    def _turns(
        self, changing: _Changing, definition: Definition, input: Input, cause: Task | None, at: datetime | None
    ) -> list[Envelope]:
        """Decide, and decide again with what each local step leaves behind."""
        trace = None if cause is None else cause.attributes.traceparent
        why = None if cause is None else cause.attributes.id
        envelopes: list[Envelope] = []
        next: Input | None = input
        while next is not None:
            now = at or self._time()
            decision = decide(definition, changing.instance, next, now)
            next = None
            seq = 0 if changing.instance is None else changing.instance.seq
            changing.entries += [LogEntry(seq + n, event, now, why) for n, event in enumerate(decision.events, 1)]
            changing.instance = decision.instance
            for effect in decision.effects:
                match effect:
                    case Send():
                        message, id, context = effect.message, effect.id, effect.context
                        envelopes.append(self._sender.envelope(message, id, now, saga=context, traceparent=trace))
                    case RunLocal():
                        session = self._local_session(decision.instance, effect, trace, now)
                        try:
                            next = run_local(definition, decision.instance, effect, session)
                        finally:
                            del session.info[CONTEXT]
                        self.time_passed()
                        envelopes += self.published.take()
        return envelopes

    def _time(self) -> datetime:
        """Of a decision. Many are made in a moment: they have one time."""
        if self._now is None:
            self._now = self._sender.clock.now()
        return self._now

    def _local_session(self, instance: Instance, effect: RunLocal, trace: str | None, now: datetime) -> Any:
        """The session for a local step. What it publishes gets ids by its place in the saga, as commands do."""
        place = f"local/{effect.operation}/{effect.step}/{instance.seq}"
        numbers = count()

        def next_id() -> UUID:
            return derived(instance.id, f"{place}/{next(numbers)}")

        session = self._uow.session
        session.info[CONTEXT] = PublishContext(self._sender.source, next_id, trace, now, self.published)
        return session

    def _definition(self, saga: str, instance: Instance | None) -> Definition:
        """The version that an instance began with; the newest, for one that begins now (invariant I15)."""
        version = self._newest[saga] if instance is None else instance.version
        definition = self._definitions.get((saga, version))
        if definition is None:
            raise KafkasagaError(
                f"saga {saga!r} version {version} has an instance under way, but this service no longer has it; "
                f"keep its class in Service(sagas=[…]) until its last instance has ended"
            )
        return definition
