"""Which sagas the clock concerns next. Writing timers belongs to writing sagas (``sagas``)."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, func, select

from kafkasaga.stores.schema import Tables


class Timers:
    """Statements on due timers."""

    def __init__(self, tables: Tables) -> None:
        self._timer = tables.saga_timer

    def due(self, connection: Connection, now: datetime, limit: int) -> list[UUID]:
        """Sagas whose timer is due, oldest first."""
        timer = self._timer.c
        query = select(timer.saga_id).where(timer.due_at <= now).order_by(timer.due_at).limit(limit)
        return list(connection.scalars(query))

    def next_due(self, connection: Connection) -> datetime | None:
        """When the next timer is due."""
        earliest: datetime | None = connection.scalar(select(func.min(self._timer.c.due_at)))
        return earliest
