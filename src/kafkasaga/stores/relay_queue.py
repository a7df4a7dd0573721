"""The outbox from its other end: what the relay reads, deletes and blocks. Who may do so, subclasses decide."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select, tuple_

from kafkasaga.ports import SKIP_NOTHING, OutboxRow, Skip
from kafkasaga.stores.bulk import Sql, types
from kafkasaga.stores.schema import Tables

_HIGHEST: Final = 2**63 - 1


class OutboxReader:
    """Statements on the outbox, as the relay needs them."""

    def __init__(self, sql: Sql, bucket: int) -> None:
        outbox, block = sql.tables.outbox, sql.tables.outbox_block
        self._outbox, self._bucket = outbox.c, bucket
        self._last = select(func.max(outbox.c.id)).where(outbox.c.bucket == bucket)
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
        self._blocked = select(block.c.message_id, block.c.error)

    def fetch(
        self, connection: Connection, after: int, limit: int, upto: int | None, size: int | None, skip: Skip
    ) -> list[OutboxRow]:
        end = _HIGHEST if upto is None else upto
        found = connection.execute(self._page(after, limit, end, size, skip))
        return [
            OutboxRow(id, message_id, topic, key, payload, json.loads(headers), created_at)
            for id, message_id, topic, key, payload, headers, created_at in found
        ]

    def _page(self, after: int, limit: int, upto: int, size: int | None, skip: Skip) -> Select[*tuple[Any, ...]]:
        row = self._outbox
        wanted = [row.id > after, row.id <= upto, row.bucket == self._bucket, *self._not(skip)]
        page = select(row.id, row.message_id, row.topic, row.key, row.payload, row.headers, row.created_at)
        page = page.where(*wanted).order_by(row.id).limit(limit)
        if size is None:
            return page
        # Sums over ids and lengths only: neither database reads a large payload to tell its length.
        lengths = select(row.id, func.length(row.payload).label("length")).where(*wanted).order_by(row.id).limit(limit)
        each = lengths.subquery().c
        before = func.sum(each.length).over(order_by=each.id, rows=(None, -1))
        sums = select(each.id, func.coalesce(before, 0).label("before")).subquery().c
        return page.where(row.id <= select(func.max(sums.id)).where(sums.before < size).scalar_subquery())

    def _not(self, skip: Skip) -> Iterator[ColumnElement[bool]]:
        row = self._outbox
        if skip.topics:
            yield row.topic.not_in(sorted(skip.topics))
        if skip.lanes:
            # A list of pairs is compared one by one, a list of texts is hashed: most rows get by with that.
            lanes = sorted(skip.lanes)
            yield or_(row.key.not_in([key for _, key in lanes]), tuple_(row.topic, row.key).not_in(lanes))

    def last(self, connection: Connection) -> int:
        return connection.scalar(self._last) or 0

    def delete(self, connection: Connection, rows: Sequence[OutboxRow]) -> None:
        self._delete.count(connection, [(row.position, row.message_id) for row in rows])

    def block(self, connection: Connection, rows: Sequence[tuple[OutboxRow, str]]) -> None:
        values = [(row.message_id, row.topic, row.key, error.replace("\0", "\ufffd")) for row, error in rows]
        self._block.count(connection, values)

    def unblock(self, connection: Connection, rows: Sequence[OutboxRow]) -> None:
        self._unblock.count(connection, [(row.message_id,) for row in rows])

    def blocked(self, connection: Connection) -> dict[UUID, str]:
        return {id: error for id, error in connection.execute(self._blocked)}  # noqa: C416 (dict() has no types)


class SqlRelayQueue:
    """The half of ``ports.RelayQueue`` that is the same on every database.

    One thread uses it; only ``wake`` may be called from others.
    """

    def __init__(self, sql: Sql, bucket: int) -> None:
        self.tables: Final[Tables] = sql.tables
        self._reader = OutboxReader(sql, bucket)

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
        with self._reading() as connection:
            return self._reader.fetch(connection, after, limit, upto, size, skip)

    def last(self) -> int:
        """One statement."""
        with self._reading() as connection:
            return self._reader.last(connection)

    def delete(self, rows: Sequence[OutboxRow]) -> None:
        """One statement."""
        if rows:
            with self._writing() as connection:
                self._reader.delete(connection, rows)

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

    def blocked(self) -> dict[UUID, str]:
        """One statement."""
        with self._reading() as connection:
            return self._reader.blocked(connection)
