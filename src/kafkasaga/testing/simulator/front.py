"""The world outside: customers who start sagas, events that sagas wait for, and other traffic in the same lanes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid5

from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.messages import NAMESPACE, Envelope, JsonCodec, Message, SagaState, contract_of, key_of
from kafkasaga.runtime.orchestrator import SagaTurn
from kafkasaga.saga.definition import Definition
from kafkasaga.saga.flow import WaitFor
from kafkasaga.testing.simulator.process import Process, Site, Stage
from kafkasaga.testing.simulator.samples import sample
from kafkasaga.testing.simulator.world import EPOCH

if TYPE_CHECKING:
    from kafkasaga.testing.simulator.chance import Chance
    from kafkasaga.testing.simulator.participants import WatchedRouter

CUSTOMERS = "customers"
"""The service that writes what comes from outside."""
_CODEC = JsonCodec()


@dataclass(frozen=True, slots=True)
class Errand:
    """Messages that someone publishes in one transaction."""

    at: float
    envelopes: tuple[Envelope, ...]


class Customers(Process):
    """A process of the outside world: it publishes through an outbox, and asks again until it knows that it did."""

    def __init__(self, stage: Stage, site: Site, number: int, places: Counter[str], errands: deque[Errand]) -> None:
        super().__init__(stage, site, number, places)
        self.errands = errands

    def start(self) -> None:
        super().start()
        if self.number == 1:
            self._spawn("front", self._run_errands)

    def _run_errands(self) -> None:
        store = self._store()
        while self.errands:
            errand = self.errands[0]
            if self.world.time < errand.at:
                self.world.sleep(errand.at - self.world.time)
            try:
                with store.begin() as uow:
                    uow.add_outbox(errand.envelopes)
            except (EnvironmentUnavailable, SerializationConflict):
                self.world.sleep(0.2)
            else:
                self.errands.popleft()


class Starter(Process):
    """A process of the orchestrator in which something starts sagas from a state."""

    def __init__(
        self,
        stage: Stage,
        site: Site,
        number: int,
        places: Counter[str],
        definition: Definition,
        states: deque[tuple[str, SagaState]],
    ) -> None:
        super().__init__(stage, site, number, places)
        self.definition, self.states = definition, states

    def start(self) -> None:
        super().start()
        if self.number == 1 and self.states:
            self._spawn("starter", self._start_sagas)

    def _start_sagas(self) -> None:
        store, definitions = self._store(), self.site.service.definitions
        while self.states:
            key, state = self.states[0]
            try:
                with store.begin() as uow:
                    turn = SagaTurn(uow, self._sender, definitions)
                    _, envelopes = turn.start(self.definition, key, state, 0)
                    uow.flush()
                    turn.save()
                    uow.add_outbox(envelopes)
            except (EnvironmentUnavailable, SerializationConflict):
                self.world.sleep(0.2)
            else:
                self.states.popleft()


def envelope(message: Message, name: str) -> Envelope:
    """A message from outside."""
    contract = contract_of(message)
    return Envelope(
        topic=contract.topic,
        key=key_of(message),
        id=uuid5(NAMESPACE, f"simulated/{name}"),
        source=CUSTOMERS,
        type=contract.type,
        time=EPOCH,
        payload=_CODEC.encode(message),
    )


def starts(definition: Definition, count: int) -> list[Message | SagaState]:
    """Made-up beginnings."""
    if definition.starts_on is not None:
        return [sample(definition.starts_on, n) for n in range(1, count + 1)]
    return [sample(definition.state, n) for n in range(1, count + 1)]


def errands_for(
    chance: Chance,
    definition: Definition,
    begun: Sequence[Message | SagaState],
    routers: Sequence[WatchedRouter],
    later: float,
) -> deque[Errand]:
    """Everything that comes from outside in one run; some of it ``later`` seconds later."""
    found: list[Errand] = []
    for n, start in enumerate(begun):
        at = chance.fraction(f"start {n}") * 0.05 + chance.choose(f"start later {n}", (0.0, 0.0, later))
        if isinstance(start, Message):
            found.append(Errand(at, (envelope(start, f"start/{n}"),)))
            if chance.choose(f"start again {n}", (False, False, True)):
                found.append(Errand(at + 0.001, (envelope(start, f"start again/{n}"),)))
        found += _events(chance, definition, start, n, at)
    for router in routers:
        found += _traffic(chance, router)
    return deque(sorted(found, key=lambda errand: errand.at))


def key_of_state(definition: Definition, state: SagaState, n: int) -> str:
    """The key of a saga that starts from a state: the field by which its messages are found, if the state has it."""
    messages = [definition.starts_on] if definition.starts_on is not None else definition.replies
    for message in messages:
        if hasattr(state, field := contract_of(message).key):
            return str(getattr(state, field))
    return f"saga-{n + 1}"


def _events(
    chance: Chance, definition: Definition, start: Message | SagaState, n: int, begins: float
) -> Iterator[Errand]:
    """Events that a saga waits for come soon, late, twice, with bad news, or never."""
    for name, step in definition.steps.items():
        if not isinstance(step, WaitFor):
            continue
        fate = chance.choose(f"event {name} {n}", ("good", "good", "bad", "twice", "never"))
        table = step.fails_on if fate == "bad" and step.fails_on else step.succeeds_on
        if fate == "never":
            continue
        event = chance.choose(f"which event {name} {n}", list(table.values())).type
        field = contract_of(event).key
        by = contract_of(start).key if isinstance(start, Message) else field
        known = {**dict(start), field: getattr(start, by)} if hasattr(start, by) else dict(start)
        message = sample(event, n + 1, known)
        at = chance.choose(f"when {name} {n}", (0.3, 0.0, 5.0, step.deadline.total_seconds()))
        for copy in range(2 if fate == "twice" else 1):
            yield Errand(begins + at, (envelope(message, f"event/{name}/{n}/{copy}"),))


def _traffic(chance: Chance, router: WatchedRouter) -> Iterator[Errand]:
    """Several messages of one key, from outside any saga: their order must be kept through thick and thin."""
    types: list[type[Message]] = sorted(router.registry, key=lambda message: contract_of(message).type)
    count = chance.choose(f"traffic {router.service}", (3, 0, 0, 4))
    if not types or not count:
        return
    type = chance.choose(f"traffic type {router.service}", types)
    field = contract_of(type).key
    known: dict[str, Any] = {field: getattr(sample(type, 900), field)}
    copies = [envelope(sample(type, 900 + n, known), f"traffic/{router.service}/{n}") for n in range(count)]
    at = chance.fraction(f"traffic at {router.service}") * 0.05
    first = chance.choose(f"traffic together {router.service}", (count, 1, 2))
    yield Errand(at, tuple(copies[:first]))
    for n, copy in enumerate(copies[first:]):
        yield Errand(at + 0.002 * (n + 1), (copy,))
