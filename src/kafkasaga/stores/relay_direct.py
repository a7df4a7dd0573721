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
from typing import Any, Final

from kafkasaga.ports import OutboxRow, Page, id_of, nothing, position_of
from kafkasaga.stores.arrays import bigints, uuids
from kafkasaga.stores.bulk import Sql
from kafkasaga.stores.direct import Array, Direct, Query, Rows
from kafkasaga.stores.relay_queue import HIGHEST, OutboxReader, as_row
from kafkasaga.stores.relay_share import Share

_LARGE: Final = "length(payload) > $4"
_header_of: Final[Callable[[tuple[Any, ...]], str | None]] = itemgetter(5)


class DirectReader:
    """Statements on the outbox, on the connection of the relay that holds it."""

    def __init__(self, sql: Sql, share: Share, reader: OutboxReader, direct: Direct) -> None:
        self._reader, self._direct = reader, direct
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
        return self._read(page, self._direct.ask(self._page(page)))

    def delete(self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None], then: Page | None) -> list[OutboxRow]:
        """One round trip."""
        lists = Array(bigints(map(position_of, rows), len(rows))), Array(uuids(map(id_of, rows), len(rows)))
        # A kept plan for lists would compare each with each.
        delete = Query(self._delete, lists, b"kafkasaga_delete" if len(rows) == 1 else b"")
        if then is None and meanwhile is nothing:
            self._direct.ask(delete)
            return []
        queries = [delete] if then is None else [delete, self._page(then)]
        found = self._direct.ask_together(queries, meanwhile)
        return [] if then is None else self._read(then, found[1])

    def _page(self, page: Page) -> Query:
        if page.size is None or page.skip.topics or page.skip.lanes or self._expects_large:
            return self._summed(page)
        upto = HIGHEST if page.upto is None else page.upto
        return Query(self._small, (page.after, upto, page.limit, _share(page)), b"kafkasaga_page")

    def _summed(self, page: Page) -> Query:
        text, values = self._reader.query(page)
        first, *parts = text.split("%s")
        return Query("".join([first, *(f"${n}{part}" for n, part in enumerate(parts, start=1))]).encode(), values)

    def _read(self, page: Page, found: Rows) -> list[OutboxRow]:
        if None in map(_header_of, found):
            self._expects_large = True
            found = self._direct.ask(self._summed(page))
        rows = list(map(as_row, found))
        if self._expects_large:
            self._expects_large = page.size is None or any(row.size > _share(page) for row in rows)
        return rows


def _share(page: Page) -> int:
    """Of a row in the bytes of its page."""
    return (page.size or 0) // page.limit
