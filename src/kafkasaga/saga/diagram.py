"""Pictures, generated from what runs: a saga's flow, and the life of a step. Mermaid text, the same every time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from kafkasaga.messages import contract_of
from kafkasaga.saga.definition import Definition, Saga, messages_named_in
from kafkasaga.saga.flow import AnyLeaf, LocalStep, Step, WaitFor
from kafkasaga.saga.instance import Instance, SagaStatus, StepState, StepStatus
from kafkasaga.saga.plan import Choice, Fan, Group, Leaf, Node, Series, leaves
from kafkasaga.saga.transitions import STEP_TRANSITIONS

Stage = Literal["stuck", "compensating", "running", "remaining", "undone", "done"]
"""Where a step of one instance stands, for colouring; of a fan-out's elements the first in this order counts."""

_ORDER: tuple[Stage, ...] = ("stuck", "compensating", "running", "remaining", "undone", "done")
_COLOURS: dict[Stage, str] = {
    "stuck": "#f8b4b4",
    "compensating": "#fde3a7",
    "running": "#bfdbfe",
    "remaining": "#ffffff",
    "undone": "#e5e7eb",
    "done": "#bbf7d0",
}

Exit = tuple[str, str]
"""A node that an arrow leaves from, and what is written on the arrow."""


def diagram(saga: type[Saga[Any]] | Definition, instance: Instance | None = None) -> str:
    """The saga's flow as a Mermaid flowchart; with an instance, its steps are coloured by where they stand."""
    definition = saga if isinstance(saga, Definition) else saga.definition
    chart = _Chart(definition)
    chart.nodes.append(f'start(["{_start_label(definition)}"])')
    exits = chart.draw(definition.plan, [("start", "")])
    chart.nodes.append('completed(["completed"])')
    chart.join(exits, "completed")
    if chart.failures:
        chart.nodes.append('cancelled(["cancelled, when all is undone"])')
    lines = ["flowchart TD", *(f"    {line}" for line in (*chart.nodes, *chart.edges, *chart.failures))]
    if instance is not None:
        lines += [f"    {line}" for line in _colours(stages(definition, instance))]
    return "\n".join(lines) + "\n"


def step_diagram() -> str:
    """The life of a step as a Mermaid state diagram: the transition table, drawn."""
    lines = ["stateDiagram-v2"]
    for (before, event), after in STEP_TRANSITIONS.items():
        lines.append(f"    {_state(before)} --> {_state(after)}: {event.kind}")
    return "\n".join(lines) + "\n"


def stages(definition: Definition, instance: Instance) -> dict[str, Stage]:
    """Where each step of an instance stands, by name, in the order of the plan."""
    found: dict[str, set[Stage]] = {leaf.name: set() for leaf in leaves(definition.plan)}
    for path, state in instance.steps.items():
        found[path.partition("[")[0]].add(_stage(instance, state))
    return {name: _first(some) for name, some in found.items()}


def _first(found: set[Stage]) -> Stage:
    return min(found, key=_ORDER.index) if found else "remaining"


def _stage(instance: Instance, state: StepState) -> Stage:
    match state.status:
        case StepStatus.STUCK | StepStatus.UNDO_STUCK:
            return "stuck"
        case StepStatus.UNDOING | StepStatus.UNDO_WAITING:
            return "compensating"
        case StepStatus.SUCCEEDED:
            return "done"
        case StepStatus.PENDING | StepStatus.WAITING:
            return "undone" if instance.ended is SagaStatus.CANCELLED else "running"
        case StepStatus.FAILED | StepStatus.UNKNOWN | StepStatus.COMPENSATED:
            return "undone"


@dataclass
class _Chart:
    """A flowchart as it grows. Names of steps are identifiers of Python, so they are identifiers of Mermaid too."""

    definition: Definition
    nodes: list[str] = field(default_factory=list[str])
    edges: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])

    def draw(self, node: Node, entries: list[Exit]) -> list[Exit]:
        """Draw ``node`` behind ``entries``; returns where what follows is to be joined on."""
        match node:
            case Leaf(name, step):
                self.nodes.append(f"{_id(name)}{_shape(step, _label(name, step))}")
                self.join(entries, _id(name))
                if words := _failures(step):
                    self.failures.append(f'{_id(name)} -. "{words}" .-> cancelled')
                return [(_id(name), "")]
            case Series(parts):
                for part in parts:
                    entries = self.draw(part, entries)
                return entries
            case Group(parts):
                return [exit for part in parts for exit in self.draw(part, entries)]
            case Choice(name, then=then, otherwise=otherwise):
                here = f"choice_{len(self.nodes)}"
                self.nodes.append(f'{here}{{"{name}"}}')
                self.join(entries, here)
                return [*self.draw(then, [(here, "yes")]), *self.draw(otherwise, [(here, "no")])]
            case Fan(body=body):
                here = f"each_{len(self.nodes)}"
                self.nodes.append(f'subgraph {here}["for each, in parallel"]')
                exits = self.draw(body, entries)
                self.nodes.append("end")
                return exits

    def join(self, exits: Iterable[Exit], to: str) -> None:
        for node, words in exits:
            self.edges.append(f"{node} -- {words} --> {to}" if words else f"{node} --> {to}")


def _start_label(definition: Definition) -> str:
    return "start" if definition.starts_on is None else contract_of(definition.starts_on).type


def _id(name: str) -> str:
    """A step may be called what Mermaid, or this module, gives a meaning of its own."""
    return f"step_{name}"


def _shape(step: AnyLeaf, label: str) -> str:
    match step:
        case WaitFor():
            return f'[/"{label}"/]'
        case LocalStep():
            return f'[["{label}"]]'
        case Step(kind="pivot"):
            return f'{{{{"{label}"}}}}'
        case Step():
            return f'["{label}"]'


def _label(name: str, step: AnyLeaf) -> str:
    lines = [f"{name} ({step.kind})" if step.kind in ("pivot", "retriable") else name]
    if isinstance(step, WaitFor):
        lines += [f"waits for {', '.join(step.succeeds_on)}"]
    if isinstance(step, Step):
        lines += [contract_of(type).type for type in messages_named_in(step.command)]
        if step.compensation is not None:
            lines += [f"undo: {contract_of(type).type}" for type in messages_named_in(step.compensation)]
    return "<br/>".join(lines)


def _failures(step: AnyLeaf) -> str:
    if isinstance(step, LocalStep) or step.kind == "retriable":
        return ""
    expires = isinstance(step, WaitFor) and step.at_deadline == "compensate"
    return ", ".join([*step.fails_on, *(["deadline"] if expires else [])])


def _state(status: StepStatus | None) -> str:
    return "[*]" if status is None else status.value.replace("-", "_")


def _colours(found: dict[str, Stage]) -> list[str]:
    classes = [f"classDef {stage} fill:{_COLOURS[stage]}" for stage in _ORDER if stage in found.values()]
    return classes + [f"class {_id(name)} {stage}" for name, stage in found.items()]
