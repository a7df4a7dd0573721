"""Connections for units of work. Those of an engine that is the library's own stay as they are between two units.

To take a connection from the pool, have its transactions begin late, and give it back as others expect it, takes more
code than anything else that is the same for every batch; a lone message pays for that (ADR 27).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine

from kafkasaga.stores.bulk import Way


class UnitConnections:
    """Threads may share it. At most as many are kept as units were under way at once."""

    def __init__(self, engine: Engine, way: Way, options: Mapping[str, Any], *, keeps: bool) -> None:
        self._engine: Final = engine
        self._way: Final = way
        self._options: Final = options
        """Execution options of each."""
        self._keeps = keeps
        self._kept: list[Connection] = []
        """Out of the pool, and in no transaction."""

    def take(self) -> Connection:
        """One that nobody else has."""
        try:
            return self._kept.pop()
        except IndexError:
            connection = self._engine.connect().execution_options(**self._options)
            return self._way.ready(connection) if self._keeps else connection

    def give_back(self, connection: Connection, *, committed: bool) -> None:
        """For the next unit, if all went well; what is lost is hardly ever lost alone."""
        if committed and self._keeps:
            self._kept.append(connection)
            return
        if connection.invalidated:
            self._let_go()
        connection.close()

    def close(self) -> None:
        """Give all of them back to the pool, from now on at once."""
        self._keeps = False
        self._let_go()

    def _let_go(self) -> None:
        while self._kept:
            self._kept.pop().close()
