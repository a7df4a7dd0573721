"""The outbox in memory from its other end: one relay at a time holds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final
from uuid import UUID

from kafkasaga.errors import DatabaseUnavailable
from kafkasaga.ports import SKIP_NOTHING, OutboxRow, Page, Skip, nothing
from kafkasaga.testing.memory.locks import Waiting
from kafkasaga.testing.memory.tables import Tables

IDLE_SESSION: Final = 15.0
"""Seconds without a sign of life after which a holder loses the queue, as on PostgreSQL."""


class Outbound:
    """Who holds the outbox of one database, and who wants to hear of commits."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.holder: MemoryRelayQueue | None = None
        self.now: Callable[[], float] = time.monotonic
        """The server's clock."""
        self.queues: set[MemoryRelayQueue] = set()

    def wake(self) -> None:
        """Something was committed to the outbox."""
        for queue in list(self.queues):
            queue.wake()


class MemoryRelayQueue:
    """Implements ``ports.RelayQueue``."""

    def __init__(self, tables: Tables, outbound: Outbound, waiting: Waiting) -> None:
        self._tables, self._outbound, self._waiting = tables, outbound, waiting
        self._event = threading.Event()
        self._seen = 0.0
        self._was_held = False
        outbound.queues.add(self)

    def acquire(self) -> bool:
        with self._waiting.guard:
            holder, now = self._outbound.holder, self._outbound.now()
            if self._was_held:
                self._still_mine()
            elif holder is not None and now - holder._seen <= IDLE_SESSION:  # noqa: SLF001 (another one of this class)
                return False
            self._outbound.holder, self._seen, self._was_held = self, now, True
            return True

    def fetch(
        self, after: int, limit: int, upto: int | None = None, size: int | None = None, skip: Skip = SKIP_NOTHING
    ) -> list[OutboxRow]:
        with self._waiting.guard:
            self._still_mine()
            rows = self._tables.outbox
            found = sorted(position for position in rows if position > after and (upto is None or position <= upto))
            wanted = [rows[position] for position in found if rows[position] not in skip][:limit]
            before = accumulate((row.size for row in wanted), initial=0)
            return [row for row, sum_before in zip(wanted, before, strict=False) if size is None or sum_before < size]

    def last(self) -> int:
        with self._waiting.guard:
            self._still_mine()
            return max(self._tables.outbox, default=0)

    def delete(
        self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None] = nothing, then: Page | None = None
    ) -> list[OutboxRow]:
        meanwhile()
        with self._waiting.guard:
            self._still_mine()
            for row in rows:
                stored = self._tables.outbox.get(row.position)
                if stored is not None and stored.id == row.id:
                    del self._tables.outbox[row.position]
        return [] if then is None else self.fetch(*then)

    def block(self, rows: Sequence[tuple[OutboxRow, str]]) -> None:
        with self._waiting.guard:
            self._still_mine()
            self._tables.blocked |= {row.message_id: error for row, error in rows}

    def unblock(self, rows: Sequence[OutboxRow]) -> None:
        with self._waiting.guard:
            self._still_mine()
            for row in rows:
                self._tables.blocked.pop(row.message_id, None)

    def unblock_absent(self) -> set[UUID]:
        with self._waiting.guard:
            self._still_mine()
            absent = self._tables.blocked.keys() - {row.message_id for row in self._tables.outbox.values()}
            for id in absent:
                del self._tables.blocked[id]
            return absent

    def blocked(self) -> dict[UUID, str]:
        with self._waiting.guard:
            self._still_mine()
            return dict(self._tables.blocked)

    def wait(self, timeout: float) -> None:
        if self._event.wait(timeout):
            self._event.clear()

    def wake(self) -> None:
        self._event.set()

    def lose(self) -> None:
        """The connection is gone, and with it the lock."""
        if self._outbound.holder is self:
            self._outbound.holder = None

    def close(self) -> None:
        self._outbound.queues.discard(self)
        self.lose()
        self._was_held = False

    def _still_mine(self) -> None:
        """Every statement goes over the connection that holds the lock; if that is gone, it fails."""
        now = self._outbound.now()
        if self._outbound.holder is not self or now - self._seen > IDLE_SESSION:
            self.lose()
            self._was_held = False
            raise DatabaseUnavailable("the relay's connection was closed: another relay may have the outbox")
        self._seen = now
