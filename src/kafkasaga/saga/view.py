"""The user's state as the user's functions see it: parsed from JSON only when one of them is about to run.

Each function gets an object of its own, so that nothing it does to it is kept by accident. Under a fan-out the state is
wrapped in ``Each``, once for every fan-out around the step.
"""

from __future__ import annotations

from typing import Any

from kafkasaga.messages import Message, SagaState
from kafkasaga.saga.definition import Definition
from kafkasaga.saga.flow import Each, Reply
from kafkasaga.saga.functions import call
from kafkasaga.saga.instance import Instance
from kafkasaga.saga.plan import Place, split_path


def load(definition: Definition, data: str) -> SagaState:
    """The state that ``data`` holds."""
    state: SagaState = definition.state.__pydantic_validator__.validate_json(data)  # what `model_validate_json` calls
    return state


def of_step(definition: Definition, instance: Instance, path: str) -> Any:
    """What the functions of the step at ``path`` see."""
    return around(definition, instance, path, load(definition, instance.data))


def around(definition: Definition, instance: Instance, path: str, state: SagaState) -> Any:
    """``state``, as the step at ``path`` sees it."""
    if "[" not in path:
        return state
    name, indices = split_path(path)
    return _wrap(definition, instance, Place(definition.fans[name], indices), state)


def at_place(definition: Definition, instance: Instance, place: Place) -> Any:
    """What a condition or the list of a fan-out sees at ``place``."""
    return _wrap(definition, instance, place, load(definition, instance.data))


def recorded(
    definition: Definition, instance: Instance, path: str, entry: Reply[Any] | None, message: Message | None
) -> str | None:
    """The state after a reply was recorded in it, as JSON; None if it did not change."""
    if entry is None or entry.record is None or message is None:
        return None
    state = load(definition, instance.data)
    where = f"step {path!r}, reply({entry.type.__name__}, …)"
    call(definition.name, where, entry.record, around(definition, instance, path, state), message)
    data = state.model_dump_json()
    return data if data != instance.data else None


def _wrap(definition: Definition, instance: Instance, place: Place, state: SagaState) -> Any:
    view: Any = state
    for depth in range(1, len(place.indices) + 1):
        view = Each(view, _element(definition, instance, Place(place.fans[:depth], place.indices[:depth])))
    return view


def _element(definition: Definition, instance: Instance, place: Place) -> Any:
    """The element at ``place``, taken from the list as it was when the saga got there."""
    fan, outer = place.fans[-1], Place(place.fans[:-1], place.indices[:-1])
    listed = instance.fans[fan.name + outer.suffix]
    return fan.items(_wrap(definition, instance, outer, load(definition, listed.data)))[place.indices[-1]]
