"""The rows that the relay has in memory: how many, how large, and which topic has more than its share of them.

A topic of which nothing was acknowledged yet, or not since it failed, has a small share: librdkafka takes up to half a
minute to find out that a topic does not exist, and the others are not to wait for that. A topic that acknowledged
something may use the whole window. If then nothing is acknowledged at all for a while, the window becomes half as
large again, and only topics with less than that small share get into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from kafkasaga.ports import OutboxRow

SHARE: Final = 8
"""A topic that has not proven itself gets one part in so many."""
STALLED: Final = 1.0
"""Seconds without an acknowledgement after which a full window is taken to hang."""


@dataclass(slots=True)
class _Topic:
    """What a topic has in memory, and whether anything has arrived there since it last failed."""

    rows: int = 0
    size: int = 0
    proven: bool = False


class Window:
    """Rows in memory, at most ``rows`` of them and about ``size`` bytes of payload; half as much again in a stall."""

    def __init__(self, rows: int, size: int) -> None:
        self._most: Final = (rows, size)
        self._share: Final = (max(1, rows // SHARE), max(1, size // SHARE))
        self._sizes: dict[UUID, int] = {}
        self._size = 0
        self._topics: dict[str, _Topic] = {}
        self._moved = 0.0
        self._stalled = False

    @property
    def rows(self) -> Mapping[UUID, int]:
        """The message ids, with the sizes of their rows."""
        return self._sizes

    def room(self, now: float) -> tuple[int, int] | None:
        """How many rows and bytes may be read; None if it is not worth a read."""
        self._stalled = self._stalled or (not self._worth(*self._left(1.0)) and now - self._moved >= STALLED)
        if self._stalled:
            for topic in self._topics.values():
                topic.proven = topic.proven and not self._is_large(topic)
        left = self._left(1.5 if self._stalled else 1.0)
        return left if self._worth(*left) else None

    def full(self) -> set[str]:
        """The topics that have their share."""
        return {name for name, topic in self._topics.items() if not topic.proven and self._is_large(topic)}

    def add(self, row: OutboxRow, now: float) -> bool:
        """Take a row in; True if its topic now has its share, and no more of it should come."""
        size = row.size
        self._sizes[row.message_id] = size
        self._size += size
        self._moved = now
        topic = self._topics.get(row.topic) or self._topics.setdefault(row.topic, _Topic())
        topic.rows += 1
        topic.size += size
        return not topic.proven and self._is_large(topic)

    def remove(self, rows: Iterable[OutboxRow]) -> None:
        """Rows that were deleted, or that go back to waiting in the table."""
        for row in rows:
            size = self._sizes.pop(row.message_id, None)
            if size is None:
                continue
            self._size -= size
            topic = self._topics[row.topic]
            topic.rows -= 1
            topic.size -= size

    def acknowledged(self, topic: str, now: float) -> None:
        """Something arrived there."""
        self._topics.setdefault(topic, _Topic()).proven = True
        self._moved, self._stalled = now, False

    def failed(self, topic: str) -> None:
        """Something did not."""
        self._topics.setdefault(topic, _Topic()).proven = False

    def _left(self, times: float) -> tuple[int, int]:
        rows, size = self._most
        return int(rows * times) - len(self._sizes), int(size * times) - self._size

    def _worth(self, rows: int, size: int) -> bool:
        return rows >= max(1, self._most[0] // 4) and size >= max(1, self._most[1] // 4)

    def _is_large(self, topic: _Topic) -> bool:
        rows, size = self._share
        return topic.rows >= rows or topic.size >= size
