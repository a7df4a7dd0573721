"""Virtual time, and who runs when. One thing happens at a time; nothing waits really."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

from kafkasaga.testing.simulator.chance import Chance
from kafkasaga.testing.simulator.fibers import Fiber, fiber

EPOCH: Final = datetime(2030, 1, 1, tzinfo=UTC)
"""When every run begins."""
_SOON: Final = 0.5
"""Seconds: a wait longer than this may be cut short by a timer."""
_PATIENCE: Final = 26
"""How often time is doubled while nothing happens before a run is over: years of virtual time."""
_STEPS: Final = 200_000
"""Switches after which a run is taken to run in circles."""


class Killed(BaseException):
    """The process of this fiber is dead."""


class Endless(Exception):
    """The run does not come to an end."""


@dataclass(eq=False, slots=True)
class Strand:
    """A fiber of a process."""

    name: str
    role: str
    owner: object
    fiber: Fiber
    token: int = 0
    """Rises with each suspension: a wake-up for an earlier one is void."""
    ready_at: float = 0.0
    seen: int = -1
    idling: bool = False
    resting: bool = False
    doing: object = None
    """Its transaction."""
    held_until: Callable[[], float] = field(default=lambda: 0.0)
    """Until when its process stands still."""


class World:
    """The scheduler."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.time = 0.0
        self.version = 0
        """Rises whenever something changes that anybody could wait for."""
        self.progress = 0
        """Rises with commits and records only."""
        self.next_timer: Callable[[], float | None] = lambda: None
        """When, at the earliest, something falls due in a database; a time that has passed means *overdue*."""
        self.current: Strand | None = None
        self.stopped = False
        self._heap: list[tuple[float, int, Strand | None, int | Callable[[], None]]] = []
        self._urgent: deque[Callable[[], None]] = deque()
        self._strands: dict[Strand, None] = {}  # a set would have another order in every process
        self._waiting: dict[Strand, None] = {}
        self._numbers = count()
        self._changed = False
        self._steps = 0

    # -- what fibers ask

    def sleep(self, seconds: float) -> None:
        """Let time pass for the current fiber; others run meanwhile."""
        strand = self._suspending()
        self._push(self.time + seconds, strand, strand.token)
        strand.fiber.suspend()

    def idle(self, seconds: float) -> None:
        """There is nothing to do: wait ``seconds``, and longer if nothing at all has happened since the last time."""
        strand = self._suspending()
        strand.ready_at = self.time + seconds
        strand.idling = True
        if strand.seen == self.version:
            strand.resting = True
        else:
            strand.seen = self.version
            self._push(strand.ready_at, strand, strand.token)
        strand.fiber.suspend()
        strand.idling = strand.resting = False

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for ``condition``, which is looked at after each ``look``; False if it does not come true in time."""
        end, strand = self.time + seconds, self._suspending()
        while not condition():
            if self.time >= end:
                return False
            self._waiting[strand] = None
            strand.idling = True
            self._push(end, strand, strand.token)
            strand.fiber.suspend()
            strand.idling = False
        return True

    def look(self) -> None:
        """Have everyone who waits for a condition look at it again."""
        for strand in self._waiting:
            self.wake(strand)
        self._waiting.clear()

    # -- what happens

    def spawn(
        self, name: str, role: str, owner: object, function: Callable[[], None], held: Callable[[], float]
    ) -> Strand:
        """Begin a fiber."""
        strand = Strand(name, role, owner, fiber(function), held_until=held)
        self._strands[strand] = None
        self._push(self.time, strand, strand.token)
        return strand

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Have something happen at a time; it must not wait."""
        heapq.heappush(self._heap, (max(time, self.time), next(self._numbers), None, action))

    def wake(self, strand: Strand, at: float | None = None) -> None:
        """Something has come for a fiber that idles."""
        if strand.idling:
            self._push(self.time if at is None else at, strand, strand.token)

    def change(self, *, progress: bool = False) -> None:
        """Something changed that somebody may wait for."""
        self.version += 1
        self.progress += progress
        self._changed = True

    def kill(self, owner: object) -> None:
        """End all fibers of ``owner`` but the current one, which ends itself."""
        self._urgent.append(lambda: self._end([s for s in self._strands if s.owner is owner and s is not self.current]))

    # -- running

    def run(self) -> None:
        """Until nothing happens any more, or ``stopped``.

        Raises:
            Endless: if it goes on and on.
        """
        quiet, progress = 0, self.progress
        while not self.stopped:
            while self._urgent:
                self._urgent.popleft()()
            if self._changed:
                self._rouse()
            ahead = self._heap[0][0] if self._heap else None
            if ahead is None or ahead > self.time + _SOON:
                due = self.next_timer()
                if due is not None and due <= self.time:  # overdue: whoever sees to it waits for something
                    quiet = 0 if self.progress != progress else quiet + 1
                    progress = self.progress
                    due = None if quiet > _PATIENCE else self.time + 2.0 * 2**quiet
                if due is not None and (ahead is None or due < ahead):
                    self.time = due
                    self.change()
                    continue
                if ahead is None:
                    return
            self._step()

    def shut_down(self) -> None:
        """End every fiber."""
        self._end(list(self._strands))

    def _step(self) -> None:
        time, _, strand, action = heapq.heappop(self._heap)
        self.time = max(self.time, time)
        if strand is None:
            assert not isinstance(action, int)
            action()
            return
        if action != strand.token or strand.fiber.ended:
            return
        if (held := strand.held_until()) > self.time:
            self._push(held, strand, strand.token)
            return
        self._steps += 1
        if self._steps > _STEPS:
            raise Endless(f"{strand.name} is still busy after {_STEPS} steps, at {self.time:.0f} s")
        self._resume(strand)

    def _resume(self, strand: Strand, error: BaseException | None = None) -> None:
        strand.token += 1
        self.current = strand
        try:
            strand.fiber.resume(error)
        finally:
            self.current = None
        if strand.fiber.ended:
            self._strands.pop(strand, None)

    def _end(self, strands: list[Strand]) -> None:
        for strand in strands:
            for _ in range(100):  # a fiber that waits while it ends is ended again
                if strand.fiber.ended:
                    break
                self._resume(strand, Killed())
            self._strands.pop(strand, None)

    def _rouse(self) -> None:
        self._changed = False
        for strand in self._strands:
            if strand.resting:
                strand.resting = False
                self._push(max(strand.ready_at, self.time), strand, strand.token)

    def _suspending(self) -> Strand:
        strand = self.current
        assert strand is not None, "only a fiber can wait"
        return strand

    def _push(self, time: float, strand: Strand, token: int) -> None:
        heapq.heappush(self._heap, (time, next(self._numbers), strand, token))


class WorldWaiting:
    """How transactions in memory wait: see ``memory.Waiting``. One fiber runs at a time, so the guard is nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.guard: AbstractContextManager[object] = nullcontext()

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        return self._world.until(condition, seconds)

    def changed(self) -> None:
        self._world.look()


class WorldClock:
    """A process's clock (``clock.Clock``): virtual, and not always right."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.offset = 0.0
        """Seconds by which it is ahead."""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._world.time + self.offset)

    def monotonic(self) -> float:
        return self._world.time

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self._world.idle(seconds)
        return event.is_set()
