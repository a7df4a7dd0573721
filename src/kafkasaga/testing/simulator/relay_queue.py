"""A service's outbox as the relay of a simulated process sees it: in virtual time, over a database that may be away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from kafkasaga.errors import DatabaseUnavailable
from kafkasaga.ports import SKIP_NOTHING, OutboxRow, Page, RelayQueue, Skip, nothing

if TYPE_CHECKING:
    from kafkasaga.testing.simulator.process import Process


class WorldRelayQueue:
    """``ports.RelayQueue`` in virtual time."""

    def __init__(self, process: Process, inner: RelayQueue) -> None:
        self._process, self._inner, self._world = process, inner, process.world
        self._strand = self._world.current
        process.ports.append(self)
        listen = getattr(self._inner, "wake", None)
        if listen is not None:
            self._inner.wake = self.wake  # type: ignore[method-assign]

    def acquire(self) -> bool:
        self._strand = self._world.current
        self._answers()
        return self._inner.acquire()

    def fetch(
        self, after: int, limit: int, upto: int | None = None, size: int | None = None, skip: Skip = SKIP_NOTHING
    ) -> list[OutboxRow]:
        self._answers()
        rows = self._inner.fetch(after, limit, upto, size, skip)
        if rows:
            self._process.point("after outbox read")
        return rows

    def last(self) -> int:
        self._answers()
        return self._inner.last()

    def delete(
        self, rows: Sequence[OutboxRow], meanwhile: Callable[[], None] = nothing, then: Page | None = None
    ) -> list[OutboxRow]:
        meanwhile()
        self._process.point("before outbox delete")
        self._answers()
        found = self._inner.delete(rows, nothing, then)
        self._world.change(progress=True)
        self._process.point("after outbox delete")
        if found:
            self._process.point("after outbox read")
        return found

    def block(self, rows: Sequence[tuple[OutboxRow, str]]) -> None:
        self._answers()
        self._inner.block(rows)

    def unblock(self, rows: Sequence[OutboxRow]) -> None:
        self._answers()
        self._inner.unblock(rows)

    def unblock_absent(self) -> set[UUID]:
        self._answers()
        return self._inner.unblock_absent()

    def blocked(self) -> dict[UUID, str]:
        self._answers()
        return self._inner.blocked()

    def wait(self, timeout: float) -> None:
        self._world.idle(timeout)

    def wake(self) -> None:
        if self._strand is not None:
            self._world.wake(self._strand)

    def lose(self) -> None:
        """The connection is gone."""
        lose = getattr(self._inner, "lose", None)
        if lose is not None:
            lose()

    def close(self) -> None:
        self._inner.close()

    def _answers(self) -> None:
        try:
            self._process.database_answers()
        except DatabaseUnavailable:
            self.lose()
            raise
