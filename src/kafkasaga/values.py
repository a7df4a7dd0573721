"""``value``: frozen dataclasses that cost no more than others to make.

``dataclass(frozen=True)`` makes each object by one call of ``object.__setattr__`` for each field: 0.80 µs for eight of
them, 0.17 µs for a dataclass that is not frozen (Python 3.11). A message makes about twenty values with 130 fields in
all, which was a tenth of what it cost. So values are frozen where it is free of charge: mypy and pyright refuse every
assignment to a field of theirs. They compare and hash as frozen dataclasses do.

What users write in a definition or are called with is frozen by ``dataclass`` itself. What they only look at, such as
the instance and the log that ``Operator`` shows, are values like all others: changing one changes nothing that is
stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as value
    from functools import cached_property as kept
else:
    from dataclasses import dataclass

    class kept:  # noqa: N801 (used like `property`)
        """A property that is computed once. ``functools.cached_property`` takes a lock for it (until Python 3.12)."""

        def __init__(self, compute: Any) -> None:
            self._compute, self._name, self.__doc__ = compute, compute.__name__, compute.__doc__

        def __get__(self, instance: Any, owner: Any) -> Any:
            if instance is None:
                return self
            found = instance.__dict__[self._name] = self._compute(instance)
            return found

    def value(*, frozen: bool, **options: Any) -> Any:
        return dataclass(unsafe_hash=frozen, **options)


__all__ = ["kept", "value"]
