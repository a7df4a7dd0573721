"""Batches of one database take turns: usually beside each other, and alone for one that met others in a deadlock.

A turn is an advisory lock of the transaction's, shared or not. It is the first lock of all, so that whoever waits for
it holds nothing that others wait for. It travels with the first statements of a batch.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from kafkasaga.ports import Turn
from kafkasaga.stores.bulk import Plain, Sql

_OURS: Final = 0x6B61666B
"""The first number of the lock, "kafk"; the second one is the inbox, which each set of tables has of its own."""
_KEEP_PLANS: Final = "set_config('plan_cache_mode', 'auto', true)"
"""What reads no table of ours is prepared in a batch, and its plan may be kept (``driver``)."""


class Turns:
    """On SQLite whoever writes is alone."""

    def __init__(self, sql: Sql) -> None:
        self._statements: dict[Turn, Plain] = {}
        if sql.postgresql:
            lock = f"({_OURS}, CAST(CAST(CAST('{sql.name('inbox')}' AS regclass) AS oid) AS int))"
            beside, alone = f"pg_advisory_xact_lock_shared{lock}", f"pg_advisory_xact_lock{lock}"
            for turn, taken in {Turn.NONE: "1", Turn.BESIDE: beside, Turn.ALONE: alone}.items():
                opening, by_any_driver = f"SELECT {_KEEP_PLANS}, {taken}", f"SELECT {taken}"
                self._statements[turn] = sql.plain(opening, otherwise=by_any_driver, prepare=True)

    def take(self, connection: Connection, turn: Turn) -> None:
        """Wait for it, and have it until the transaction ends."""
        if self._statements:
            self._statements[turn].ask(connection)
