"""Planting bugs: a function of the library with one line changed."""

import inspect
import textwrap
from typing import Any

import pytest


def plant(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *changes: tuple[str, str]) -> None:
    """Replace text in the source of ``owner.name``. If the text is not there any more, the test has to be looked at."""
    function = inspect.unwrap(getattr(owner, name))
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert old in source, f"{owner.__qualname__}.{name} has changed: plant this bug anew"
        source = source.replace(old, new)
    found: dict[str, Any] = {}
    exec(  # noqa: S102 (our own text)
        compile(f"from __future__ import annotations\n{source}", f"<planted {name}>", "exec"),
        function.__globals__,
        found,
    )
    monkeypatch.setattr(owner, name, found[name])
