"""What the relay says to PostgreSQL for each page of messages, or each message, as fast as it can be said.

Plans are kept of the two statements that a lone message takes, for planning costs several times what they do. No kept
plan can go bad as the table grows: in the relay's session nothing is left but its indexes (``READ_WHOLE_TABLES``).

A page is bounded in bytes. To add up payloads costs PostgreSQL as much as to read them, so it is asked for rows none of
which is larger than its share of the page: then no sum is needed. It leaves out the contents of a row that is, and the
page is read once more, with sums; and so are the next ones, until there is no such row in a page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from struct import Struct
from typing import Any, Final

import psycopg
from sqlalchemy import Connection

from kafkasaga.ports import OutboxRow, Page, id_of, nothing, position_of
from kafkasaga.stores.arrays import bigints, uuids
from kafkasaga.stores.bulk import Sql
from kafkasaga.stores.driver import raised, send
from kafkasaga.stores.relay_queue import HIGHEST, OutboxReader, as_row
from kafkasaga.stores.relay_share import Share
from kafkasaga.stores.trips import Reply, Trips

_LARGE: Final = "length(payload) > $4::bigint"
_bigint: Final = Struct("!q").pack
_header_of: Final[Callable[[tuple[Any, ...]], str | None]] = itemgetter(5)


class DirectReader:
    """Statements on the outbox, on the connection of the relay that holds it."""

    def __init__(self, sql: Sql, share: Share, reader: OutboxReader, connection: Connection, trips: Trips) -> None:
        self._reader, self._connection, self._trips = reader, connection, trips
        outbox = sql.name("outbox")
        ours = f" AND {share.condition}" if share.condition else ""
        contents = f"CASE WHEN {_LARGE} THEN NULL ELSE payload END, CASE WHEN {_LARGE} THEN NULL ELSE headers END"
        where = f"WHERE id > $1 AND id <= $2{ours} ORDER BY id LIMIT $3"
        small = f"SELECT id, uuid_send(message_id), topic, key, {contents} FROM {outbox} {where}"  # noqa: S608 (our own text)
        self._small = small.encode()
        # Where both lists contain a row's values, they are those of one pair: only a restored database has used a
        # position again, and then the id is in neither. A join with pairs takes twice as long.
        where = "WHERE id = ANY($1::bigint[]) AND message_id = ANY($2::uuid[])"
        self._delete = f"DELETE FROM {outbox} {where}".encode()  # noqa: S608 (our own text)
        self._expects_large = False
        """Whether a row of the last page was larger than its share."""

    def fetch(self, page: Page) -> list[OutboxRow]:
        """One statement; two when large rows come, or have come to an end."""
        return self._read(page, self._ask(page).rows())

    def delete(self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None], then: Page | None) -> list[OutboxRow]:
        """One round trip."""
        if then is None and meanwhile is nothing:
            self._remove(rows)
            return []
        try:
            with self._trips.together():
                self._remove(rows)
                page = None if then is None else self._ask(then)
                self._trips.exchange(meanwhile)
        except psycopg.Error as error:
            raised(self._connection, self._delete, error)
        return [] if then is None or page is None else self._read(then, page.rows())

    def _remove(self, rows: Sequence[OutboxRow]) -> None:
        lists = bigints(map(position_of, rows), len(rows)), uuids(map(id_of, rows), len(rows))
        # A kept plan for lists would compare each with each.
        send(self._connection, self._trips, self._delete, lists, prepare=len(rows) == 1)

    def _ask(self, page: Page) -> Reply:
        if page.size is None or page.skip.topics or page.skip.lanes or self._expects_large:
            return self._ask_summed(page)
        upto = HIGHEST if page.upto is None else page.upto
        values = _bigint(page.after), _bigint(upto), _bigint(page.limit), _bigint(_share(page))
        return send(self._connection, self._trips, self._small, values, prepare=True)

    def _ask_summed(self, page: Page) -> Reply:
        text, values = self._reader.query(page)
        first, *parts = text.split("%s")
        numbered = "".join([first, *(f"${n}{part}" for n, part in enumerate(parts, start=1))])
        binary = [value.encode() if isinstance(value, str) else _bigint(value) for value in values]
        return send(self._connection, self._trips, numbered.encode(), binary)

    def _read(self, page: Page, found: list[tuple[Any, ...]]) -> list[OutboxRow]:
        if None in map(_header_of, found):
            self._expects_large = True
            found = self._ask_summed(page).rows()
        rows = list(map(as_row, found))
        if self._expects_large:
            self._expects_large = page.size is None or any(row.size > _share(page) for row in rows)
        return rows


def _share(page: Page) -> int:
    """Of a row in the bytes of its page."""
    return (page.size or 0) // page.limit
