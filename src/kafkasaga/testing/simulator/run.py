"""One run: a system of processes, driven through one schedule, and looked at afterwards."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kafkasaga.messages import Message, Record, SagaState
from kafkasaga.ports import InboxKey, Prunable, SagaChange, Store
from kafkasaga.runtime.routing import SagaRoute, Task
from kafkasaga.runtime.service import Service
from kafkasaga.saga.definition import Definition
from kafkasaga.testing.memory import MemoryStore
from kafkasaga.testing.simulator import checks
from kafkasaga.testing.simulator.answers import Answers
from kafkasaga.testing.simulator.chance import Chance, Fault
from kafkasaga.testing.simulator.databases import Database
from kafkasaga.testing.simulator.front import CUSTOMERS, Customers, Errand, Starter, errands_for, key_of_state, starts
from kafkasaga.testing.simulator.gate import Gate
from kafkasaga.testing.simulator.history import Effect, History, Transaction, Violation
from kafkasaga.testing.simulator.kafka import WorldBroker
from kafkasaga.testing.simulator.participants import WatchedRouter, effect_of
from kafkasaga.testing.simulator.process import Process, Site, next_timer
from kafkasaga.testing.simulator.report import Diagram
from kafkasaga.testing.simulator.world import Endless, World, WorldClock, WorldWaiting

SQL_EVERY = 20
"""One run in so many has all its databases in SQLite: the library's own statements, but no overlapping transactions."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated: the same for all runs."""

    definition: Definition
    routers: tuple[tuple[Service, WatchedRouter], ...]
    """Every service but the customers."""
    outside: tuple[Service, WatchedRouter]
    """The customers."""
    orchestrator: str
    made_up: frozenset[str]
    """The services that the simulator made up."""
    databases: Mapping[str, Database]
    """Services that need SQL always; the others sometimes run on it."""
    sessions: frozenset[str]
    starts: Sequence[Message | SagaState] | None
    faults: frozenset[Fault]
    check: Mapping[str, Callable[[Any], Any]]
    keep: Mapping[Prunable, timedelta]
    """What services forget, and how old it is then."""


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    chance: Chance
    violation: Violation | None
    diagram: Diagram
    seconds: float
    """Virtual time."""
    ended: Counter[str]
    """How the sagas ended."""
    forgotten: Counter[Prunable]


