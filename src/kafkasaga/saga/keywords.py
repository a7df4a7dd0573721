"""What a declaration was called with, in our words: Python's own speak of ``__init__`` and of positional arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from kafkasaga.errors import DefinitionError


def declared(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, refusing keywords that are missing or unknown as errors of the definition of ``what``."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    needed = [p.name for p in own if p.default is p.empty]

    @wraps(function)
    def checked(self: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            given = signature.bind(self, *arguments, **keywords)
        except TypeError:
            missing = [f"{name}=" for name in needed[len(arguments) :] if name not in keywords]
            unknown = [word for word in keywords if word not in signature.parameters]
            problems = [f"it lacks {', '.join(missing)}"] if missing else []
            problems += [f"it has no {word}={_near(word, [p.name for p in own])}" for word in unknown]
            name = self.__qualname__ if isinstance(self, type) else what
            raise DefinitionError(
                f"{name}: {'; '.join(problems) or 'its arguments are keywords'}; "
                f"it takes {', '.join(f'{p.name}=' for p in own)}"
            ) from None
        return function(*given.args, **given.kwargs)

    return checked


def _near(word: str, words: list[str]) -> str:
    found = difflib.get_close_matches(word, words, 1)
    return f" (did you mean {found[0]}=?)" if found else ""
