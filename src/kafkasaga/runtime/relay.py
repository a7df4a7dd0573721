"""The relay: from the outbox to Kafka.

It reads committed rows in the order of their positions, sends them, and deletes those that Kafka has acknowledged. One
relay at a time holds the queue; others stand by. What it promises, and how:

- **Nothing is lost (I2).** A row is deleted only after all in-sync replicas have it. Rows are read from the *start* of
  the table again and again: a transaction that took a low position and committed late is not passed over.
- **Key order (I4).** Of each lane (topic, key) at most one row is unacknowledged. A row that can never be delivered
  blocks its lane, visibly, and no other. A sweep over several pages ends at the highest position that was there when it
  began: behind it may lie a row whose predecessor was committed after the page that it belongs to had been read.
- **A zombie can repeat but not reorder (I11).** Two relays both begin at the first undeleted row of each lane and go
  on in order; so whichever sends a row first, its predecessors are in the log already.
- **A dead topic holds nobody back (A10).** What Kafka refuses leaves the memory and is not read again until its time
  has come (``relay_blocks``); a topic that has not acknowledged anything gets a small share of the window
  (``relay_window``). What a sweep passes over it passes over to its end, for a lane goes on with its first row.
- **Bounded (I14).** At most ``window`` rows and 16 MiB of payload are in memory, half as much again while Kafka hangs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import structlog

from kafkasaga.clock import Clock
from kafkasaga.errors import BrokerUnavailable, DatabaseUnavailable, EnvironmentUnavailable, SerializationConflict
from kafkasaga.ports import OutboxRow, Producer, RelayQueue, SendError, Skip
from kafkasaga.runtime.relay_blocks import Blocks, Lane
from kafkasaga.runtime.relay_window import Window

log = structlog.get_logger("kafkasaga.relay")

WINDOW = 4000
"""Rows in memory at once: enough to keep a producer busy."""
WINDOW_BYTES = 16 * 1024 * 1024
"""Bytes of payload in memory at once (one row more, if it is larger)."""
RETRY_UNAVAILABLE = 1.0
"""Seconds between attempts while the database is away."""
RETRY_CONFLICT = 0.05
"""Seconds until a delete that met another transaction is tried again."""
SHORTEST_GAP = 0.02
"""Seconds between reads while nothing is acknowledged; doubled each time, up to the polling interval."""
SOON = 0.005
"""Seconds to wait for answers while there may be more to read."""
LATER = 0.02
"""Seconds to wait for answers when there is nothing else to do."""
DRAIN = 5.0
"""Seconds to publish what is there when the relay is told to stop."""


@dataclass(slots=True, eq=False)
class _Lane:
    """The rows of one (topic, key); the first one is under way."""

    name: Lane
    rows: deque[OutboxRow]
    answers: list[_Answer]

    def done(self, error: SendError | None) -> None:
        """Kafka has answered. What follows from it is done for all that came together."""
        self.answers.append((self, error))


_Answer = tuple[_Lane, SendError | None]


class Relay:
    """Publishes the outbox of one database."""

    def __init__(
        self,
        queue: RelayQueue,
        connect: Callable[[], Producer],
        clock: Clock,
        *,
        poll_interval: float = 0.5,
        window: int = WINDOW,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._queue, self._connect, self._clock = queue, connect, clock
        self._poll_interval = poll_interval
        self._new_window = partial(Window, window, window_bytes)
        self._held = self._new_window()
        self._blocks = Blocks(())
        self._producer: Producer | None = None
        self._lanes: dict[Lane, _Lane] = {}
        self._answers: list[_Answer] = []
        self._acknowledged: list[OutboxRow] = []
        self._skip_topics: set[str] = set()
        self._skip_lanes: set[Lane] = set()
        """What this sweep passes over."""
        self._after = 0
        self._top: int | None = None
        """Where a sweep over several pages ends."""
        self._pages = False
        """Whether one page does not hold the table."""
        self._gap, self._next_read = 0.0, 0.0
        self._active = False
        self._stopping = threading.Event()

    @property
    def active(self) -> bool:
        """True while this relay holds the queue."""
        return self._active

    def run(self) -> None:
        """Publish until ``stop``; then finish what is under way."""
        try:
            while not self._stopping.is_set():
                try:
                    self.step()
                except DatabaseUnavailable as error:
                    self._stand_back(error)
                    self._clock.wait(self._stopping, RETRY_UNAVAILABLE)
                except BrokerUnavailable as error:
                    self._stand_back(error)
                    self._reconnect()
                except SerializationConflict:
                    self._clock.wait(self._stopping, RETRY_CONFLICT)
            self._drain()
        finally:
            self._queue.close()
            if self._producer is not None:
                self._producer.close(0)

    def stop(self) -> None:
        """Let ``run`` end (from any thread)."""
        self._stopping.set()
        self._queue.wake()

    def step(self) -> None:
        """One round: read, send, take acknowledgements, delete; then wait until there is something to do."""
        if not self._queue.acquire():
            if self._active:
                self._stand_back(None)
            self._queue.wait(self._poll_interval)
            return
        if not self._active:
            self._begin()
        fetched = self._fetch()
        self._hear(SOON if self._held.rows else 0.0)
        if not self._acknowledged and self._held.rows:
            self._hear(LATER)
        self._blocks.write(self._queue)
        if self._acknowledged:
            self._delete()
        elif not self._held.rows and not fetched:
            self._queue.wait(self._poll_interval)

    # -- reading and sending

    def _begin(self) -> None:
        self._producer = self._producer or self._connect()
        self._blocks = Blocks(self._queue.blocked())
        self._active = True
        log.info("relay is active")

    def _fetch(self) -> bool:
        """Read on where the last read ended; True if there was anything new, or there is more to read."""
        now = self._clock.monotonic()
        room = self._held.room(now)
        if room is None or now < self._next_read:
            return False
        if begins := self._after == 0:
            self._begin_sweep()
        limit, size = room
        rows = self._queue.fetch(self._after, limit, self._top, size, Skip(self._skip_topics, self._skip_lanes))
        # A short read has reached the end: the next one begins at the start again, for rows that were committed late.
        full = len(rows) == limit or sum(row.size for row in rows) >= size
        self._after = rows[-1].position if full and self._top is not None else 0
        if begins:
            self._pages = full
        fresh = self._take(rows)
        if not full:
            self._blocks.forget_absent(self._lanes.__contains__, self._skip_topics, now)
        self._rest(quiet=not fresh and not full)
        return fresh or full

    def _begin_sweep(self) -> None:
        # Only here may what was held back go on: later, its first row would lie behind the reader.
        self._skip_topics, self._skip_lanes = self._blocks.held_back(self._clock.monotonic())
        self._skip_topics |= self._held.full()
        self._top = self._queue.last() if self._pages else None

    def _take(self, rows: Sequence[OutboxRow]) -> bool:
        """Queue rows in their lanes; True if one was new."""
        fresh, held, now = False, self._held.rows, self._clock.monotonic()
        for row in rows:
            if row.message_id in held or row.topic in self._skip_topics:
                continue
            fresh = True
            if self._held.add(row, now):
                self._skip_topics.add(row.topic)
            name = (row.topic, row.key)
            lane = self._lanes.get(name)
            if lane is None:
                self._lanes[name] = lane = _Lane(name, deque((row,)), self._answers)
                self._send(lane)
            else:
                lane.rows.append(row)
        return fresh

    def _rest(self, *, quiet: bool) -> None:
        """While Kafka acknowledges nothing and nothing new comes, do not read the same rows over and over."""
        self._gap = min(max(2 * self._gap, SHORTEST_GAP), self._poll_interval) if quiet and self._held.rows else 0.0
        self._next_read = self._clock.monotonic() + self._gap if self._gap else 0.0

    def _send(self, lane: _Lane) -> None:
        """Send the first row of a lane of which nothing is under way."""
        assert self._producer is not None
        row = lane.rows[0]
        self._producer.send(row.topic, row.key, row.payload, row.headers, lane.done)

    def _hear(self, timeout: float) -> None:
        """Wait for answers; an answer from before a reconnection finds its lane gone."""
        assert self._producer is not None
        self._producer.poll(timeout)
        if not self._answers:
            return
        answers, now = self._answers.copy(), self._clock.monotonic()
        self._answers.clear()
        for lane, error in answers:
            if self._lanes.get(lane.name) is not lane:
                continue
            if error is None:
                self._arrived(lane, now)
            else:
                self._hold_back(lane, error)

    def _arrived(self, lane: _Lane, now: float) -> None:
        row = lane.rows.popleft()
        self._acknowledged.append(row)
        self._held.acknowledged(row.topic, now)
        self._blocks.acknowledged(row, now)
        if lane.rows:
            self._send(lane)
        else:
            del self._lanes[lane.name]

    def _delete(self) -> None:
        rows = self._acknowledged
        self._queue.delete(rows)
        self._acknowledged = []
        self._held.remove(rows)
        self._rest(quiet=False)

    # -- what goes wrong

    def _hold_back(self, lane: _Lane, error: SendError) -> None:
        """Hold a lane or its topic back. Their rows leave the memory, so that they take no room from the others."""
        row = lane.rows[0]
        self._held.remove(self._lanes.pop(lane.name).rows)
        if error.scope == "topic" or not error.permanent:
            self._held.failed(row.topic)
        topic = self._blocks.block(row, error, self._clock.monotonic())
        if topic is not None:
            self._skip_topics.add(topic)
            self._skip_lanes = {skipped for skipped in self._skip_lanes if skipped[0] != topic}
            self._drop_waiting(topic)
        if row.topic not in self._skip_topics:
            self._skip_lanes.add(lane.name)

    def _drop_waiting(self, topic: str) -> None:
        """Let go of a topic's rows, but for those that are under way: Kafka may still acknowledge them."""
        for (of, _), lane in self._lanes.items():
            if of == topic:
                self._held.remove(islice(lane.rows, 1, None))
                lane.rows = deque(islice(lane.rows, 1))

    def _stand_back(self, error: Exception | None) -> None:
        """Forget everything in memory: the table has it."""
        if error is not None and self._active:
            log.warning("relay is interrupted; it tries again", error=str(error))
        self._active = False
        self._lanes, self._held, self._acknowledged, self._after = {}, self._new_window(), [], 0
        self._answers.clear()
        self._rest(quiet=False)

    def _reconnect(self) -> None:
        if self._producer is not None:
            self._producer.close(0)
            self._producer = None
        self._clock.wait(self._stopping, RETRY_UNAVAILABLE)

    def _drain(self) -> None:
        """At the end: publish what is there, for a moment. What remains is in the table, for whoever comes next."""
        deadline = self._clock.monotonic() + DRAIN
        try:
            while self._active and self._producer is not None and self._clock.monotonic() < deadline:
                more = self._fetch()
                self._hear(LATER if self._held.rows else 0.0)
                self._blocks.write(self._queue)
                if self._acknowledged:
                    self._delete()
                elif not more and not self._held.rows:
                    return
        except (EnvironmentUnavailable, SerializationConflict) as error:
            log.warning("relay ends with messages left in the outbox", error=str(error))
