"""Connections for units of work. Those of an engine that is the library's own stay as they are between two units.

To take a connection from the pool, have its transactions begin late, and give it back as others expect it, takes more
code than anything else that is the same for every batch; a lone message pays for that (ADR 27).

One that a user's function had goes back to the pool, which knows how to make it as it was: whoever still has it, or has
given it options or listeners, does not get at the next unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, Final

from sqlalchemy import Connection, Engine

from kafkasaga.stores.bulk import Way


class UnitConnections:
    """Threads may share it. At most as many are kept as units were under way at once; ``close`` gives them back, the
    engine's own ``dispose`` does not reach them.
    """

    def __init__(self, engine: Engine, way: Way, options: Mapping[str, Any], *, keeps: bool) -> None:
        self._engine: Final = engine
        self._way: Final = way
        self._options: Final = options
        """Execution options of each."""
        self._guard: Final = Lock()
        self._keeps = keeps
        self._kept: list[Connection] = []
        """Out of the pool, and in no transaction."""

    def take(self) -> Connection:
        """One that nobody else has."""
        try:
            return self._kept.pop()
        except IndexError:
            pass
        connection = self._engine.connect()
        try:
            connection.execution_options(**self._options)
            return self._way.ready(connection) if self._keeps else connection
        except BaseException:
            connection.close()
            raise

    def give_back(self, connection: Connection, *, as_it_was: bool) -> None:
        """For the next unit, if it is as it was; what is lost is hardly ever lost alone."""
        if connection.invalidated:
            self._let_go()
        with self._guard:
            is_kept = as_it_was and self._keeps and not connection.invalidated
            if is_kept:
                self._kept.append(connection)
        if not is_kept:
            connection.close()

    def close(self) -> None:
        """Give all of them back to the pool, from now on at once."""
        with self._guard:
            self._keeps = False
        self._let_go()

    def _let_go(self) -> None:
        kept, self._kept = self._kept, []
        for connection in kept:
            connection.close()
