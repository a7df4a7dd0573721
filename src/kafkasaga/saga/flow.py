"""The words in which a user writes a saga: steps, and how they follow one another.

A flow is a value. Steps do not know their names (those belong to the saga that holds them, so that one step can serve
several sagas), and nothing here runs: ``plan.compile_plan`` turns the flow into the tree that the machine walks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from kafkasaga.errors import DefinitionError
from kafkasaga.messages import Message, contract_of
from kafkasaga.saga.keywords import declared
from kafkasaga.saga.policy import ONCE, Retry, exponential

S_contra = TypeVar("S_contra", contravariant=True)
S = TypeVar("S")
Saga_co = TypeVar("Saga_co", covariant=True)
Item_co = TypeVar("Item_co", covariant=True)
Item = TypeVar("Item")
M = TypeVar("M", bound=Message)

Kind = Literal["compensatable", "read-only", "pivot", "retriable"]
"""What undoing a step means: it has a compensation; it changed nothing; there is no way back; it cannot fail."""


class Reply(Generic[S_contra]):
    """A reply type, and what the saga's state records of it."""

    __slots__ = ("record", "type")

    def __init__(self, type: type[Message], record: Callable[[Any, Any], None] | None) -> None:
        self.type, self.record = type, record


def reply(type: type[M], record: Callable[[S, M], None]) -> Reply[S]:
    """This reply, and what the saga keeps of it: ``reply(InventoryReserved, OrderState.reserved)``."""
    return Reply(type, record)


Replies = type[Message] | Reply[S] | Sequence[type[Message] | Reply[S]]
ReplyTable = dict[str, Reply[Any]]
"""Replies by their type name on the wire."""


def _table(word: str, replies: Replies[Any], problems: list[str]) -> ReplyTable:
    """What was given as ``word=``. What is wrong with it is told by the saga, which knows the name of the step."""
    many: Any = replies if isinstance(replies, list | tuple) else (replies,)
    found: ReplyTable = {}
    for given in many:
        entry: Any = given if isinstance(given, Reply) else Reply[Any](given, None)  # pyright: ignore[reportUnknownVariableType]
        try:
            found[contract_of(entry.type).type] = entry
        except DefinitionError as error:
            problems.append(f"{word}={_shown(entry.type)}: {error}")
    return found


def _shown(given: object) -> str:
    return given.__name__ if isinstance(given, type) else repr(given)


class Flow(Generic[S_contra]):
    """Part of a saga: one step, or several joined by ``>>``, ``parallel``, ``when`` and ``for_each``."""

    def __rshift__(self: Flow[S], other: Flow[S]) -> Flow[S]:
        """First this, then ``other``."""
        return Sequential(self, other)

    def __rrshift__(self: Flow[S], other: Flow[S]) -> Flow[S]:
        return Sequential(other, self)

    def when(self, condition: Callable[[S_contra], bool], *, otherwise: Flow[S_contra] | None = None) -> Flow[S_contra]:
        """This only if ``condition`` holds when the saga gets here; else ``otherwise``, if given."""
        return Conditional(self, condition, otherwise)

    def for_each(self: Flow[Each[S, Item]], items: Callable[[S], Sequence[Item]]) -> Flow[S]:
        """This once for each element of ``items``, all in parallel. The list is fixed when the saga gets here."""
        return cast("Flow[S]", FanOut(self, items))


class Sequential(Flow[S_contra]):
    def __init__(self, *parts: Flow[S_contra]) -> None:
        self.parts = parts


class Parallel(Flow[S_contra]):
    def __init__(self, *parts: Flow[S_contra]) -> None:
        self.parts = parts


class Conditional(Flow[S_contra]):
    def __init__(
        self, then: Flow[S_contra], condition: Callable[[Any], bool], otherwise: Flow[S_contra] | None
    ) -> None:
        self.then, self.condition, self.otherwise = then, condition, otherwise


class FanOut(Flow[S_contra]):
    def __init__(self, body: Flow[Any], items: Callable[[Any], Sequence[Any]]) -> None:
        self.body, self.items = body, items


def parallel(*parts: Flow[S]) -> Flow[S]:
    """All of these at once; what follows waits for each of them."""
    return Parallel(*parts)


@dataclass(frozen=True, slots=True)
class Each(Generic[Saga_co, Item_co]):
    """What a step under ``for_each`` sees: the saga's state, and its own element."""

    saga: Saga_co
    item: Item_co


