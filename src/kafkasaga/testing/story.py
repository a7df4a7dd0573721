"""A saga's log as a person reads it: when, what, which step, and the words that matter."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta

from kafkasaga.saga.events import Event, step_of
from kafkasaga.saga.instance import Instance

_LEFT_OUT = frozenset(
    {"step", "saga", "version", "incarnation", "data", "body", "command_id", "generation", "deadline"}
)


class Story:
    """What happened to one saga, one line for each event."""

    def __init__(self, begin: datetime) -> None:
        self._begin = begin
        self._lines: list[tuple[str, str, str, str]] = []

    def add(self, at: datetime, event: Event) -> None:
        self._lines.append((_since(self._begin, at), event.kind, step_of(event) or "", self._facts(event)))

    def text(self, instance: Instance | None) -> str:
        """The story, and what the saga waits for now."""
        if not self._lines:
            return "the saga so far: nothing has happened"
        widths = [max(len(line[column]) for line in self._lines) for column in range(3)]
        lines = [
            "  ".join(word.ljust(width) for word, width in zip(line[:3], widths, strict=True)) for line in self._lines
        ]
        told = [f"  {left}  {line[3]}".rstrip() for left, line in zip(lines, self._lines, strict=True)]
        return "\n".join(["the saga so far:", *told, *self._waits(instance)])

    def _facts(self, event: Event) -> str:
        values = {field.name: getattr(event, field.name) for field in fields(event) if field.name not in _LEFT_OUT}
        return "  ".join(f"{name}={self._word(value)}" for name, value in values.items() if value not in (None, "", ()))

    def _word(self, value: object) -> str:
        if isinstance(value, datetime):
            return _since(self._begin, value)
        if isinstance(value, tuple):
            return ",".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
        return str(value)

    def _waits(self, instance: Instance | None) -> list[str]:
        if instance is None:
            return []
        due = {path: state for path, state in instance.steps.items() if state.due is not None}
        waits = [
            f"{path} ({state.status} until {_since(self._begin, state.due)})"
            for path, state in due.items()
            if state.due
        ]
        return [f"now it is {instance.status}" + (f"; the clock concerns {', '.join(waits)}" if waits else "")]


def _since(begin: datetime, at: datetime) -> str:
    """``+90s``, ``+2d 3h``: how long after the beginning."""
    seconds, rest = divmod((at - begin) // timedelta(milliseconds=1), 1000)
    days, hours = divmod(seconds, 86_400)
    if days:
        return f"+{days}d {hours // 3600}h"
    return f"+{seconds}.{rest:03}s" if rest else f"+{seconds}s"
