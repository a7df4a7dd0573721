"""What a handler is: a function whose type hints say which message it handles, and what it answers.

Everything is read once, when the handler is registered, so that a mistake is an error at import and not at the first
message.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kafkasaga.errors import DefinitionError
from kafkasaga.messages import Message
from kafkasaga.stores import is_async_session_type, is_session_type

WhenDead = Literal["block", "go-on"]
Reply = Message | Sequence[Message] | None
_SEQUENCES = (list, Sequence)


@dataclass(frozen=True, slots=True)
class Handler:
    """A function of the user's, and how to call it."""

    function: Callable[..., Any]
    message: type[Message]
    consumer: str
    """Its dedup identity: a message takes effect once for each consumer."""
    session_parameter: str | None
    replies: tuple[type[Message], ...]
    """The message types that it says it returns, in the order of its annotation."""
    when_dead: WhenDead = "block"
    """What becomes of the later messages of a key when one of them has no attempt left."""
    may_be_silent: bool = True
    """Whether it says that it may return None."""
    takes_many: bool = False
    """Whether it takes a list of messages, and returns one answer for each."""

    @property
    def name(self) -> str:
        return describe(self.function)

    def call(self, messages: Sequence[Message], session: Any = None) -> list[tuple[Message, ...]]:
        """Run it; returns what it answered to each. One that does not take many is given one."""
        extra = {} if self.session_parameter is None else {self.session_parameter: session}
        if not self.takes_many:
            (message,) = messages
            return [self._answer(self.function(message, **extra))]
        answers: Sequence[Reply] | None = self.function(list(messages), **extra)
        if answers is None and not self.replies:
            return [()] * len(messages)
        if answers is None or len(answers) != len(messages):
            given = "None" if answers is None else f"{len(answers)} answers"
            raise TypeError(
                f"batch handler {self.name} returned {given} to {len(messages)} messages; "
                "return a list with one answer for each, in their order"
            )
        return [self._answer(answer) for answer in answers]

    def _answer(self, answer: Reply) -> tuple[Message, ...]:
        if answer is None and not self.may_be_silent:
            named = " | ".join(reply.__name__ for reply in self.replies)
            raise TypeError(
                f"handler {self.name} returned None, which its annotation does not name ({named}): was a return "
                "forgotten? If it may answer nothing, annotate it with | None"
            )
        messages = () if answer is None else (answer,) if isinstance(answer, Message) else tuple(answer)
        for returned in messages:
            if not isinstance(returned, self.replies):
                raise TypeError(
                    f"handler {self.name} returned a {type(returned).__name__}, which its annotation does not name; "
                    "kafkasaga checks topics by annotations"
                )
        return messages


def describe(function: Callable[..., Any]) -> str:
    """The name by which errors and logs call a function."""
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def inspect_handler(
    function: Callable[..., Any], consumer: str, when_dead: WhenDead = "block", *, takes_many: bool = False
) -> Handler:
    """Read a function's type hints. One that ``takes_many`` has a list of messages where others have one.

    Raises:
        DefinitionError: if they do not say what the function handles; the text names the remedy.
    """
    where = f"handler {describe(function)}"
    if inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"{where} is async; handlers run inside a database transaction: write def instead of async def"
        )
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        name = getattr(function, "__name__", "method")
        raise DefinitionError(f"{where} is a method: register the bound one, service.handler(instance.{name})")
    hints = _hints(function, where)
    first = parameters[0].name if parameters else "command"
    message = _message_type(hints.get(first), first, where, takes_many=takes_many)
    if message.__contract__ is None:
        raise DefinitionError(
            f"{where}: {message.__name__} is an abstract base (no topic=); handle a message that travels"
        )
    if when_dead not in get_args(WhenDead):
        raise DefinitionError(f"{where}: when_dead={when_dead!r} is not known; use 'block' or 'go-on'")
    session_parameter = _session_parameter(parameters[1:], hints, where)
    replies, may_be_silent = _replies(hints, where), _names_none(hints["return"])
    return Handler(function, message, consumer, session_parameter, replies, when_dead, may_be_silent, takes_many)


def _message_type(hint: Any, parameter: str, where: str, *, takes_many: bool) -> type[Message]:
    element = next(iter(get_args(hint)), None) if get_origin(hint) in _SEQUENCES else None
    many = _is_message(element)
    if takes_many and not many:
        raise DefinitionError(
            f"{where}: the first parameter of a batch handler is a list, e.g. ({parameter}: list[ReserveInventory])"
        )
    if many and not takes_many:
        raise DefinitionError(f"{where} takes a list of {_shown(element)}: register it with batch_handler")
    found: Any = element if many else hint
    if not _is_message(found):
        raise DefinitionError(
            f"{where}: its first parameter needs a Message type, e.g. ({parameter}: ReserveInventory)"
        )
    message: type[Message] = found
    return message


def _hints(function: Callable[..., Any], where: str) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError as error:
        raise DefinitionError(
            f"{where}: the type {error.name!r} is not importable at run time (imported under TYPE_CHECKING?); "
            "kafkasaga reads type hints at run time: import it normally"
        ) from None


def _session_parameter(parameters: Sequence[inspect.Parameter], hints: dict[str, Any], where: str) -> str | None:
    found: str | None = None
    for parameter in parameters:
        if is_session_type(hints.get(parameter.name)):
            found = parameter.name
        elif is_async_session_type(hints.get(parameter.name)):
            raise DefinitionError(
                f"{where}: parameter {parameter.name!r} is an AsyncSession; handlers run in a plain transaction: "
                "annotate it with sqlalchemy.orm.Session"
            )
        elif parameter.default is inspect.Parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise DefinitionError(
                f"{where}: parameter {parameter.name!r} is neither the message nor a Session; "
                "give other dependencies to a class and register its bound method"
            )
    return found


def _replies(hints: dict[str, Any], where: str) -> tuple[type[Message], ...]:
    if "return" not in hints:
        raise DefinitionError(f"{where}: say what it returns: -> SomeReply, -> Accepted | Refused, or -> None")
    parts = tuple(_parts(hints["return"]))
    if strange := [_shown(part) for part in parts if not _is_message(part)]:
        raise DefinitionError(f"{where} returns {', '.join(strange)}; a handler returns messages, or None")
    found: tuple[type[Message], ...] = parts
    if abstract := [type.__name__ for type in found if type.__contract__ is None]:
        raise DefinitionError(
            f"{where} returns {', '.join(abstract)}, which has no topic=; return a message that travels"
        )
    return found


def _parts(hint: Any) -> Iterator[Any]:
    """What an annotation is made of, without None and the sequences around it."""
    inner = get_args(hint)
    if inner:
        for part in inner:
            yield from _parts(part)
    elif hint not in (None, type(None), Ellipsis):
        yield hint


def _names_none(hint: Any) -> bool:
    """Whether an annotation has None anywhere in it."""
    return hint in (None, NoneType) or any(_names_none(part) for part in get_args(hint))


def _is_message(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Message)


def _shown(hint: Any) -> str:
    return getattr(hint, "__name__", repr(hint))
