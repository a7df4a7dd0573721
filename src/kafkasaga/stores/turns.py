"""Batches of one database take turns: usually beside each other, and alone for one that met others in a deadlock.

A turn is an advisory lock of the transaction's, shared or not. It is the first lock of all, so that whoever waits for
it holds nothing that others wait for. It travels with the first statements of a batch. Where a transaction sees only
what was there when it began, nobody waits: what happens meanwhile it would never see.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from kafkasaga.errors import TurnTimeout
from kafkasaga.ports import Turn
from kafkasaga.stores.bulk import Plain, Sql, Way, isolation
from kafkasaga.stores.failures import waited_too_long
from kafkasaga.stores.plans import KEPT

_OURS: Final = 0x6B61666B
"""The first number of the lock, "kafk"; the second one is the inbox, which each set of tables has of its own."""
_LOCKS: Final = {Turn.BESIDE: "pg_advisory_xact_lock_shared", Turn.ALONE: "pg_advisory_xact_lock"}


class TurnLock:
    """On SQLite whoever writes is alone."""

    def __init__(self, sql: Sql, way: Way) -> None:
        self._way = way
        self._opening: dict[Turn, Plain] = {}
        if sql.postgresql:
            inbox = sql.name("inbox").replace("'", "''")
            lock = f"({_OURS}, CAST(CAST(CAST('{inbox}' AS regclass) AS oid) AS int))"
            for turn, function in _LOCKS.items():
                taken = f"SELECT {function}{lock}"
                self._opening[turn] = sql.plain(f"{taken}, {KEPT}", otherwise=taken, prepare=True)
            self._opening[Turn.NONE] = sql.plain(f"SELECT {KEPT}", otherwise=None, prepare=True)

    def take(self, connection: Connection, turn: Turn) -> None:
        """Wait for it, and have it until the transaction ends. Plans of what follows are kept (``plans``)."""
        if self._opening:
            alike = isolation(connection) == "READ COMMITTED"
            self._opening[turn if alike else Turn.NONE].ask(connection)
            self._way.keeps_plans(connection, keeps=True)

    def refused(self, connection: Connection, error: DBAPIError, *, behind: int) -> None:
        """A turn that did not come in time is told apart from what else was waited for in its round trip.

        ``behind`` so many other statements it was taken there.

        Raises:
            TurnTimeout: if it was the turn.
        """
        if waited_too_long(error) and self._way.answered(connection) == behind:
            raise TurnTimeout("other batches of this database did not come to an end in time") from error
