"""Names that a saga's functions use and nobody defines: a lambda meets them only when it is called.

They are looked for when everything has been imported, not before: a function may use what its module defines further
down.
"""

from __future__ import annotations

import builtins
import difflib
import dis
from collections.abc import Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from kafkasaga.errors import DefinitionError
from kafkasaga.saga.functions import Written


def check_names(saga: str, functions: Iterable[Written]) -> None:
    """Make sure that every name is there.

    Raises:
        DefinitionError: naming step, operation and name of each that is not.
    """
    problems = [
        f"{written.where}: the name {name!r} is not defined{_near(name, written.function)}"
        for written in functions
        for name in dict.fromkeys(_undefined(written.function))
    ]
    if problems:
        raise DefinitionError.listing(f"saga {saga!r}", problems)


def _undefined(function: Any) -> Iterator[str]:
    plain = _plain(function)
    if plain is None:
        return
    for name in _globals_of(plain.__code__, "LOAD_GLOBAL"):
        if name not in plain.__globals__ and not hasattr(builtins, name) and not _set_later(name, plain.__globals__):
            yield name


def _plain(function: Any) -> FunctionType | None:
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    return function if isinstance(function, FunctionType) else None


def _globals_of(code: CodeType, operation: str) -> Iterator[str]:
    """The global names that a piece of code loads or stores, also within its comprehensions and lambdas."""
    yield from (str(step.argval) for step in dis.get_instructions(code) if step.opname == operation)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant, operation)


def _set_later(name: str, module: dict[str, Any]) -> bool:
    """Whether some function of the module says ``global name`` and sets it."""
    functions = [value for value in module.values() if isinstance(value, FunctionType)]
    return any(name in _globals_of(function.__code__, "STORE_GLOBAL") for function in functions)


def _near(name: str, function: Any) -> str:
    plain = _plain(function)
    found = difflib.get_close_matches(name, [] if plain is None else list(plain.__globals__), 1)
    return f"; did you mean {found[0]!r}?" if found else ""
