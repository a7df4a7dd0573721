"""How the relay reads the outbox: from its start, page by page, again and again.

A sweep over several pages ends at the highest position that was there when it began: behind it may lie a row whose
predecessor was committed after the page that it belongs to had been read. What a sweep passes over it passes over to
its end, for a lane goes on with its first row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kafkasaga.ports import OutboxRow, Page, RelayQueue, Skip, payload_bytes
from kafkasaga.runtime.relay_blocks import Lane

SHORTEST_GAP: Final = 0.02
"""Seconds between reads while nothing is acknowledged; doubled each time, up to the polling interval."""

Room = tuple[int, int]
"""Rows and bytes."""
HeldBack = Callable[[], tuple[set[str], set[Lane]]]


class Sweep:
    """Where it stands, and what it passes over."""

    def __init__(self, longest_gap: float) -> None:
        self.topics: set[str] = set()
        self.lanes: set[Lane] = set()
        self._longest_gap: Final = longest_gap
        self._after = 0
        self._top: int | None = None
        """Where a sweep over several pages ends."""
        self._pages = False
        """Whether one page does not hold the table."""
        self._is_over = False
        """Whether the last read has reached the end."""
        self._fruitful = False
        """Whether something new was read since it began."""
        self._gap, self._next_read = 0.0, 0.0

    def page(self, queue: RelayQueue, room: Room, full_topics: set[str], held_back: HeldBack) -> Page:
        """The next one to read, for so many rows and bytes."""
        if self._after == 0:
            # Only here may what was held back go on: later, its first row would lie behind the reader.
            self.topics, self.lanes = held_back()
            self.topics |= full_topics
            self._top = queue.last() if self._pages else None
            self._fruitful = False
        return self._page(room)

    def page_ahead(self, room: Room) -> Page | None:
        """The same, if it belongs to a sweep that has begun."""
        return self._page(room) if self._after else None

    def _page(self, room: Room) -> Page:
        limit, size = room
        return Page(self._after, limit, self._top, size, Skip(self.topics, self.lanes))

    def took(self, page: Page, rows: Sequence[OutboxRow]) -> bool:
        """A page was read; whether there is more to read."""
        # A short read has reached the end: the next one begins at the start again, for rows that were committed late.
        full = len(rows) == page.limit or payload_bytes(rows) >= (page.size or 0)
        self._after = rows[-1].position if full and self._top is not None else 0
        if page.after == 0:
            self._pages = full
        self._is_over = not full
        return full

    @property
    def is_under_way(self) -> bool:
        """Whether it has read some of its pages."""
        return self._after > 0

    @property
    def saw_everything(self) -> bool:
        """Whether the last one passed over nothing, and has reached the end."""
        return self._is_over and not self.topics and not self.lanes

    def begin_again(self) -> None:
        """Read from the start next, and do so at once."""
        self._after, self._gap, self._next_read, self._is_over = 0, 0.0, 0.0, False

    def may_read(self, now: float) -> bool:
        """Whether the pause is over."""
        return now >= self._next_read

    def rest(self, now: float, *, fresh: bool, full: bool, waits: bool) -> None:
        """While Kafka acknowledges nothing and nothing new comes, do not read the same rows over and over."""
        self._fruitful = self._fruitful or fresh
        if waits and not self._fruitful and not full:
            self._gap = min(max(2 * self._gap, SHORTEST_GAP), self._longest_gap)
            self._next_read = now + self._gap
        else:
            self.go_on()

    def go_on(self) -> None:
        """Something has moved: no pause."""
        self._gap, self._next_read = 0.0, 0.0
