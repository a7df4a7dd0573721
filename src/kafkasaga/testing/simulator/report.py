"""What a person reads when a law was broken: how to see it again, what went wrong, and a sequence diagram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kafkasaga.saga.events import Event, step_of
from kafkasaga.testing.simulator.chance import Fault

if TYPE_CHECKING:
    from kafkasaga.testing.simulator.history import Effect
    from kafkasaga.testing.simulator.run import Outcome

_LONGEST = 120
"""Lines of a diagram."""


class Diagram:
    """A Mermaid sequence diagram, drawn while a run goes on."""

    def __init__(self, *, trace: bool) -> None:
        self._trace = trace
        self.lines: list[str] = []

    def message(self, time: float, source: str, target: str, effect: Effect) -> None:
        """A message took effect."""
        if self._trace:
            key = "" if effect.lane is None else f" {effect.lane.key}"
            self.lines.append(f"{_name(source)}->>{_name(target)}: {_since(time)} {effect.type}{key}")

    def note(self, time: float, who: str, what: str) -> None:
        """Something happened to a process."""
        if self._trace:
            service, _, number = who.rpartition("-")
            place, who = (service, who) if number.isdigit() else (who, who)
            self.lines.append(f"Note over {_name(place)}: {_since(time)} {_plain(f'{who} {what}')}")

    def event(self, time: float, who: str, key: str, event: Event) -> None:
        """A saga logged something."""
        if self._trace and event.kind not in ("command-sent", "compensation-sent", "step-succeeded"):
            words = " ".join(word for word in (key, event.kind, step_of(event) or "") if word)
            self.lines.append(f"Note over {_name(who)}: {_since(time)} saga {_plain(words)}")

    def text(self) -> str:
        """The diagram."""
        lines = self.lines
        if len(lines) > _LONGEST:
            half = _LONGEST // 2
            lines = [*lines[:half], f"%% {len(lines) - _LONGEST} lines left out", *lines[-half:]]
        return "\n".join(["sequenceDiagram", *(f"    {line}" for line in lines)])


def failure(saga: str, outcome: Outcome, schedule: Sequence[str], tried: int, more: str) -> str:
    """The text of the error; ``more`` stands for the other arguments of the call."""
    seed = outcome.chance.seed
    listed = "\n".join(f"  {n}. {name}" for n, name in enumerate(schedule, 1)) or "  nothing goes wrong at all"
    again = f"simulate({saga}, seed={seed}, schedule={list(schedule)!r}{more})"
    return (
        f"{outcome.violation}\n\n"
        f"saga {saga}, seed {seed}: see it again with\n  simulate({saga}, seed={seed}, runs=1{more})\n"
        f"the shortest schedule that shows it ({tried} tried):\n{listed}\n"
        f"that schedule alone:\n  {again}\n\n{outcome.diagram.text()}"
    )


def table(reached: Counter[tuple[Fault, str]]) -> str:
    """How often each fault was reached, and where."""
    rows = sorted((fault.value, kind, count) for (fault, kind), count in reached.items())
    return "\n".join(f"  {fault:22} {kind:24} {count:6}" for fault, kind, count in rows)


def _since(time: float) -> str:
    return f"{time:.3f}s"


def _name(who: str) -> str:
    return who.replace("-", "_").replace(":", "_") or "somebody"


def _plain(text: str) -> str:
    """What Mermaid does not take for its own."""
    return " ".join(text.replace(";", ",").replace("#", "no. ").split())[:160]
