"""A simulated process: the real loops of one service, over a database and a broker that may fail it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from kafkasaga.errors import DatabaseUnavailable
from kafkasaga.messages import contract_of
from kafkasaga.ports import Prunable, Store, TopicPartition
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.pruner import Pruner
from kafkasaga.runtime.relay import Relay
from kafkasaga.runtime.routing import Router
from kafkasaga.runtime.service import Service
from kafkasaga.runtime.timekeeper import Timekeeper
from kafkasaga.testing.memory import MemoryStore, MemoryUnitOfWork
from kafkasaga.testing.simulator.chance import Fault
from kafkasaga.testing.simulator.contents import unsent, waiting
from kafkasaga.testing.simulator.history import History, Violation
from kafkasaga.testing.simulator.kafka import WorldBroker, WorldConsumer, WorldProducer
from kafkasaga.testing.simulator.store import WorldStore
from kafkasaga.testing.simulator.world import EPOCH, Killed, World, WorldClock

SESSION_TIMEOUT: Final = 15.0
"""Seconds after which the others of its group, or of its outbox, notice that a process is gone."""
IDLE_IN_TRANSACTION: Final = 60.0
"""Seconds after which the database ends the transaction of a process that stands still."""
BATCH: Final = 8
"""Records in a transaction: few, so that there are many transactions."""


class _Port(Protocol):
    def lose(self) -> None: ...


@dataclass(eq=False, slots=True)
class Site:
    """A service with its database: what is left when its processes die."""

    service: Service
    router: Router
    store: Store
    overlapping: bool
    """Whether transactions of this store can overlap."""
    down_until: float = 0.0
    jumped: bool = False
    processes: list[Process] = field(default_factory=lambda: list[Process]())  # noqa: PLW0108 (not defined yet)

    @property
    def name(self) -> str:
        return self.service.name


class Stage(Protocol):
    """The system around a process."""

    world: World
    broker: WorldBroker
    history: History
    keep: Mapping[Prunable, timedelta]
    """What is forgotten in this run, and how old it is then."""

    def note(self, who: str, what: str) -> None:
        """For the diagram."""
        ...

    def fail(self, violation: Violation) -> None:
        """A law was broken."""
        ...


class Process:
    """One replica of a service; after a crash there is a new one of the same name."""

    def __init__(self, stage: Stage, site: Site, number: int, places: Counter[str]) -> None:
        self.stage, self.site, self.number = stage, site, number
        self.service, self.name = site.name, f"{site.name}-{number}"
        self.world, self.history = stage.world, stage.history
        self.alive = True
        self.clock = WorldClock(self.world)
        self.ports: list[_Port] = []
        self.units: set[MemoryUnitOfWork] = set()
        """Its transactions that are under way, in memory."""
        self._places = places
        self._frozen_until = 0.0
        self._consumer: WorldConsumer | None = None
        self._sender = Sender(self.service, site.service.codec, self.clock)
        self.revive: Callable[[], None] = lambda: None
        """Starts its successor."""
        site.processes.append(self)

    def start(self) -> None:
        """Put the loops to work."""
        if self.site.service.reads:
            self._spawn("consumer", lambda: self._consume().run())
            self._spawn("timekeeper", lambda: self._timekeeper().run())
        self._spawn("relay", lambda: self._relay().run())
        if keep := self.stage.keep:
            self._spawn("pruner", lambda: Pruner(self._store(), keep, self.clock).run())

    # -- what may happen anywhere

    def point(self, what: str, *, waits: bool = True, deadly: bool = True) -> None:
        """A place in the program where time passes and things go wrong."""
        place, world = self.place(what), self.world
        if waits:
            world.sleep(world.chance.latency(place))
        if not self.alive:
            raise Killed
        if deadly and world.chance.strikes(Fault.CRASH, place, what):
            self.note(f"dies ({what})")
            self.die()
            raise Killed
        if waits and (deadly or what.startswith("statement")) and world.chance.strikes(Fault.FREEZE, place, what):
            seconds = world.chance.choose(f"freeze {place}", (20.0, 2.0, 100.0, 400.0))
            self.note(f"stands still for {seconds:.0f} s ({what})")
            self._freeze(seconds)
            world.sleep(0)
        if not deadly:
            return
        if world.chance.strikes(Fault.CLOCK_JUMP, place, "clock"):
            seconds = world.chance.choose(f"jump {place}", (-3600.0, 3600.0, -90.0, 90.0, 86_400.0))
            self.note(f"has its clock jump by {seconds:+.0f} s")
            self.clock.offset += seconds
            self.site.jumped = True
            world.change()
        if world.chance.strikes(Fault.DATABASE_OUTAGE, place, "database"):
            self._database_goes(world.chance.choose(f"outage {place}", (5.0, 0.3, 70.0)))
        if world.chance.strikes(Fault.BROKER_OUTAGE, place, "broker"):
            seconds = world.chance.choose(f"outage {place}", (5.0, 0.3, 70.0, 200.0))
            self.note(f"sees the broker go for {seconds:.1f} s")
            self.stage.broker.down_until = world.time + seconds
            world.at(world.time + seconds, world.change)

    def place(self, what: str) -> str:
        """The name of this place, this time: ``inventory-1 before commit #3``."""
        self._places[what] += 1
        return f"{self.name} {what} #{self._places[what]}"

    def strikes(self, fault: Fault, what: str) -> bool:
        """Whether a fault strikes here."""
        return self.world.chance.strikes(fault, self.place(what), what)

    def note(self, what: str) -> None:
        """For the diagram."""
        self.stage.note(self.name, what)

    def held(self) -> float:
        """Until when it stands still."""
        return self._frozen_until

    def database_answers(self) -> None:
        """Raises DatabaseUnavailable while the database is away."""
        if self.world.time < self.site.down_until:
            raise DatabaseUnavailable("the simulated database is down")

    def check_offsets(self, positions: Mapping[TopicPartition, int]) -> None:
        """What Kafka is told must have been committed (invariant I5)."""
        for place, offset in positions.items():
            known = self.history.offsets.get((self.service, place), 0)
            if offset > known:
                self.stage.fail(
                    Violation(
                        "I5 offsets follow commits",
                        f"{self.name} told Kafka offset {offset} of {place.topic}/{place.partition} "
                        f"when its database had only noted {known}",
                    )
                )

    # -- how it ends, or stands still

    def die(self) -> None:
        """Everything in memory is gone; a successor of the same name comes soon."""
        self.alive = False
        self.site.processes.remove(self)
        self.world.kill(self)
        again = self.world.time + self.world.chance.choose(self.place("restart"), (0.5, 0.05, 4.0))
        self.world.at(again, self._restart)

    def _restart(self) -> None:
        self._leave()
        self.revive()

    def _freeze(self, seconds: float) -> None:
        self._frozen_until = self.world.time + seconds
        if seconds > SESSION_TIMEOUT:
            self.world.at(self.world.time + SESSION_TIMEOUT, self._is_given_up)
            self.world.at(self._frozen_until, self._comes_back)
        if seconds > IDLE_IN_TRANSACTION and isinstance(self.site.store, MemoryStore):
            units = list(self.units)

            def end_transactions() -> None:
                for unit in units:
                    unit.abort("it stood still for too long")

            self.world.at(self.world.time + IDLE_IN_TRANSACTION, end_transactions)

    def _is_given_up(self) -> None:
        self._leave()
        for port in self.ports:
            port.lose()
        self.world.change()

    def _comes_back(self) -> None:
        if self.alive and self._consumer is not None and self._consumer.topics:
            self._leave()  # it may have been given up twice
            self._consumer.broker.join(self._consumer.group, self._consumer)
        self.world.change()

    def _leave(self) -> None:
        if self._consumer is not None:
            self._consumer.broker.leave(self._consumer.group, self._consumer)

    def _database_goes(self, seconds: float) -> None:
        self.note(f"sees its database go for {seconds:.1f} s")
        self.site.down_until = self.world.time + seconds
        if isinstance(self.site.store, MemoryStore):
            for unit in list(self.site.store.under_way):
                unit.abort("the database was restarted")
        self.world.at(self.world.time + seconds, self.world.change)

    # -- its loops

    def _spawn(self, role: str, run: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                run()
            except Killed:
                pass
            except Exception as error:  # noqa: BLE001 (what ends a loop ends the service)
                self.stage.fail(Violation("I10 nothing silent", f"the {role} of {self.name} ended: {error!r}"))

        self.world.spawn(f"{self.name} {role}", role, self, guarded, self.held)

    def _store(self) -> WorldStore:
        return WorldStore(self, self.site.store, overlapping=self.site.overlapping)

    def _batches(self, store: WorldStore) -> BatchRunner:
        service = self.site.service
        return BatchRunner(self.service, store, self.site.router, service.definitions, self._sender, service.parking)

    def _consume(self) -> ConsumerLoop:
        store = self._store()
        self._consumer = WorldConsumer(self.stage.broker, self.service, self)
        return ConsumerLoop(
            self.service,
            self._consumer,
            store,
            self._batches(store),
            self.site.router.topics,
            batch_size=BATCH,
            clock=self.clock,
        )

    def _relay(self) -> Relay:
        return Relay(
            self._store().relay_queue(),
            lambda: WorldProducer(self.stage.broker, self),
            self.clock,
            poll_interval=1.0,
        )

    def _timekeeper(self) -> Timekeeper:
        store, service = self._store(), self.site.service
        replies = sorted({contract_of(t).topic for d in service.definitions.values() for t in d.replies})

        def ends() -> Mapping[TopicPartition, int]:
            self.point("before reading ends")
            return {place: end for place, end in self.stage.broker.ends(replies).items() if end > 0}

        return Timekeeper(self.service, store, ends, service.definitions, self._sender, self._batches(store))


def next_timer(sites: Sequence[Site], now: float) -> float | None:
    """When, at the earliest, something falls due in a database; the past, if something is overdue."""
    found: list[float] = []
    for site in sites:
        ahead = max((process.clock.offset for process in site.processes), default=0.0)
        due = site.store.next_due()
        times = [] if due is None else [due]
        times += [message.next_at or message.parked_at for message in waiting(site.store)]
        found += [(time - EPOCH).total_seconds() - ahead + 0.001 for time in times]
        if unsent(site.store):
            found.append(now)
    return min(found, default=None)