class Step(Flow[S_contra]):
    """Send a command to a participant and wait for its reply.

    Args:
        command: builds the command from the saga's state.
        succeeds_on: the reply, or replies, that mean success; ``reply(Type, State.method)`` records something of one.
        fails_on: the replies that mean a business refusal: the saga is undone (a *retriable* step is sent again).
        compensation: builds the command that undoes the step.
        compensated_on: the reply that confirms it.
        kind: what undoing means. ``compensatable`` needs a compensation; ``read-only`` changed nothing; ``pivot`` is
            the point of no return; ``retriable`` comes after it and cannot fail for good.
        deadline: how long one attempt waits for its reply. Then its outcome is unknown: the command is sent again while
            ``retry`` allows, after that a pivot or retriable step is stuck, any other is undone as *may have run*.
        retry: how often the command is sent, in all. By default once for steps that can be undone, ten times otherwise.
        compensation_retry: how often the compensation is sent before the saga is stuck.
    """

    def __init__(  # noqa: PLR0913 (one row of a table: each is a keyword with a default)
        self,
        *,
        command: Callable[[S_contra], Message],
        succeeds_on: Replies[S_contra],
        fails_on: Replies[S_contra] = (),
        compensation: Callable[[S_contra], Message] | None = None,
        compensated_on: Replies[S_contra] = (),
        kind: Kind = "compensatable",
        deadline: timedelta = timedelta(minutes=1),
        retry: Retry | None = None,
        compensation_retry: Retry | None = None,
    ) -> None:
        self.command, self.compensation, self.kind, self.deadline = command, compensation, kind, deadline
        self.problems: list[str] = []
        """What is wrong with its replies."""
        self.succeeds_on = _table("succeeds_on", succeeds_on, self.problems)
        self.fails_on = _table("fails_on", fails_on, self.problems)
        self.compensated_on = _table("compensated_on", compensated_on, self.problems)
        forward_only = kind in ("pivot", "retriable")
        self.retry = retry or (exponential(attempts=10) if forward_only else ONCE)
        self.compensation_retry = compensation_retry or exponential(attempts=10)

    if not TYPE_CHECKING:
        __init__ = declared("Step", __init__)


class LocalStep(Flow[S_contra]):
    """Run ``action(state, session)`` in the orchestrator's own transaction; what it changes in the state is kept.

    It has no refusal of its own: an exception is retried like any handler's. ``compensation`` runs the same way.
    """

    def __init__(
        self,
        action: Callable[[S_contra, Any], None],
        *,
        compensation: Callable[[S_contra, Any], None] | None = None,
        kind: Kind = "compensatable",
    ) -> None:
        self.action, self.compensation, self.kind = action, compensation, kind

    if not TYPE_CHECKING:
        __init__ = declared("LocalStep", __init__)


class WaitFor(Flow[S_contra]):
    """Send nothing; wait for an event from outside (a person's approval, another system), found by the saga's key.

    Args:
        event: the event or events that let the saga go on.
        fails_on: those that undo it.
        deadline: how long to wait.
        at_deadline: what then: ``compensate`` undoes the saga, ``continue`` goes on as if the event had come.
    """

    kind: Kind = "read-only"

    def __init__(
        self,
        event: Replies[S_contra],
        *,
        fails_on: Replies[S_contra] = (),
        deadline: timedelta,
        at_deadline: Literal["compensate", "continue"] = "compensate",
    ) -> None:
        self.problems: list[str] = []
        """What is wrong with its events."""
        self.succeeds_on = _table("event", event, self.problems)
        self.fails_on = _table("fails_on", fails_on, self.problems)
        self.deadline, self.at_deadline = deadline, at_deadline

    if not TYPE_CHECKING:
        __init__ = declared("WaitFor", __init__)


Messages = Message | Sequence[Message] | None


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Why a saga is being undone: the step, the words, and the failure reply if there was one."""

    step: str
    reason: str
    reply: Message | None = None


class Ends(Generic[S_contra]):
    """What the saga tells the world when it ends: messages built from its state (and from why it was cancelled)."""

    def __init__(
        self,
        *,
        completed: Callable[[S_contra], Messages] | None = None,
        cancelled: Callable[[S_contra, Cancellation], Messages] | None = None,
    ) -> None:
        self.completed, self.cancelled = completed, cancelled

    if not TYPE_CHECKING:
        __init__ = declared("Ends", __init__)


AnyLeaf = Step[Any] | LocalStep[Any] | WaitFor[Any]


def reply_tables(step: AnyLeaf) -> tuple[ReplyTable, ...]:
    """All tables of replies that a step has."""
    match step:
        case Step():
            return step.succeeds_on, step.fails_on, step.compensated_on
        case WaitFor():
            return step.succeeds_on, step.fails_on
        case LocalStep():
            return ()
