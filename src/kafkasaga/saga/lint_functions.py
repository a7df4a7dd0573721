"""The lint of a saga's functions: whether they can be called as the saga calls them.

It calls none of them: it looks at signatures and annotations only, and lets pass what has neither.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from kafkasaga.messages import Message
from kafkasaga.saga.flow import AnyLeaf, Ends, Flow
from kafkasaga.saga.functions import Written, written_in


def problems(steps: Mapping[str, AnyLeaf], flow: Flow[Any], ends: Ends[Any]) -> Iterator[str]:
    """What is wrong with the functions of a saga."""
    for written in written_in(steps, flow, ends):
        yield from _callable(written)
        if written.entry is not None:
            yield from _records(written, written.entry.type)


def _callable(written: Written) -> Iterator[str]:
    where: str = written.where
    function: Any = written.function
    arguments = ", ".join(written.called_with)
    cls: type[Any] = function if isinstance(function, type) else type(function)
    if issubclass(cls, Message):
        yield (
            f"{where}: write a function that builds the message: lambda {arguments}: {cls.__name__}(…), since "
            "it is called with what the saga knows by then [KS209]"
        )
    elif not callable(function):
        yield f"{where}: {function!r} is not a function; write lambda {arguments}: … [KS210]"
    elif not _takes(function, len(written.called_with)):
        yield f"{where}: it is called with ({arguments}), which it does not take [KS211]"


def _takes(function: Any, count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: nobody knows
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _records(written: Written, reply: type[Message]) -> Iterator[str]:
    """Whether a function that records a reply is written for that reply."""
    taken = _annotation(written.function)
    types: list[type[Any]] = [type for type in (get_args(taken) or (taken,)) if inspect.isclass(type)]
    if not types or not all(issubclass(type, Message) for type in types):
        return  # it takes anything, or says nothing
    if not issubclass(reply, tuple(types)):
        named = " | ".join(type.__name__ for type in types)
        name = getattr(written.function, "__qualname__", "it")
        yield f"{written.where}: {name} records {named}, not {reply.__name__}; name one for this reply [KS212]"


def _annotation(function: Any) -> Any:
    """The annotation of the second parameter; None where there is none, or it cannot be read yet."""
    try:
        hints, parameters = get_type_hints(function), list(inspect.signature(function).parameters)
    except (NameError, TypeError, ValueError, AttributeError):
        return None
    return hints.get(parameters[1]) if len(parameters) > 1 else None
