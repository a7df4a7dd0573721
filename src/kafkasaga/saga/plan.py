"""The compiled flow: the tree that the machine walks, with every step's name in it.

A *path* names one step of one instance: the step's name, and under a fan-out its element: ``ship[2]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafkasaga.saga.flow import AnyLeaf, Conditional, FanOut, Flow, LocalStep, Parallel, Sequential, Step, WaitFor


@dataclass(frozen=True, slots=True)
class Leaf:
    """One step under the name that its saga gave it."""

    name: str
    step: AnyLeaf


@dataclass(frozen=True, slots=True)
class Series:
    """One part after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """All parts at once."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """``then`` or ``otherwise``; which one is decided once, when the saga gets here, and logged under ``name``."""

    name: str
    condition: Callable[[Any], bool]
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True)
class Fan:
    """``body`` once for each element; the elements are fixed when the saga gets here, and logged under ``name``."""

    name: str
    items: Callable[[Any], Sequence[Any]]
    body: Node


Node = Leaf | Series | Group | Choice | Fan


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the tree a walk is: the fan-outs around it, outermost first, and the element of each."""

    fans: tuple[Fan, ...] = ()
    indices: tuple[int, ...] = ()

    @property
    def suffix(self) -> str:
        return "".join([f"[{n}]" for n in self.indices]) if self.indices else ""

    def within(self, fan: Fan, index: int) -> Place:
        return Place((*self.fans, fan), (*self.indices, index))


TOP = Place()


def split_path(path: str) -> tuple[str, tuple[int, ...]]:
    """A step path as its step's name and the elements of the fan-outs around it, outermost first."""
    name, *indices = path.replace("]", "").split("[")
    return name, tuple(map(int, indices))


def leaves(node: Node) -> Iterator[Leaf]:
    """Every step of the tree, in the order in which they are written."""
    match node:
        case Leaf():
            yield node
        case Series(parts) | Group(parts):
            for part in parts:
                yield from leaves(part)
        case Choice(then=then, otherwise=otherwise):
            yield from leaves(then)
            yield from leaves(otherwise)
        case Fan(body=body):
            yield from leaves(body)


def steps_of(flow: Flow[Any]) -> Iterator[AnyLeaf]:
    """Every step object of an uncompiled flow, as often as it occurs."""
    match flow:
        case Sequential(parts=parts) | Parallel(parts=parts):
            for part in parts:
                yield from steps_of(part)
        case Conditional(then=then, otherwise=otherwise):
            yield from steps_of(then)
            if otherwise is not None:
                yield from steps_of(otherwise)
        case FanOut(body=body):
            yield from steps_of(body)
        case Step() | LocalStep() | WaitFor():
            yield flow
        case _:
            raise TypeError(f"not a part of a flow: {flow!r}")


def compile_plan(flow: Flow[Any], names: Mapping[int, str]) -> Node:
    """The tree of ``flow``; ``names`` maps ``id(step)`` to the step's name. Every step must occur once and be named."""
    match flow:
        case Sequential(parts=parts):
            nodes = [compile_plan(part, names) for part in parts]
            flat = [inner for node in nodes for inner in (node.parts if isinstance(node, Series) else (node,))]
            return Series(tuple(flat))
        case Parallel(parts=parts):
            return Group(tuple(compile_plan(part, names) for part in parts))
        case Conditional():
            then = compile_plan(flow.then, names)
            otherwise = Series(()) if flow.otherwise is None else compile_plan(flow.otherwise, names)
            return Choice(f"{_label(then)}?", flow.condition, then, otherwise)
        case FanOut():
            body = compile_plan(flow.body, names)
            return Fan(f"{_label(body)}[]", flow.items, body)
        case Step() | LocalStep() | WaitFor():
            return Leaf(names[id(flow)], flow)
        case _:
            raise TypeError(f"not a part of a flow: {flow!r}")


def _label(node: Node) -> str:
    """A word for a part that no other part of the plan has: its first step, with a mark for each choice and fan."""
    match node:
        case Leaf(name) | Choice(name) | Fan(name):
            return name
        case Series(parts) | Group(parts):
            return _label(parts[0])


def fans_around(node: Node, outer: tuple[Fan, ...] = ()) -> Iterator[tuple[str, tuple[Fan, ...]]]:
    """For each step, the fan-outs around it, outermost first."""
    match node:
        case Leaf(name):
            yield name, outer
        case Series(parts) | Group(parts):
            for part in parts:
                yield from fans_around(part, outer)
        case Choice(then=then, otherwise=otherwise):
            yield from fans_around(then, outer)
            yield from fans_around(otherwise, outer)
        case Fan(body=body):
            yield from fans_around(body, (*outer, node))
