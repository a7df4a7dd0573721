"""The rows that the relay has in memory: how many, how large, and which topic has more than its share of them.

A topic of which nothing was acknowledged yet, or not since it failed, has a small share: librdkafka takes up to half a
minute to find out that a topic does not exist, and the others are not to wait for that. A topic that acknowledged
something may use the whole window. If then nothing is acknowledged at all for a while, the window becomes half as
large again, and only topics with less than that small share get into it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kafkasaga.ports import OutboxRow, id_of, payload_bytes, topic_of

SHARE: Final = 8
"""A topic that has not proven itself gets one part in so many."""
STALLED: Final = 1.0
"""Seconds without an acknowledgement after which a full window is taken to hang."""
DISTRUST: Final = 1.0
"""Seconds after a failure in which a topic is not trusted; doubled each time."""
DISTRUST_MOST: Final = 600.0
"""Seconds in the end."""


@dataclass(slots=True)
class _Topic:
    """What a topic has in memory, and whether anything has arrived there since it last failed."""

    rows: int = 0
    size: int = 0
    proven: bool = False
    distrust: float = 0.0
    trusted_from: float = 0.0


class Window:
    """Rows in memory, at most ``rows`` of them and about ``size`` bytes of payload; half as much again in a stall."""

    def __init__(self, rows: int, size: int) -> None:
        self._most: Final = (rows, size)
        self._share: Final = (max(1, rows // SHARE), max(1, size // SHARE))
        self._held: set[bytes] = set()
        self._size = 0
        self._topics: dict[str, _Topic] = {}
        self._moved = 0.0
        self._stalled = False

    @property
    def rows(self) -> set[bytes]:
        """The message ids."""
        return self._held

    @property
    def stalled(self) -> bool:
        """Whether nothing has moved for a while, when last asked for room."""
        return self._stalled

    def room(self, now: float, *, waits: bool = False) -> tuple[int, int] | None:
        """How many rows and bytes may be read; None if it is not worth a read.

        ``waits``: there is room, but nothing is read before something arrives.
        """
        is_stuck = waits or not self._worth(*self._left(1.0))
        self._stalled = self._stalled or (is_stuck and now - self._moved >= STALLED)
        if self._stalled:
            for topic in self._topics.values():
                topic.proven = topic.proven and not self._is_large(topic)
        left = self._left(1.5 if self._stalled else 1.0)
        return left if self._worth(*left) else None

    def full(self) -> set[str]:
        """The topics that have their share."""
        return {name for name, topic in self._topics.items() if not topic.proven and self._is_large(topic)}

    def trusts(self, name: str, now: float) -> bool:
        """Whether rows of a topic may be streamed."""
        topic = self._topics.get(name)
        return topic is not None and topic.proven and topic.trusted_from <= now

    def add_all(self, rows: Sequence[OutboxRow], now: float) -> None:
        """Take rows of proven topics in."""
        self._held.update(map(id_of, rows))
        self._moved = now
        self._count(rows, 1)

    def add(self, row: OutboxRow, now: float) -> bool:
        """Take a row in; True if its topic now has its share, and no more of it should come."""
        self._held.add(row.id)
        self._moved = now
        self._count((row,), 1)
        topic = self._topics[row.topic]
        return not topic.proven and self._is_large(topic)

    def new(self, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        """Those that it does not have."""
        return rows if self._held.isdisjoint(map(id_of, rows)) else [row for row in rows if row.id not in self._held]

    def remove(self, rows: Sequence[OutboxRow]) -> None:
        """Rows that were deleted, or that go back to waiting in the table. Some may be gone already."""
        ids = set(map(id_of, rows))
        if not ids <= self._held:
            rows = [row for row in rows if row.id in self._held]
        self._held -= ids
        self._count(rows, -1)

    def _count(self, rows: Sequence[OutboxRow], sign: int) -> None:
        for name, group in _by_topic(rows).items():
            topic = self._topics.get(name) or self._topics.setdefault(name, _Topic())
            size = sign * payload_bytes(group)
            topic.rows += sign * len(group)
            topic.size += size
            self._size += size

    def acknowledged(self, topic: str, now: float) -> None:
        """Something arrived there."""
        self._topics.setdefault(topic, _Topic()).proven = True
        self._moved, self._stalled = now, False

    def failed(self, name: str, now: float) -> None:
        """Something did not."""
        topic = self._topics.setdefault(name, _Topic())
        if topic.trusted_from <= now:  # not one of the many that fail together
            topic.distrust = min(max(2 * topic.distrust, DISTRUST), DISTRUST_MOST)
        topic.proven, topic.trusted_from = False, now + topic.distrust

    def streamed(self, name: str) -> None:
        """A stream of its rows arrived: it is trusted as if it had never failed."""
        self._topics[name].distrust = 0.0

    def _left(self, times: float) -> tuple[int, int]:
        rows, size = self._most
        return int(rows * times) - len(self._held), int(size * times) - self._size

    def _worth(self, rows: int, size: int) -> bool:
        return rows >= max(1, self._most[0] // 4) and size >= max(1, self._most[1] // 4)

    def _is_large(self, topic: _Topic) -> bool:
        rows, size = self._share
        return topic.rows >= rows or topic.size >= size


def _by_topic(rows: Sequence[OutboxRow]) -> Mapping[str, Sequence[OutboxRow]]:
    topics = set(map(topic_of, rows))
    if len(topics) == 1:
        return dict.fromkeys(topics, rows)
    groups = defaultdict[str, list[OutboxRow]](list)
    for row in rows:
        groups[row.topic].append(row)
    return groups
