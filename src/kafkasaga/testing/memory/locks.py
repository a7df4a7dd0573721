"""Row locks: who wants what another transaction holds waits for that one to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from kafkasaga.errors import Deadlock, SerializationConflict, TurnTimeout
from kafkasaga.ports import Turn

LOCK_TIMEOUT: Final = 10.0
"""Seconds to wait for a lock, as on the library's own connections to PostgreSQL."""


class Waiting(Protocol):
    """How a transaction waits: in threads really, in the simulator in virtual time."""

    @property
    def guard(self) -> AbstractContextManager[object]:
        """Held while the tables are touched."""
        ...

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait, with the guard given up meanwhile; False if ``condition`` did not come true in time."""
        ...

    def changed(self) -> None:
        """Something that may be waited for has changed. Called under the guard."""
        ...


class Threads:
    """Transactions in threads."""

    def __init__(self) -> None:
        self.guard = threading.Condition(threading.RLock())

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        return self.guard.wait_for(condition, seconds)

    def changed(self) -> None:
        self.guard.notify_all()


class Locks:
    """What each transaction holds until its end."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._holders: dict[Hashable, object] = {}
        self._held: dict[object, list[Hashable]] = {}
        self._waits_for: dict[object, object] = {}
        self._beside: set[object] = set()
        self._alone: object | None = None

    @property
    def waiting(self) -> int:
        """How many transactions wait for another one."""
        return len(self._waits_for)

    def take(self, owner: object, key: Hashable) -> None:
        """Hold ``key``, after waiting for whoever holds it.

        Raises:
            Deadlock: if it would be one.
            SerializationConflict: if it takes too long.
        """
        while not self.try_take(owner, key):
            holder = self._holders[key]
            self._refuse_deadlock(owner, holder)
            too_long = SerializationConflict(f"{key} was held too long by another transaction")
            self._wait(owner, holder, lambda holder=holder: self._holders.get(key) is not holder, too_long)  # type: ignore[misc]

    def take_turn(self, owner: object, turn: Turn) -> None:
        """Take it, and have it until the end. It comes before all locks, so nobody waits for who waits here.

        Raises:
            TurnTimeout: if it takes too long.
        """
        if turn is Turn.NONE:
            return
        if self._alone is not None:
            self._wait(owner, self._alone, lambda: self._alone is None, TurnTimeout("somebody is alone for too long"))
        if turn is Turn.BESIDE:
            self._beside.add(owner)
            return
        self._alone = owner
        if self._beside:
            others = next(iter(self._beside))
            self._wait(owner, others, lambda: not self._beside, TurnTimeout("others do not come to an end"))

    def try_take(self, owner: object, key: Hashable) -> bool:
        """Hold ``key`` if nobody else does."""
        holder = self._holders.setdefault(key, owner)
        if holder is not owner:
            return False
        self._held.setdefault(owner, []).append(key)
        return True

    def release(self, owner: object) -> None:
        """The transaction has ended."""
        self._beside.discard(owner)
        if self._alone is owner:
            self._alone = None
        for key in self._held.pop(owner, ()):
            if self._holders.get(key) is owner:
                del self._holders[key]
        self._waiting.changed()

    def _wait(
        self, owner: object, holder: object, condition: Callable[[], bool], otherwise: SerializationConflict
    ) -> None:
        self._waits_for[owner] = holder
        try:
            if not self._waiting.until(condition, LOCK_TIMEOUT):
                raise otherwise
        finally:
            del self._waits_for[owner]

    def _refuse_deadlock(self, owner: object, holder: object) -> None:
        link: object | None = holder
        while link is not None:
            if link is owner:
                raise Deadlock("deadlock: two transactions wait for each other")
            link = self._waits_for.get(link)
