"""SQLite databases in memory for the services whose handlers use a session; put back as they were before each run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from kafkasaga.runtime.service import Service
from kafkasaga.stores import Session, SqlStore, create_store

Prepare = Callable[[Session], Any]
"""Makes a service's own tables, and fills them."""


class Database:
    """One service's database."""

    def __init__(self, service: Service, prepare: Prepare | None) -> None:
        self.store: SqlStore = create_store("sqlite://", service.outbox.tables)
        tables = service.outbox.tables
        tables.metadata.create_all(self.store.engine, tables=list(tables.all))
        if prepare is not None:
            with Session(self.store.engine) as session, session.begin():
                prepare(session)
        self._template = sqlite3.connect(":memory:", check_same_thread=False)
        self._copy(to_template=True)

    def fresh(self) -> SqlStore:
        """The store, with nothing in it but what was prepared."""
        self._copy(to_template=False)
        return self.store

    def look(self, check: Callable[[Session], Any]) -> None:
        """Have the user look at what is in it."""
        with Session(self.store.engine) as session:
            check(session)

    def close(self) -> None:
        """Give everything back."""
        self.store.close()
        self._template.close()

    def _copy(self, *, to_template: bool) -> None:
        connection = self.store.engine.raw_connection()
        try:
            raw = connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            source, target = (raw, self._template) if to_template else (self._template, raw)
            source.backup(target)
        finally:
            connection.close()
