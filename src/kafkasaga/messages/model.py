"""The metaclass of what users declare: pydantic's, with our words for what cannot travel as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.errors import PydanticSchemaGenerationError

from kafkasaga.errors import DefinitionError

if TYPE_CHECKING:
    # A subclass of it would not be a dataclass_transform to type checkers.
    from pydantic._internal._model_construction import ModelMetaclass as CheckedModel
else:

    class CheckedModel(type(BaseModel)):
        """Makes model classes.

        Raises:
            DefinitionError: for a field of a type that pydantic does not know. Its advice, to allow arbitrary types,
                would let a class through that cannot be written as JSON.
        """

        def __new__(mcs, name: str, *arguments: Any, **options: Any) -> type:
            try:
                return super().__new__(mcs, name, *arguments, **options)
            except PydanticSchemaGenerationError as error:
                said = str(error).partition(" for ")[2].partition(". ")[0]
                raise DefinitionError(
                    f"{name}: a field is of type {said}, which cannot travel as JSON; "
                    "use a pydantic model, a dataclass, or a type of the standard library"
                ) from None


__all__ = ["CheckedModel"]