class Run:
    """The stage of one run (see ``process.Stage`` and ``participants.Stage``)."""

    def __init__(self, plan: Plan, chance: Chance, *, trace: bool = False) -> None:
        self.plan, self.chance = plan, chance
        self.world = World(chance)
        self.broker = WorldBroker(self.world)
        self.history = History(self.fail)
        self.diagram = Diagram(trace=trace)
        self.failing: dict[str, int] = {}
        self.violation: Violation | None = None
        self.keep: Mapping[Prunable, timedelta] = plan.keep if chance.choose("pruners", (False, True)) else {}
        self.sites: list[Site] = []
        self.records: dict[str, dict[tuple[str, int, int], Sequence[InboxKey]]] = {}
        self._saga_tasks: dict[tuple[str, Any], Effect] = {}
        self.history.read = self.records
        self._answers = Answers(self.fail)
        gate = Gate(self)
        self.history.before_change = lambda done, change: self._changing(gate, done, change)

    def perform(self) -> Outcome:
        """Run it to its end, and look at what is left."""
        state = random.getstate()
        random.seed(self.chance.seed)  # back-off jitter, and handlers that throw dice, repeat themselves
        try:
            self._assemble()
            self._drive()
            if self.violation is None:
                for violation in checks.after(self):
                    self.fail(violation)
                    break
        finally:
            self.world.shut_down()
            random.setstate(state)
        ended = Counter(str(instance.status) for instance in self.history.instances.values())
        forgotten = self.history.forgotten
        return Outcome(self.chance, self.violation, self.diagram, self.world.time, ended, forgotten)

    # -- what the processes and handlers tell

    def fail(self, violation: Violation) -> None:
        self.violation = self.violation or violation
        self.world.stopped = True

    def note(self, who: str, what: str) -> None:
        self.diagram.note(self.world.time, who, what)

    def effect(self, effect: Effect) -> None:
        strand = self.world.current
        assert strand is not None
        if not isinstance(strand.doing, Transaction):
            self.fail(Violation("I1 atomic effects", f"{effect.service} ran a handler outside of any transaction"))
            return
        strand.doing.effects.append(effect)
        self.diagram.message(self.world.time, effect.inbox.source, effect.service, effect)

    def given(self, service: str, record: Record, tasks: Sequence[Task]) -> None:
        self.records[service][record.topic, record.partition, record.offset] = [task.inbox_key for task in tasks]
        for task in tasks:
            if isinstance(task.route, SagaRoute):
                self._saga_tasks[service, task.attributes.id] = effect_of(service, task, None)

    def _changing(self, gate: Gate, done: Transaction, change: SagaChange) -> None:
        gate.check(done, change)
        found = {entry.cause: self._saga_tasks.get((done.service, entry.cause)) for entry in change.entries}
        causes = {cause: effect for cause, effect in found.items() if cause is not None and effect is not None}
        self._answers.check(change, causes)
        for effect in causes.values():
            self.history.saga_effect(effect)
            self.diagram.message(self.world.time, effect.inbox.source, effect.service, effect)
        for entry in change.entries:
            self.diagram.event(self.world.time, done.service, change.instance.key, entry.event)

    # -- putting it together

    def _assemble(self) -> None:
        plan, chance = self.plan, self.chance
        on_sql = chance.seed % SQL_EVERY == SQL_EVERY - 1
        begun = list(plan.starts or starts(plan.definition, chance.choose("sagas", (2, 1, 1, 3))))
        for service, router in plan.routers:
            router.stage = self
            self.records[service.name] = {}
            self._add(service, router, self._store(service.name, on_sql=on_sql))
        self._add(*plan.outside, MemoryStore(WorldWaiting(self.world)))
        made_up = [router for service, router in plan.routers if service.name in plan.made_up]
        later = max(self.keep.values(), default=timedelta()) + timedelta(hours=1) if self.keep else timedelta()
        errands = errands_for(chance, plan.definition, begun, made_up, later.total_seconds())
        states = deque(
            (key_of_state(plan.definition, s, n), s) for n, s in enumerate(begun) if isinstance(s, SagaState)
        )
        for site in self.sites:
            self._man(site, errands, states)
        self.world.next_timer = lambda: next_timer(self.sites, self.world.time)

    def _store(self, name: str, *, on_sql: bool) -> Store:
        if name in self.plan.databases and (on_sql or name in self.plan.sessions):
            return self.plan.databases[name].fresh()
        return MemoryStore(WorldWaiting(self.world))

    def _add(self, service: Service, router: WatchedRouter, store: Store) -> None:
        if isinstance(store, MemoryStore):
            store.ages.now = WorldClock(self.world).now
            store.outbound.now = lambda: 0.0  # who stands still loses the outbox, not who is late by some clock
        self.sites.append(Site(service, router, store, isinstance(store, MemoryStore)))

    def _man(self, site: Site, errands: deque[Errand], states: deque[Any]) -> None:
        """Start the replicas of a service: one or two."""
        replicas = self.chance.choose(f"replicas of {site.name}", (2, 1))
        for number in range(1, replicas + 1):
            self._begin(self._maker(site, number, errands, states))

    def _maker(self, site: Site, number: int, errands: deque[Errand], states: deque[Any]) -> Callable[[], Process]:
        places = Counter[str]()
        if site.name == CUSTOMERS:
            return lambda: Customers(self, site, number, places, errands)
        if site.name == self.plan.orchestrator:
            return lambda: Starter(self, site, number, places, self.plan.definition, states)
        return lambda: Process(self, site, number, places)

    def _begin(self, make: Callable[[], Process]) -> None:
        process = make()
        process.revive = lambda: self._begin(make)
        process.start()

    def _drive(self) -> None:
        try:
            self.world.run()
        except Endless as error:
            self.fail(Violation("I10 nothing silent", str(error)))
