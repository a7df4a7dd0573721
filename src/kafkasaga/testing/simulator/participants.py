"""The services on the other side of a saga: made up from its definition, or the user's own, watched while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, Union

from kafkasaga.errors import DefinitionError
from kafkasaga.messages import Message, Operation, Record, contract_of
from kafkasaga.runtime.routing import HandlerRoute, Router, SagaRoute, Task
from kafkasaga.runtime.service import Service
from kafkasaga.saga.definition import Definition, messages_named_in
from kafkasaga.saga.flow import ReplyTable, Step
from kafkasaga.testing.simulator.chance import Fault
from kafkasaga.testing.simulator.history import Effect, Lane
from kafkasaga.testing.simulator.samples import sample
from kafkasaga.testing.simulator.world import World

ALWAYS: Final = 1_000_000
"""How often a handler fails that never succeeds."""


class Stage(Protocol):
    """What a watched handler needs of the run that it is in."""

    world: World
    failing: dict[str, int]
    """How often each message is still to fail."""

    def effect(self, effect: Effect) -> None:
        """A message took effect in the current transaction."""
        ...

    def given(self, service: str, record: Record, tasks: Sequence[Task]) -> None:
        """A service was given a record."""
        ...

    def note(self, who: str, what: str) -> None:
        """For the diagram."""
        ...


class WatchedRouter(Router):
    """A service's routes; each handler that it hands out tells the stage what it did."""

    def __init__(self, service: Service, stands_in: StandIn | None = None) -> None:
        watched: Any = service
        super().__init__(service.name, watched._handlers, service.definitions.values(), service.codec)  # noqa: SLF001
        self.stage: Stage | None = None
        self.has_handlers = bool(watched._handlers)  # noqa: SLF001
        self._stands_in = stands_in

    def route(self, record: Record) -> list[Task]:
        stage = self.stage
        assert stage is not None
        tasks = super().route(record)
        stage.given(self.service, record, tasks)
        return [self._watched(stage, task) for task in tasks]

    def _watched(self, stage: Stage, task: Task) -> Task:
        if not isinstance(task.route, HandlerRoute):
            return task
        handler = task.route.handler
        inner = handler.function if self._stands_in is None else self._stands_in.answering(stage, task)

        def function(message: Message, **extra: Any) -> Any:
            _may_fail(stage, self.service, task)
            answer: Any = inner(message, **extra)
            stage.effect(effect_of(self.service, task, _reply_of(answer)))
            return answer

        return replace(task, route=replace(task.route, handler=replace(handler, function=function)))


def _reply_of(answer: Any) -> str | None:
    """The type of the reply in what a handler returned: the first message."""
    if not isinstance(answer, Message):
        answer = next(iter(answer or ()), None)
    return None if answer is None else contract_of(answer).type


def effect_of(service: str, task: Task, reply: str | None) -> Effect:
    """What a task is in the history."""
    lane = task.lane
    return Effect(
        service=service,
        inbox=task.inbox_key,
        type=task.attributes.type,
        lane=None if lane is None else Lane(task.consumer, lane.topic, lane.key.decode("utf-8", "replace")),
        saga=task.attributes.saga,
        reply=reply,
    )


def _may_fail(stage: Stage, service: str, task: Task) -> None:
    name = f"{service} handles {task.attributes.type} {task.attributes.id}"
    if name not in stage.failing:
        chance = stage.world.chance
        struck = chance.strikes(Fault.HANDLER_ERROR, name, "handler")
        stage.failing[name] = chance.choose(f"times {name}", (4, 1, 2, 7, 4, ALWAYS, 2, 7)) if struck else 0
    if stage.failing[name] > 0:
        stage.failing[name] -= 1
        stage.note(service, f"fails at {task.attributes.type}")
        raise SimulatedError(f"the simulator has {name} fail")


class SimulatedError(Exception):
    """What a handler raises because the simulator wants it to."""


class StandIn:
    """Answers for a participant: with success, a refusal, or nothing."""

    def __init__(self, steps: Iterable[tuple[str, Step[Any]]]) -> None:
        self._steps = dict(steps)

    def answering(self, stage: Stage, task: Task) -> Callable[..., Any]:
        """The function that handles ``task``."""

        def answer(message: Message) -> Message | None:
            saga = task.attributes.saga
            step = None if saga is None else self._steps.get(saga.step.partition("[")[0])
            if saga is None or step is None:
                return None  # no saga asks
            chance, name = stage.world.chance, f"{saga.operation} of {saga.step}/{saga.generation} for {saga.saga_id}"
            if chance.strikes(Fault.SILENCE, name, "participant"):
                return None
            table: ReplyTable = step.succeeds_on
            if saga.operation is Operation.COMPENSATION:
                table = step.compensated_on
            elif step.fails_on and chance.strikes(Fault.REFUSAL, name, "participant"):
                table = step.fails_on
            chosen = chance.choose(f"reply {name}", list(table.values()))
            return sample(chosen.type, 1, dict(message), give="services=[…]")

        return answer


def stand_ins(definition: Definition, handled: Callable[[type[Message]], bool]) -> list[tuple[Service, StandIn]]:
    """A service for each step whose commands no given service handles; steps that share a command share a service.

    Raises:
        DefinitionError: if it cannot be told which commands a step sends.
    """
    groups: list[tuple[set[type[Message]], dict[str, Step[Any]]]] = []
    for name, step in definition.steps.items():
        if not isinstance(step, Step):
            continue
        commands = _commands(name, step)
        if all(handled(command) for command in commands):
            continue
        shared = [group for group in groups if group[0] & commands]
        groups = [group for group in groups if group not in shared]
        others = {name: step for _, steps in shared for name, step in steps.items()}
        groups.append((commands.union(*(group[0] for group in shared)), {**others, name: step}))
    return [_stand_in(commands, steps) for commands, steps in groups]


def _commands(name: str, step: Step[Any]) -> set[type[Message]]:
    found = set(messages_named_in(step.command))
    found |= set(messages_named_in(step.compensation)) if step.compensation is not None else set()
    if not found:
        raise DefinitionError(
            f"step {name!r}: the simulator cannot tell which command it sends; annotate its function: "
            "def command(state: State) -> ReserveInventory"
        )
    return found


def _stand_in(commands: set[type[Message]], steps: dict[str, Step[Any]]) -> tuple[Service, StandIn]:
    service = Service("-".join(sorted(steps)).lower().strip("_")[:90])
    for command in sorted(commands, key=lambda c: contract_of(c).type):
        service.handler(_handler(command, steps.values()))
    return service, StandIn(steps.items())


def _handler(command: type[Message], steps: Iterable[Step[Any]]) -> Callable[..., Any]:
    """A function whose hints say what a participant may answer to ``command``; what confirms it comes first."""

    def handle(command: Message) -> None: ...

    replies: dict[type[Message], None] = {}
    for step in steps:
        if command in messages_named_in(step.command):
            tables = [step.succeeds_on, step.fails_on]
        else:
            tables = [step.compensated_on]
        replies |= {entry.type: None for table in tables for entry in table.values()}
    handle.__annotations__ = {"command": command, "return": Union[(*replies, None)]}
    return handle


def saga_effects(service: str, tasks: Iterable[Task]) -> dict[Any, Effect]:
    """For each task that goes to a saga, by its message's id: the effect that it is when the saga has noted it."""
    return {task.attributes.id: effect_of(service, task, None) for task in tasks if isinstance(task.route, SagaRoute)}
