"""The outbox from its other end: what the relay reads, deletes and blocks. Who may do so, subclasses decide.

Reading and deleting are done for every message there is, so they go to the driver as they are: SQLAlchemy's rows and
type conversions cost as much as all the rest of the relay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, text

from kafkasaga.ports import SKIP_NOTHING, OutboxRow, Page, Skip, nothing
from kafkasaga.stores.bulk import Sql, types
from kafkasaga.stores.relay_share import Share
from kafkasaga.stores.schema import Tables

HIGHEST: Final = 2**63 - 1

_COLUMNS: Final = "id, {message_id}, topic, key, payload, headers"
_LENGTH: Final = "id, length(payload) AS length"
_SUMS: Final = """SELECT id, coalesce(sum(length) OVER preceding, 0) AS before FROM ({lengths}) AS each
WINDOW preceding AS (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"""
"""Sums over ids and lengths only: neither database reads a large payload to tell its length."""

as_row: Final[Callable[[tuple[Any, ...]], OutboxRow]] = partial(cast("Any", tuple).__new__, OutboxRow)
"""As ``OutboxRow._make`` does it; but that is a call into Python for each row."""

Fetch = Callable[[Connection, str, Sequence[Any]], list[tuple[Any, ...]]]
"""Executes a query as the driver has it, with its marks for parameters."""


class OutboxReader:
    """Statements on the outbox, as the relay needs them."""

    def __init__(self, sql: Sql, share: Share, fetch: Fetch) -> None:
        outbox, block = sql.tables.outbox, sql.tables.outbox_block
        self._share, self._fetch = share, fetch
        self._mark = "%s" if sql.postgresql else "?"
        self._columns = _COLUMNS.format(message_id="uuid_send(message_id)" if sql.postgresql else "message_id")
        self._table = sql.name("outbox")
        self._last = select(func.max(outbox.c.id))
        # The id alone may be another message's by now, if the database was restored (A33).
        self._delete = sql.bulk(
            """DELETE FROM {outbox} WHERE EXISTS (SELECT 1 FROM r
            WHERE r.id = {outbox}.id AND r.message_id = {outbox}.message_id) AND id IN (SELECT r.id FROM r)""",
            types(outbox, "id", "message_id"),
        )
        self._block = sql.bulk(
            """INSERT INTO {outbox_block} (message_id, topic, key, error) SELECT message_id, topic, key, error FROM r
            WHERE true ON CONFLICT (message_id) DO UPDATE SET error = excluded.error""",
            types(block, "message_id", "topic", "key", "error"),
        )
        self._unblock = sql.bulk(
            "DELETE FROM {outbox_block} WHERE message_id IN (SELECT r.message_id FROM r)", types(block, "message_id")
        )
        # A lookup for each block. As NOT EXISTS it may become a join that reads the whole backlog.
        waiting = select(outbox.c.id).where(outbox.c.message_id == block.c.message_id).limit(1).scalar_subquery()
        self._unblock_absent = delete(block).where(waiting.is_(None)).returning(block.c.message_id)
        self._blocked = select(block.c.message_id, block.c.error)
        if share.condition:
            self._blocked = self._blocked.where(text(share.condition))

    def fetch(self, connection: Connection, page: Page) -> list[OutboxRow]:
        return list(map(as_row, self._fetch(connection, *self.query(page))))

    def query(self, page: Page) -> tuple[str, list[Any]]:
        """The statement that reads a page, with its marks, and its parameters."""
        wanted, values = self._wanted(page.skip)
        values = [page.after, HIGHEST if page.upto is None else page.upto, *values]
        if page.size is None:
            return self._page(self._columns, wanted), [*values, page.limit]
        sums = _SUMS.format(lengths=self._page(_LENGTH, wanted))
        end = f"SELECT max(id) FROM ({sums}) AS sums WHERE before < {self._mark}"  # noqa: S608 (our own text)
        query = self._page(self._columns, f"{wanted} AND id <= ({end})")
        return query, [*values, *values, page.limit, page.size, page.limit]

    def _page(self, columns: str, wanted: str) -> str:
        return f"SELECT {columns} FROM {self._table} WHERE {wanted} ORDER BY id LIMIT {self._mark}"  # noqa: S608 (our own text)

    def _wanted(self, skip: Skip) -> tuple[str, list[Any]]:
        """The condition on rows, and the values of its last parameters."""
        conditions, values = [f"id > {self._mark}", f"id <= {self._mark}"], list[Any]()
        if self._share.condition:
            conditions.append(self._share.condition)
        if skip.topics:
            conditions.append(f"topic NOT IN ({self._marks(len(skip.topics))})")
            values += sorted(skip.topics)
        if skip.lanes:
            lanes = sorted(skip.lanes)
            pairs = ", ".join([f"({self._marks(2)})"] * len(lanes))
            # A list of pairs is compared one by one, a list of texts is hashed: most rows get by with that.
            conditions.append(f"(key NOT IN ({self._marks(len(lanes))}) OR (topic, key) NOT IN (VALUES {pairs}))")
            values += [*(key for _, key in lanes), *(text for lane in lanes for text in lane)]
        return " AND ".join(conditions), values

    def _marks(self, count: int) -> str:
        return ", ".join([self._mark] * count)

    def last(self, connection: Connection) -> int:
        return connection.scalar(self._last) or 0

    def delete(self, connection: Connection, rows: Sequence[OutboxRow]) -> None:
        self._delete.count(connection, [(row.position, row.message_id) for row in rows])

    def block(self, connection: Connection, rows: Sequence[tuple[OutboxRow, str]]) -> None:
        values = [(row.message_id, row.topic, row.key, error.replace("\0", "\ufffd")) for row, error in rows]
        self._block.count(connection, values)

    def unblock(self, connection: Connection, rows: Sequence[OutboxRow]) -> None:
        self._unblock.count(connection, [(row.message_id,) for row in rows])

    def unblock_absent(self, connection: Connection) -> set[UUID]:
        return set(connection.scalars(self._unblock_absent))

    def blocked(self, connection: Connection) -> dict[UUID, str]:
        return {id: error for id, error in connection.execute(self._blocked)}  # noqa: C416 (dict() has no types)


class SqlRelayQueue:
    """The half of ``ports.RelayQueue`` that is the same on every database.

    One thread uses it; only ``wake`` may be called from others.
    """

    def __init__(self, sql: Sql, share: Share) -> None:
        self.tables: Final[Tables] = sql.tables
        self.relays: Final = share.of
        """How many read the outbox, each a share of it."""
        self._reader = OutboxReader(sql, share, self._execute)

    def _execute(self, connection: Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Execute a query that is written for the driver; what it returns, with ids as bytes."""
        raise NotImplementedError

    def _read(self, page: Page) -> list[OutboxRow]:
        with self._reading() as connection:
            return self._reader.fetch(connection, page)

    def _remove(self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None], then: Page | None) -> list[OutboxRow]:
        meanwhile()
        with self._writing() as connection:
            self._reader.delete(connection, rows)
        return [] if then is None else self._read(then)

    def _reading(self) -> AbstractContextManager[Connection]:
        """A connection without an open transaction; raises DatabaseUnavailable if the queue is not held."""
        raise NotImplementedError

    def _writing(self) -> AbstractContextManager[Connection]:
        """A connection on which each statement commits, or all do at the end."""
        raise NotImplementedError

    def fetch(
        self, after: int, limit: int, upto: int | None = None, size: int | None = None, skip: Skip = SKIP_NOTHING
    ) -> list[OutboxRow]:
        """One statement."""
        return self._read(Page(after, limit, upto, size, skip))

    def last(self) -> int:
        """One statement."""
        with self._reading() as connection:
            return self._reader.last(connection)

    def delete(
        self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None] = nothing, then: Page | None = None
    ) -> list[OutboxRow]:
        """One statement; and one for the page."""
        if rows:
            return self._remove(rows, meanwhile, then)
        meanwhile()
        return [] if then is None else self._read(then)

    def block(self, rows: Sequence[tuple[OutboxRow, str]]) -> None:
        """One statement."""
        if rows:
            with self._writing() as connection:
                self._reader.block(connection, rows)

    def unblock(self, rows: Sequence[OutboxRow]) -> None:
        """One statement."""
        if rows:
            with self._writing() as connection:
                self._reader.unblock(connection, rows)

    def unblock_absent(self) -> set[UUID]:
        """One statement."""
        with self._writing() as connection:
            return self._reader.unblock_absent(connection)

    def blocked(self) -> dict[UUID, str]:
        """One statement."""
        with self._reading() as connection:
            return self._reader.blocked(connection)
