"""From ``(topic, type name)`` to the class that reads it. Each service has a registry of what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kafkasaga.errors import DefinitionError
from kafkasaga.messages.message import Message, contract_of


class Registry:
    """The message types that a service reads.

    Raises:
        DefinitionError: if two classes claim one type name on one topic.
    """

    def __init__(self, types: Iterable[type[Message]] = ()) -> None:
        self._types: dict[tuple[str, str], type[Message]] = {}
        for type in types:
            self.add(type)

    def add(self, type: type[Message]) -> None:
        contract = contract_of(type)
        other = self._types.setdefault((contract.topic, contract.type), type)
        if other is not type:
            one, two = (f"{cls.__module__}.{cls.__qualname__}" for cls in (other, type))
            raise DefinitionError(
                f"{one} and {two} are both declared as type {contract.type!r} on topic {contract.topic!r}; "
                "import one of them everywhere, or give one another type="
            )

    def find(self, topic: str, type_name: str) -> type[Message] | None:
        return self._types.get((topic, type_name))

    @property
    def topics(self) -> frozenset[str]:
        return frozenset(topic for topic, _ in self._types)

    def __iter__(self) -> Iterator[type[Message]]:
        return iter(self._types.values())
