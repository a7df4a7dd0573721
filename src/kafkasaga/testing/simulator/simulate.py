"""``simulate``: many runs, each from a seed of its own."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from kafkasaga.errors import DefinitionError
from kafkasaga.messages import Message, SagaState, contract_of
from kafkasaga.ports import Prunable
from kafkasaga.runtime.retention import least_retention, retention_of
from kafkasaga.runtime.service import PARKING, Service
from kafkasaga.saga.definition import Definition, Saga
from kafkasaga.saga.flow import LocalStep, Step
from kafkasaga.saga.policy import Retry
from kafkasaga.settings import Settings
from kafkasaga.testing.simulator.chance import Chance, Fault
from kafkasaga.testing.simulator.databases import Database, Prepare
from kafkasaga.testing.simulator.front import CUSTOMERS
from kafkasaga.testing.simulator.participants import StandIn, WatchedRouter, stand_ins
from kafkasaga.testing.simulator.report import failure, table
from kafkasaga.testing.simulator.run import Outcome, Plan, Run
from kafkasaga.testing.simulator.shrink import shortest

ENOUGH = 150
"""So many runs must reach every fault."""


class LawBroken(AssertionError):
    """A law does not hold; the text shows the shortest schedule found that breaks it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What happened in all runs."""

    runs: int
    seconds: float
    """Real time."""
    reached: Counter[tuple[Fault, str]]
    """How often each fault struck, by the place where it did."""
    sagas: Counter[str]
    """How the sagas ended."""
    forgotten: Counter[Prunable]
    """How much was forgotten because of its age."""

    def __str__(self) -> str:
        pace = self.runs / self.seconds * 60 if self.seconds else 0
        ends = ", ".join(f"{count} {status}" for status, count in sorted(self.sagas.items()))
        gone = ", ".join(f"{count} of {what}" for what, count in sorted(self.forgotten.items())) or "nothing"
        told = f"{self.runs} runs in {self.seconds:.1f} s ({pace:.0f} a minute); sagas: {ends}; forgotten: {gone}"
        return f"{told}\n{table(self.reached)}"


def simulate(  # noqa: PLR0913 (keywords with defaults)
    saga: type[Saga[Any]],
    *,
    runs: int = 100,
    seed: int = 0,
    services: Sequence[Service] = (),
    prepare: Mapping[str, Prepare] | None = None,
    check: Mapping[str, Callable[[Any], Any]] | None = None,
    starts: Sequence[Message | SagaState] | None = None,
    faults: Collection[Fault] | None = None,
    schedule: Sequence[str] | None = None,
    settings: Settings | None = None,
    seconds: float | None = None,
) -> Result:
    """Drive ``saga`` through ``runs`` schedules of crashes, outages, duplicates and delays, and check every law.

    ::

        def test_place_order_survives_anything() -> None:
            simulate(PlaceOrder, runs=200, seed=1)

    Args:
        saga: the saga class.
        runs: how many schedules. Run n has the seed ``seed + n``.
        seed: of the first run.
        services: your own services, to be run with their real handlers, on SQLite. What they do not handle is answered
            by participants that are made up from the definition, and succeed, refuse, fail or keep silent.
        prepare: for each of those services by name, a function that makes and fills its own tables.
        check: for each of those services by name, a function that looks at its database after each run, and asserts.
        starts: the messages (or states) that sagas start from; by default made up from their types.
        faults: which faults may strike; all of them by default. Each that is named here must be reached.
        schedule: exactly these faults, as an error shows them; then there is one run.
        settings: what is forgotten, and when, by their ``KAFKASAGA_…_DAYS``; by default the least with which a service
            would start. What you set is not checked here, but tried.
        seconds: stop after so much real time.

    Returns:
        What was reached, and how the sagas ended.

    Raises:
        LawBroken: when a law does not hold; the text names the seed, the shortest schedule, and draws it.
        AssertionError: when a fault that should strike was never reached (a test that tries nothing proves nothing).
        DefinitionError: when the simulator needs help: it cannot make up a message, say.
    """
    if schedule is not None:
        runs = 1
    wanted = frozenset(Fault if faults is None else faults)
    began, reached, sagas, done = time.monotonic(), Counter[tuple[Fault, str]](), Counter[str](), 0
    forgotten = Counter[Prunable]()
    given = {"services": services, "prepare": prepare, "check": check, "starts": starts, "settings": settings}
    keep = None if settings is None else retention_of(settings)
    with _quiet(), _plan(saga, services, prepare or {}, check or {}, starts, wanted, keep) as plan:
        for n in range(seed, seed + runs):
            outcome = Run(plan, Chance(n, plan.faults, only=schedule)).perform()
            done += 1
            reached += outcome.chance.reached
            sagas += outcome.ended
            forgotten += outcome.forgotten
            if outcome.violation is not None:
                raise LawBroken(_shown(saga, plan, outcome, {**given, "faults": faults}))
            if seconds is not None and time.monotonic() - began > seconds:
                break
    result = Result(done, time.monotonic() - began, reached, sagas, forgotten)
    if schedule is None:
        _must_be_reached(plan, result, named=faults is not None)
    return result


def traced(saga: type[Saga[Any]], seed: int) -> list[str]:
    """Everything that one run does, line by line: the same for the same seed."""
    with _quiet(), _plan(saga, (), {}, {}, None, frozenset(Fault)) as plan:
        outcome = Run(plan, Chance(seed, plan.faults), trace=True).perform()
    return [*outcome.chance.taken, *outcome.diagram.lines, str(outcome.violation)]


def _shown(saga: type[Saga[Any]], plan: Plan, outcome: Outcome, given: Mapping[str, object]) -> str:
    """Shrink what went wrong, then draw it."""
    assert outcome.violation is not None
    law, seed = outcome.violation.law, outcome.chance.seed

    def broken(only: Sequence[str]) -> bool:
        found = Run(plan, Chance(seed, plan.faults, only=only)).perform().violation
        return found is not None and found.law == law

    short, tried = shortest(outcome.chance.taken, broken)
    drawn = Run(plan, Chance(seed, plan.faults, only=short), trace=True).perform()
    more = "".join(f", {name}=…" for name, value in given.items() if value)
    return failure(saga.__name__, drawn if drawn.violation is not None else outcome, short, tried, more)


def _must_be_reached(plan: Plan, result: Result, *, named: bool) -> None:
    counts = Counter[Fault]()
    for (fault, _), count in result.reached.items():
        counts[fault] += count
    missed = sorted(fault for fault in plan.faults if not counts[fault])
    if missed and (named or result.runs >= ENOUGH):
        raise AssertionError(
            f"{result.runs} runs never reached: {', '.join(missed)}; give it more runs=, or leave them out of faults="
        )
    if plan.faults and not counts:
        raise AssertionError(f"{result.runs} runs reached no fault at all; give it more runs=")


@contextmanager
def _plan(
    saga: type[Saga[Any]],
    services: Sequence[Service],
    prepare: Mapping[str, Prepare],
    check: Mapping[str, Callable[[Any], Any]],
    starts: Sequence[Message | SagaState] | None,
    faults: frozenset[Fault],
    keep: Mapping[Prunable, timedelta] | None = None,
) -> Generator[Plan]:
    definition = saga.definition
    everyone: list[tuple[Service, StandIn | None]] = [(service, None) for service in services]
    homes = [s for s in services if (definition.name, definition.version) in s.definitions]
    home = homes[0] if homes else Service("orchestrator", sagas=[saga])
    if not homes:
        everyone.append((home, None))
    made_up = stand_ins(definition, lambda command: any(_handles(service, command) for service in services))
    everyone += made_up
    if unknown := (prepare.keys() | check.keys()) - {service.name for service in services}:
        raise DefinitionError(f"prepare= and check= name services that are not in services=: {sorted(unknown)}")
    databases = {service.name: Database(service, prepare.get(service.name)) for service, _ in everyone}
    outside = Service(CUSTOMERS)
    local = any(isinstance(step, LocalStep) for step in definition.steps.values())
    routers = [WatchedRouter(service, stand_in) for service, stand_in in everyone]
    try:
        yield Plan(
            definition=definition,
            routers=tuple(zip([service for service, _ in everyone], routers, strict=True)),
            outside=(outside, WatchedRouter(outside)),
            orchestrator=home.name,
            made_up=frozenset(service.name for service, _ in made_up),
            databases=databases,
            sessions=frozenset({service.name for service in services} | ({home.name} if local else set())),
            starts=starts,
            faults=frozenset(fault for fault in faults if _applies(fault, definition, routers, made_up=bool(made_up))),
            check=check,
            keep=_least(definition, services) if keep is None else keep,
        )
    finally:
        for database in databases.values():
            database.close()


def _least(definition: Definition, services: Sequence[Service]) -> dict[Prunable, timedelta]:
    """The shortest retention that is allowed: a saga's state goes when it ends."""
    parking = max((service.parking for service in services), key=Retry.horizon, default=PARKING)
    least = least_retention([definition], max(parking, PARKING, key=Retry.horizon))
    return {**least, Prunable.SAGAS: timedelta(), Prunable.SAGA_KEYS: max(least.values())}


def _handles(service: Service, command: type[Message]) -> bool:
    contract = contract_of(command)
    return service.router().registry.find(contract.topic, contract.type) is not None


def _applies(fault: Fault, definition: Definition, routers: Sequence[WatchedRouter], *, made_up: bool) -> bool:
    """Whether a fault can strike this saga at all."""
    read = any(router.topics for router in routers)
    match fault:
        case Fault.DELAY | Fault.REBALANCE:
            return read
        case Fault.DUPLICATE | Fault.LATE_COPY | Fault.LOST_ACKNOWLEDGEMENT | Fault.REJECTION:
            return read or bool(definition.sends)
        case Fault.OVERLAP:
            return any(isinstance(step, Step) for step in definition.steps.values())
        case Fault.HANDLER_ERROR:
            return any(router.has_handlers for router in routers)
        case Fault.REFUSAL:
            return made_up and any(isinstance(step, Step) and step.fails_on for step in definition.steps.values())
        case Fault.SILENCE:
            return made_up
        case _:
            return True


@contextmanager
def _quiet() -> Generator[None]:
    """The loops report every fault that they survive: here that is noise."""
    known = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**known)
