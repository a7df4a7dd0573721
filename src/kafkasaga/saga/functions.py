"""The user's functions in a saga: where each of them stands, and what it is called with.

A function that raises says in its traceback which line that was, but all lambdas are called ``<lambda>``. So what is
raised gets a note that names the saga, the step and the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kafkasaga.messages import Message, contract_of
from kafkasaga.saga.flow import (
    AnyLeaf,
    Conditional,
    Ends,
    FanOut,
    Flow,
    LocalStep,
    Parallel,
    Reply,
    Sequential,
    Step,
    WaitFor,
    reply_tables,
)
from kafkasaga.saga.plan import steps_of

T = TypeVar("T")

NOTE: Final = "in saga "
"""Begins the note that says whose function raised."""


@dataclass(frozen=True, slots=True)
class Written:
    """A function where the user wrote it."""

    where: str
    function: Any
    called_with: tuple[str, ...]
    entry: Reply[Any] | None = None
    """The reply that it records, if it does that."""


def written_in(steps: Mapping[str, AnyLeaf], flow: Flow[Any], ends: Ends[Any]) -> Iterator[Written]:
    """Every function of a saga."""
    for name, step in steps.items():
        yield from _of_step(f"step {name!r}", step)
    names = {id(step): name for name, step in steps.items()}
    for part in parts_of(flow):
        if isinstance(part, Conditional):
            yield Written(f"{_first(part.then, names)}.when(…)", part.condition, ("state",))
        elif isinstance(part, FanOut):
            yield Written(f"{_first(part.body, names)}.for_each(…)", part.items, ("state",))
    yield from _given(Written("ends, completed=", ends.completed, ("state",)))
    yield from _given(Written("ends, cancelled=", ends.cancelled, ("state", "why")))


def parts_of(flow: Flow[Any]) -> Iterator[Flow[Any]]:
    """The flow and every part of it."""
    yield flow
    for part in _inner(flow):
        yield from parts_of(part)


def call(saga: str, where: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of the user's; what it raises gets a note that says which one it was."""
    try:
        return function(*arguments)
    except Exception as error:
        error.add_note(f"{NOTE}{saga!r}, {where}")
        raise


def build(saga: str, where: str, function: Callable[..., Any], *arguments: Any) -> Message:
    """Call a function that builds a message.

    Raises:
        TypeError: if it returns anything else, or an abstract message.
    """
    try:
        return _checked(function(*arguments))
    except Exception as error:
        error.add_note(f"{NOTE}{saga!r}, {where}")
        raise


def whose(error: BaseException) -> str | None:
    """Which function of a saga raised this: ``saga 's', step 'pay', command=``; None if none did."""
    notes: list[str] = getattr(error, "__notes__", [])
    return next((note.removeprefix("in ") for note in notes if note.startswith(NOTE)), None)


def _checked(built: object) -> Message:
    if not isinstance(built, Message):
        raise TypeError(f"it returned {'None' if built is None else f'a {type(built).__name__}'}, not a message")
    contract_of(built)
    return built


def _of_step(where: str, step: AnyLeaf) -> Iterator[Written]:
    match step:
        case Step():
            yield Written(f"{where}, command=", step.command, ("state",))
            yield from _given(Written(f"{where}, compensation=", step.compensation, ("state",)))
        case LocalStep():
            yield Written(f"{where}, action", step.action, ("state", "session"))
            yield from _given(Written(f"{where}, compensation=", step.compensation, ("state", "session")))
        case WaitFor():
            pass
    for entry in (entry for table in reply_tables(step) for entry in table.values()):
        written = Written(f"{where}, reply({entry.type.__name__}, …)", entry.record, ("state", "reply"), entry)
        yield from _given(written)


def _given(written: Written) -> Iterator[Written]:
    if written.function is not None:
        yield written


def _first(flow: Flow[Any], names: Mapping[int, str]) -> str:
    return next((f"step {names[id(step)]!r}" for step in steps_of(flow) if id(step) in names), "flow")


def _inner(flow: Flow[Any]) -> tuple[Flow[Any], ...]:
    match flow:
        case Sequential(parts=parts) | Parallel(parts=parts):
            return parts
        case Conditional(then=then, otherwise=otherwise):
            return (then,) if otherwise is None else (then, otherwise)
        case FanOut(body=body):
            return (body,)
        case _:
            return ()
