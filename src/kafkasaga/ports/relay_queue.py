"""The outbox as its relay sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from kafkasaga.ports.values import OutboxRow


@dataclass(frozen=True, slots=True)
class Skip:
    """What the relay does not want to read now."""

    topics: Collection[str] = ()
    lanes: Collection[tuple[str, str]] = ()
    """Topic and key."""

    def __contains__(self, row: OutboxRow) -> bool:
        return row.topic in self.topics or (row.topic, row.key) in self.lanes


SKIP_NOTHING: Final = Skip()


class Page(NamedTuple):
    """Which rows to read; see ``RelayQueue.fetch``."""

    after: int
    limit: int
    upto: int | None = None
    size: int | None = None
    skip: Skip = SKIP_NOTHING


def nothing() -> None:
    """There is nothing to do meanwhile."""


class RelayQueue(Protocol):
    """The outbox from the other end. One relay at a time holds it; its death frees it at once (invariant I11)."""

    def acquire(self) -> bool:
        """Take it, or make sure that it is still held; False while another relay holds it.

        Raises:
            DatabaseUnavailable: and then it is not held any more.
        """
        ...

    def fetch(
        self, after: int, limit: int, upto: int | None = None, size: int | None = None, skip: Skip = SKIP_NOTHING
    ) -> list[OutboxRow]:
        """Committed rows behind position ``after``, up to ``upto``, in order. No transaction stays open.

        At most ``limit`` of them; and the one that brings their payloads to ``size`` bytes is the last.
        """
        ...

    def last(self) -> int:
        """The highest position of a committed row; 0 if there is none."""
        ...

    def delete(
        self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None] = nothing, then: Page | None = None
    ) -> list[OutboxRow]:
        """Delete published rows, by position *and* id; then read a page, if one is asked for, as ``fetch`` does.

        Where that is possible it is one round trip. ``meanwhile`` is called once, where that is possible while the
        database is at work.
        """
        ...

    def block(self, rows: Sequence[tuple[OutboxRow, str]]) -> None:
        """Record that rows cannot be delivered, and why; their lanes, or topics, wait behind them (invariant I10)."""
        ...

    def unblock(self, rows: Sequence[OutboxRow]) -> None:
        """The rows were delivered after all: forget that they were blocked."""
        ...

    def unblock_absent(self) -> set[UUID]:
        """Forget the blocked rows that are in the outbox no more, for a person deleted them; returns their ids."""
        ...

    def blocked(self) -> dict[UUID, str]:
        """The blocked rows' message ids, and why."""
        ...

    def wait(self, timeout: float) -> None:
        """Wait until something was committed to the outbox, here or in another process, at most ``timeout`` seconds."""
        ...

    def wake(self) -> None:
        """End a ``wait`` (from another thread)."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...
