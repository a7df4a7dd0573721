"""Plans that are kept: PostgreSQL plans a batch's own statements once for each connection, not each time.

A plan that was made while a queue table was empty would read all of it after it has grown. So where plans are kept, the
planner is told to go through indexes and to join by hash, and each statement says which rows it wants in a way that an
index can take (``{of_r}``, ``LATERAL``): that is right for however many rows. For a user's statements in the same
transaction, and his triggers at its end, all that is taken back: how it was before is kept aside. (But plans of theirs
may be kept as PostgreSQL sees fit, where the library's engine has each planned anew.)
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from kafkasaga.stores.bulk import Sql, Way

_BY_INDEX: Final = {
    "enable_seqscan": "off",
    "enable_nestloop": "off",  # of a batch with itself; `LATERAL` is one all the same
    "enable_mergejoin": "off",
    "jit": "off",  # to be off is a cost, of which it would see much
}


def _set(name: str, value: str) -> str:
    return f"set_config('{name}', {value}, true)"


_WANTED: Final = ", ".join(
    [
        _set("plan_cache_mode", "'force_generic_plan'"),
        *(_set(name, f"'{value}'") for name, value in _BY_INDEX.items()),
    ]
)
_ASIDE: Final = ", ".join(_set(f"kafkasaga.{name}", f"current_setting('{name}')") for name in _BY_INDEX)
_AS_BEFORE: Final = ", ".join(
    [
        _set("plan_cache_mode", "'auto'"),
        *(_set(name, f"current_setting('kafkasaga.{name}')") for name in _BY_INDEX),
    ]
)
KEPT: Final = f"{_ASIDE}, {_WANTED}"
"""What is selected before statements whose plans are kept."""


class Plans:
    """From ``keep``, or another statement that selects ``KEPT``, to ``take_back`` plans of our own are kept.

    A transaction that hands its session over to nobody takes them back once, before COMMIT.
    """

    def __init__(self, sql: Sql, way: Way) -> None:
        self._way = way
        self._keep = sql.plain(f"SELECT {KEPT}", otherwise=None, prepare=True)
        self._take_back = sql.plain(f"SELECT {_AS_BEFORE}", otherwise=None, prepare=True)

    def keep(self, connection: Connection) -> None:
        """What follows are our own statements."""
        self._keep.ask(connection)
        self._way.keeps_plans(connection, keeps=True)

    def take_back(self, connection: Connection) -> None:
        """What follows may be a user's."""
        self._way.keeps_plans(connection, keeps=False)
        self._take_back.ask(connection)
