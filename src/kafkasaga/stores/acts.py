"""What a person does to a parked message: recorded with who and why, and with what the message was before (I10)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, RowMapping, delete, func, insert, select, update

from kafkasaga.ports import Parked, ParkedStatus
from kafkasaga.stores.bulk import Sql
from kafkasaga.stores.dialects import begin_writing
from kafkasaga.stores.failures import translated
from kafkasaga.stores.parked import ParkedMessages, parked_of

Action = Literal["retry", "edit", "skip", "discard"]


@dataclass(frozen=True, slots=True)
class Act:
    """Something done to a parked message."""

    action: Action
    by: str
    why: str
    at: datetime
    value: bytes | None = None
    """The new body, for an edit."""


class ParkedActs:
    """Carries out acts, each in one transaction with its record."""

    def __init__(self, engine: Engine, sql: Sql) -> None:
        self._engine, self._tables = engine, sql.tables
        self._table, self._parked = sql.tables.parked_message, ParkedMessages(sql)
        self._do: Final[dict[Action, Callable[[Connection, int, Act], None]]] = {
            "retry": self._retry,
            "edit": self._edit,
            "skip": self._skip,
            "discard": self._discard,
        }

    def carry_out(self, id: int, act: Act) -> Parked | None:
        """Do it, after waiting for an attempt under way; what the message was before, None if there is none."""
        with translated(), self._engine.begin() as connection:
            begin_writing(connection)
            table = self._table
            row = connection.execute(select(table).where(table.c.id == id).with_for_update()).mappings().first()
            if row is None:
                return None
            noted = {"at": act.at, "by": act.by, "action": act.action, "why": act.why}
            record = {**noted, "subject": f"parked message {id}", "before": _written(row)}
            connection.execute(insert(self._tables.operator_log).values(record))
            self._do[act.action](connection, id, act)
            return parked_of(row)

    def _retry(self, connection: Connection, id: int, act: Act, **changed: Any) -> None:
        # It becomes due if it is the first of its lane; else when it is.
        again = {"status": ParkedStatus.WAITING.value, "attempts": 0, "deaths": 0, "next_at": None, "dead_at": None}
        connection.execute(update(self._table).where(self._table.c.id == id).values({**again, **changed}))
        self._parked.free_lanes(connection)
        del act

    def _edit(self, connection: Connection, id: int, act: Act) -> None:
        self._retry(connection, id, act, value=act.value)

    def _skip(self, connection: Connection, id: int, act: Act) -> None:
        why = f"skipped by {act.by}: {act.why}"
        ended = {"status": ParkedStatus.DEAD_LETTER.value, "error": why, "dead_at": func.current_timestamp()}
        connection.execute(update(self._table).where(self._table.c.id == id).values(ended))
        self._parked.promote(connection, id)

    def _discard(self, connection: Connection, id: int, act: Act) -> None:
        del act
        self._parked.promote(connection, id)
        connection.execute(delete(self._table).where(self._table.c.id == id))


def _written(row: RowMapping) -> str:
    """A row with all its bytes, as text."""
    return json.dumps({name: _text(value) for name, value in row.items()})


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value if value is None or isinstance(value, int) else str(value)
