"""Values for the fields of messages: plain, valid, and the same every time."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin
from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from kafkasaga.errors import DefinitionError
from kafkasaga.messages.codec import summary

M = TypeVar("M", bound=BaseModel)

_MOMENT = datetime(2030, 1, 1, tzinfo=UTC)
_PLAIN: dict[Any, Any] = {
    int: 1,
    float: 1.0,
    bool: True,
    Decimal: Decimal(1),
    bytes: b"x",
    datetime: _MOMENT,
    AwareDatetime: _MOMENT,
    date: _MOMENT.date(),
    time: _MOMENT.time(),
    timedelta: timedelta(seconds=1),
    None: None,
    type(None): None,
    Any: None,
}


def sample(model: type[M], number: int, known: Mapping[str, Any] | None = None, *, give: str = "starts=[…]") -> M:
    """An instance of ``model``; ``number`` tells several apart, ``known`` are values by field name.

    Raises:
        DefinitionError: if its own validators refuse such values; ``give`` says how the user helps.
    """
    given = {name: value for name, value in (known or {}).items() if name in model.model_fields}
    values = {
        name: _value(info.rebuild_annotation(), name, number)
        for name, info in model.model_fields.items()
        if name not in given and info.default is PydanticUndefined and info.default_factory is None
    }
    try:
        return model.model_validate({**values, **given})
    except ValidationError as error:
        raise DefinitionError(
            f"the simulator cannot make up a {model.__name__}: {summary(error)}; give it one: simulate(…, {give})"
        ) from None


def _value(hint: Any, name: str, number: int) -> Any:  # noqa: C901 (one line for each kind of type)
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is str:
        return f"{name}-{number}"
    if hint is UUID:
        return uuid5(NAMESPACE_OID, f"{name}/{number}")
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return sample(hint, number)
    if origin is Annotated:
        return _constrained(arguments, name, number)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return None if type(None) in arguments else _value(arguments[0], name, number)
    if origin is tuple and Ellipsis not in arguments:
        return tuple(_value(argument, name, number) for argument in arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_value(arguments[0], name, number): _value(arguments[1], name, number)}
    if isinstance(origin, type) and issubclass(origin, Collection):
        return [_value(arguments[0], name, n) for n in (number, number + 1)]
    if hint is int:
        return number + 1
    if hint in _PLAIN:
        return _PLAIN[hint]
    value: Any = getattr(cast("object", hint), "__value__", None)
    return f"{name}-{number}" if value is None else _value(value, name, number)


def _constrained(arguments: tuple[Any, ...], name: str, number: int) -> Any:
    """A value that keeps to the usual bounds of an annotated type."""
    value = _value(arguments[0], name, number)
    for constraint in arguments[1:]:
        for bound in (constraint, *getattr(constraint, "metadata", ())):
            value = _within(value, bound)
    return value


def _within(value: Any, bound: Any) -> Any:
    low, over = getattr(bound, "ge", None), getattr(bound, "gt", None)
    high, under = getattr(bound, "le", None), getattr(bound, "lt", None)
    if isinstance(value, int | float | Decimal):
        if low is not None and value < low:
            value = type(value)(low)
        if over is not None and value <= over:
            value = type(value)(over) + 1
        if high is not None and value > high:
            value = type(value)(high)
        if under is not None and value >= under:
            value = type(value)(under) - 1
    shortest, longest = getattr(bound, "min_length", None), getattr(bound, "max_length", None)
    if isinstance(value, str | bytes | list):
        sized = cast("Any", value)
        if shortest is not None and len(sized) < shortest:
            value = sized * shortest
        if longest is not None and len(sized) > longest:
            value = sized[:longest]
    return cast("Any", value)
