"""``Saga``: a class whose attributes are steps, checked as a whole when it is imported.

The class body is data. What comes of it is ``cls.definition``, a frozen ``Definition``; a saga class is never
instantiated, and an instance of a saga (``instance.Instance``) knows its definition only by name and version.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast, get_args, get_type_hints

from kafkasaga.errors import DefinitionError
from kafkasaga.messages import Message, SagaState, contract_of
from kafkasaga.saga import lint
from kafkasaga.saga.flow import AnyLeaf, Cancellation, Ends, Flow, LocalStep, Messages, Step, WaitFor, reply_tables
from kafkasaga.saga.functions import Written, written_in
from kafkasaga.saga.keywords import declared
from kafkasaga.saga.names import check_names
from kafkasaga.saga.plan import Fan, Node, compile_plan, fans_around, leaves

St = TypeVar("St", bound=SagaState)

__all__ = ["Cancellation", "Definition", "Ends", "Messages", "Saga", "messages_named_in", "reply_tables"]


@dataclass(frozen=True, eq=False)
class Definition:
    """A saga as the machine needs it. Equal to no other; compare ``name`` and ``version``."""

    name: str
    version: int
    starts_on: type[Message] | None
    state: type[SagaState]
    plan: Node
    ends: Ends[Any]
    steps: Mapping[str, AnyLeaf]
    fans: Mapping[str, tuple[Fan, ...]] = field(repr=False)
    """The fan-outs around each step, outermost first."""
    functions: tuple[Written, ...] = field(default=(), repr=False)
    """The user's functions."""

    def check_names(self) -> None:
        """To be called when everything has been imported.

        Raises:
            DefinitionError: if its functions use names that nobody defines.
        """
        check_names(self.name, self.functions)

    @cached_property
    def replies(self) -> tuple[type[Message], ...]:
        """Every message type that an instance may wait for."""
        found = {
            entry.type: None for step in self.steps.values() for table in reply_tables(step) for entry in table.values()
        }
        return tuple(found)

    @cached_property
    def sends(self) -> tuple[type[Message], ...]:
        """The message types that its functions name, found without running them (see ``messages_named_in``)."""
        functions: list[Callable[..., Any] | None] = [self.ends.completed, self.ends.cancelled]
        for step in self.steps.values():
            if isinstance(step, Step):
                functions += [step.command, step.compensation]
        found = {type: None for f in functions if f is not None for type in messages_named_in(f)}
        return tuple(found)

    @cached_property
    def runs_locally(self) -> bool:
        """Whether a step runs in the orchestrator's own transaction."""
        return any(isinstance(step, LocalStep) for step in self.steps.values())

    @cached_property
    def awaited_events(self) -> Mapping[str, tuple[str, ...]]:
        """For each type of event that a ``WaitFor`` takes, the names of those steps."""
        found: dict[str, tuple[str, ...]] = {}
        for name, step in self.steps.items():
            if isinstance(step, WaitFor):
                for type in (*step.succeeds_on, *step.fails_on):
                    found[type] = (*found.get(type, ()), name)
        return found

    def step_at(self, path: str) -> AnyLeaf:
        """The step at a path: ``ship[2]`` is an element of step ``ship``."""
        return self.steps.get(path) or self.steps[path.partition("[")[0]]

    def failures_of(self, path: str) -> tuple[str, ...]:
        """The reply types by which the step at ``path`` says that it did nothing."""
        step = self.step_at(path)
        return () if isinstance(step, LocalStep) else tuple(step.fails_on)

    def begin(self, message: Message) -> SagaState:
        """The state of a new instance, from the message that starts it."""
        begin = getattr(self.state, "begin", None)
        if begin is not None:
            return cast("SagaState", begin(message))
        shared = self.state.model_fields.keys() & type(message).model_fields.keys()
        return self.state.model_validate({name: getattr(message, name) for name in shared})


def messages_named_in(function: Callable[..., Any]) -> Iterator[type[Message]]:
    """The message types that a function's code or return annotation names: enough to list topics before it runs."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return
    code, around = function.__code__, {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    values = [around.get(name) for name in _names_in(code)]
    modules = [value for value in values if isinstance(value, ModuleType)]
    values += [getattr(module, name, None) for module in modules for name in _names_in(code)]
    with suppress(NameError):
        hint = get_type_hints(function).get("return")
        values += [hint, *get_args(hint)]
    for value in values:
        if isinstance(value, type) and issubclass(value, Message) and value.__contract__ is not None:
            yield value


def _names_in(code: CodeType) -> Iterator[str]:
    """Every name that a piece of code uses, also in the comprehensions and lambdas within it."""
    yield from code.co_names + code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


class Saga(Generic[St]):
    """A business transaction over several services: what is done, in which order, and how each step is undone.

    ::

        class PlaceOrder(Saga[OrderState], name="place-order", version=1, starts_on=OrderCreated):
            reserve = Step[OrderState](command=…, succeeds_on=…, compensation=…, compensated_on=…)
            pay = Step[OrderState](…)
            flow = reserve >> pay
            ends = Ends[OrderState](completed=…, cancelled=…)

    Args:
        name: under which its instances are stored; it outlives any renaming of the class.
        version: raise it when steps change; instances finish under the version that they began with.
        starts_on: the message that starts an instance. Without it, ``Service.start`` does.

    Raises:
        DefinitionError: at import, with every problem of the definition.
    """

    flow: Flow[St]
    ends: Ends[St]
    definition: ClassVar[Definition]

    def __init_subclass__(cls, *, name: str, version: int, starts_on: type[Message] | None = None) -> None:
        super().__init_subclass__()
        body: dict[str, Any] = {word: value for word, value in vars(cls).items() if not word.startswith("_")}
        steps = {word: cast("AnyLeaf", value) for word, value in body.items() if _is_step(word, value)}
        state = _state_of(cls)
        problems = [*_name_problems(name, version, starts_on), *lint.problems(body, steps, state, starts_on)]
        if problems:
            raise DefinitionError.listing(f"saga {name!r} ({cls.__qualname__})", problems)
        flow = cast("Flow[Any]", body["flow"])
        plan = compile_plan(flow, {id(step): word for word, step in steps.items()})
        used = {leaf.name: leaf.step for leaf in leaves(plan)}
        fans = dict(fans_around(plan))
        ends = cast("Ends[Any]", body.get("ends", Ends[Any]()))
        functions = tuple(written_in(used, flow, ends))
        cls.definition = Definition(name, version, starts_on, state or SagaState, plan, ends, used, fans, functions)

    if not TYPE_CHECKING:
        __init_subclass__ = declared("Saga", __init_subclass__)


def _state_of(cls: type[Any]) -> type[SagaState] | None:
    for base in getattr(cls, "__orig_bases__", ()):
        for argument in get_args(base):
            if isinstance(argument, type) and issubclass(argument, SagaState):
                return argument
    return None


def _is_step(word: str, value: object) -> bool:
    """True for a named step; ``flow = reserve`` is a use of a step, not another name for it."""
    return isinstance(value, Step | LocalStep | WaitFor) and word != "flow"


def _name_problems(name: str, version: int, starts_on: type[Message] | None) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", name):
        yield f"name={name!r}: use lower-case letters, digits, '.', '_' and '-', at most 100 [KS001]"
    if version < 1:
        yield f"version={version}: count from 1 [KS002]"
    if starts_on is not None:
        try:
            contract_of(starts_on)
        except DefinitionError as error:
            yield f"starts_on={getattr(starts_on, '__name__', starts_on)} starts nothing: {error} [KS003]"
