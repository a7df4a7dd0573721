"""What users declare: a message with its topic and its key.

A message type is declared once and travels under a *declared* name (``type=``, by default its topic), never under a
Python path: a class can move or be renamed without breaking the messages that are under way.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from kafkasaga.errors import DefinitionError, KafkasagaError
from kafkasaga.messages.ids import id_text
from kafkasaga.messages.model import CheckedModel

if TYPE_CHECKING:
    # Both type checkers then know that every message is frozen and keyword-only, without a plugin.
    from pydantic._internal._model_construction import ModelMetaclass

    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
    class _FrozenModel(ModelMetaclass): ...

else:
    _FrozenModel = CheckedModel

_OPTIONS = ("topic", "key", "type")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""What Kafka takes for a topic's name; it refuses "." and ".." besides."""


@dataclass(frozen=True, slots=True)
class Contract:
    """Where a message type travels: its topic, the field that is its record key, and its name on the wire."""

    topic: str
    key: str
    type: str


class Message(BaseModel, metaclass=_FrozenModel):
    """A command, a reply or an event: immutable, validated, with one topic and one key.

    ::

        class OrderMessage(Message, key="order_id"):              # no topic: an abstract base
            order_id: UUID

        class OrderCreated(OrderMessage, topic="order.created"):
            total: Decimal

    Args:
        topic: the Kafka topic. A class without one is an abstract base and cannot be sent.
        key: the field whose value, as text, is the record key. Messages of one topic and key keep their order.
        type: the ``ce_type`` on the wire; by default the topic.

    Raises:
        DefinitionError: at import, for an unknown option, a topic that Kafka refuses, a key that is missing, is not a
            field, or may be None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")
    __contract__: ClassVar[Contract | None] = None
    __key_field__: ClassVar[str | None] = None

    def __init_subclass__(
        cls, *, topic: str | None = None, key: str | None = None, type: str | None = None, **unknown: Any
    ) -> None:
        super().__init_subclass__()
        for word in unknown:
            near = difflib.get_close_matches(word, _OPTIONS, 1)
            hint = f"did you mean {near[0]}=?" if near else "a Message takes topic=, key= and type="
            raise DefinitionError(f"message {cls.__qualname__}: unknown option {word}=; {hint}")

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, topic: str | None = None, key: str | None = None, type: str | None = None, **_: Any
    ) -> None:
        cls.__key_field__ = key = key or cls.__key_field__
        cls.__contract__ = None
        if topic is None:
            if type is not None:
                raise DefinitionError(f"message {cls.__qualname__}: type={type!r} without topic=; give it a topic too")
            return
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise DefinitionError(
                f"message {cls.__qualname__}: Kafka refuses the topic {topic!r}; "
                "use letters of ASCII, digits, '.', '_' and '-', at most 249"
            )
        if key is None or key not in cls.model_fields:
            have = ", ".join(cls.model_fields) or "none"
            named = "it has no key=" if key is None else f"key={key!r} is not a field"
            raise DefinitionError(
                f"message {cls.__qualname__}: {named} (fields: {have}); "
                "key= names the field whose value orders the messages of one entity"
            )
        if NoneType in (annotation := cls.model_fields[key].annotation, *get_args(annotation)):
            raise DefinitionError(
                f"message {cls.__qualname__}: its key {key!r} may be None, and all messages without one would be taken "
                "for one entity; annotate it without None, or name another field by key="
            )
        for name, info in cls.model_fields.items():
            if datetime in (info.annotation, *get_args(info.annotation)):
                raise DefinitionError(
                    f"message {cls.__qualname__}: field {name!r} is a datetime that may lack its time zone, so that "
                    "two services may read it as different times; use pydantic.AwareDatetime"
                )
        cls.__contract__ = Contract(topic, key, type or topic)


def contract_of(message: type[Message] | Message) -> Contract:
    """The topic, key field and type name of a message.

    Raises:
        DefinitionError: if it is an abstract base (declared without ``topic=``), or no message at all.
    """
    contract: Contract | None = getattr(message, "__contract__", None)
    if contract is None:
        cls: type[Any] = message if isinstance(message, type) else type(message)
        if not issubclass(cls, Message):
            raise DefinitionError(
                f'{cls.__qualname__} is not a Message; declare it: class {cls.__name__}(Message, topic="…", key="…")'
                if isinstance(message, type)
                else f"a {cls.__qualname__} is not a Message; give an object of a class that is one"
            )
        raise DefinitionError(
            f'message {cls.__qualname__} has no topic; declare it: class {cls.__name__}(..., topic="…")'
        )
    return contract


def key_of(message: Message) -> str:
    """The record key of a message, as text: the value of its key field.

    Raises:
        KafkasagaError: if it is empty: messages of unrelated entities would be taken for those of one.
    """
    field = contract_of(message).key
    value = getattr(message, field)
    if value is None or value == "":
        raise KafkasagaError(
            f"a {type(message).__qualname__} has {field}={value!r}, which is its key; give it the id of its entity: "
            "all messages without one would be taken for one entity"
        )
    return text_of(value)


def text_of(key: object) -> str:
    """What ``str(key)`` gives; of an id, as most keys are, sooner."""
    return id_text(key) if type(key) is UUID else str(key)
