"""The relay: from the outbox to Kafka (design section 8).

It reads committed rows in the order of their positions, sends them, and deletes those that Kafka has acknowledged. One
relay at a time holds the queue; others stand by. What it promises, and how:

- **Nothing is lost (I2).** A row is deleted only after all in-sync replicas have it. Rows are read from the *start* of
  the table again and again: a transaction that took a low position and committed late is not passed over.
- **Key order (I4).** Of each lane (topic, key) at most one row is unacknowledged. A row that can never be delivered
  blocks its lane, visibly, and no other. A sweep over several pages ends at the highest position that was there when it
  began: behind it may lie a row whose predecessor was committed after the page that it belongs to had been read.
- **A zombie can repeat but not reorder (I11).** Two relays both begin at the first undeleted row of each lane and go
  on in order; so whichever sends a row first, its predecessors are in the log already.
- **Bounded (I14).** At most ``window`` rows are in memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog

from kafkasaga.clock import Clock
from kafkasaga.errors import BrokerUnavailable, DatabaseUnavailable, EnvironmentUnavailable, SerializationConflict
from kafkasaga.ports import OutboxRow, Producer, RelayQueue, SendError

log = structlog.get_logger("kafkasaga.relay")

Lane = tuple[str, str]

WINDOW = 4000
"""Rows in memory at once: enough to keep a producer busy, a few megabytes at most."""
RETRY_BLOCKED = 5.0
"""Seconds until a row that could not be delivered is tried again: its topic may exist by then."""
RETRY_UNAVAILABLE = 1.0
"""Seconds between attempts while the database is away."""
RETRY_CONFLICT = 0.05
"""Seconds until a delete that met another transaction is tried again."""
SHORTEST_GAP = 0.02
"""Seconds between reads while nothing is acknowledged; doubled each time, up to the polling interval."""
DRAIN = 5.0
"""Seconds to publish what is there when the relay is told to stop."""


@dataclass(slots=True)
class _Lane:
    """The rows of one (topic, key) that wait; the first one may be under way."""

    rows: deque[OutboxRow] = field(default_factory=deque[OutboxRow])
    sending: bool = False


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
    ) -> None:
        self._queue, self._connect, self._clock = queue, connect, clock
        self._poll_interval, self._window = poll_interval, window
        self._producer: Producer | None = None
        self._lanes: dict[Lane, _Lane] = {}
        self._held: set[UUID] = set()
        self._acknowledged: list[OutboxRow] = []
        self._blocked: dict[Lane, float] = {}
        self._recorded: set[UUID] = set()
        """Rows of which ``outbox_block`` tells."""
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
        producer = self._producer
        assert producer is not None
        producer.poll(0.0 if fetched else 0.001)
        if self._acknowledged:
            self._delete()
        elif self._held:
            producer.poll(0.02)
        elif not fetched:
            self._queue.wait(self._poll_interval)

    # -- reading and sending

    def _begin(self) -> None:
        self._producer = self._producer or self._connect()
        self._recorded = set(self._queue.blocked())
        self._active = True
        log.info("relay is active")

    def _fetch(self) -> bool:
        """Read on where the last read ended; True if there was anything new, or there is more to read."""
        room = self._window - len(self._held)
        if room < self._window // 4 or self._clock.monotonic() < self._next_read:
            return False
        if begins := self._after == 0:
            self._begin_sweep()
        rows = self._queue.fetch(self._after, room, self._top)
        # A short read has reached the end: the next one begins at the start again, for rows that were committed late.
        full = len(rows) == room
        self._after = rows[-1].position if full and self._top is not None else 0
        if begins:
            self._pages = full
        fresh = self._take(rows)
        self._rest(quiet=not fresh and not full)
        return fresh or full

    def _begin_sweep(self) -> None:
        # Only here may a blocked lane go on: later, its first row would lie behind the reader.
        now = self._clock.monotonic()
        self._blocked = {lane: until for lane, until in self._blocked.items() if until > now}
        self._top = self._queue.last() if self._pages else None

    def _take(self, rows: Sequence[OutboxRow]) -> bool:
        """Queue rows in their lanes; True if one was new."""
        fresh = False
        for row in rows:
            lane = (row.topic, row.key)
            if row.message_id in self._held or lane in self._blocked:
                continue
            fresh = True
            self._held.add(row.message_id)
            self._lanes.setdefault(lane, _Lane()).rows.append(row)
            self._send_head(lane)
        return fresh

    def _rest(self, *, quiet: bool) -> None:
        """While Kafka acknowledges nothing and nothing new comes, do not read the same rows over and over."""
        self._gap = min(max(2 * self._gap, SHORTEST_GAP), self._poll_interval) if quiet and self._held else 0.0
        self._next_read = self._clock.monotonic() + self._gap if self._gap else 0.0

    def _send_head(self, lane: Lane) -> None:
        state = self._lanes[lane]
        if state.sending or self._producer is None:
            return
        if not state.rows:
            del self._lanes[lane]
            return
        row = state.rows[0]
        state.sending = True
        done = partial(self._done, lane, row, state)
        self._producer.send(row.topic, row.key, row.payload, row.headers, done)

    def _done(self, lane: Lane, row: OutboxRow, state: _Lane, error: SendError | None) -> None:
        """Kafka has answered. Runs inside ``poll``; an answer from before a reconnection finds its lane gone."""
        if self._lanes.get(lane) is not state:
            return
        state.sending = False
        if error is not None:
            self._block(lane, row, error)
            return
        state.rows.popleft()
        self._acknowledged.append(row)
        self._send_head(lane)

    def _delete(self) -> None:
        rows = self._acknowledged
        self._queue.delete(rows)
        if mended := [row for row in rows if row.message_id in self._recorded]:
            self._queue.unblock(mended)
            self._recorded -= {row.message_id for row in mended}
        self._acknowledged = []
        self._held -= {row.message_id for row in rows}
        self._rest(quiet=False)

    # -- what goes wrong

    def _block(self, lane: Lane, row: OutboxRow, error: SendError) -> None:
        """Hold a lane back. Its rows leave the memory, so that a dead topic takes no room from the others."""
        state = self._lanes.pop(lane)
        self._held -= {waiting.message_id for waiting in state.rows}
        self._blocked[lane] = self._clock.monotonic() + RETRY_BLOCKED
        if error.permanent and row.message_id not in self._recorded:
            self._queue.block(row, error.reason)
            self._recorded.add(row.message_id)
            log.error(
                "message cannot be delivered; later ones of its key wait behind it",
                topic=row.topic,
                key=row.key,
                message_id=str(row.message_id),
                error=error.reason,
            )

    def _stand_back(self, error: Exception | None) -> None:
        """Forget everything in memory: the table has it."""
        if error is not None and self._active:
            log.warning("relay is interrupted; it tries again", error=str(error))
        self._active = False
        self._lanes, self._held, self._acknowledged, self._after = {}, set(), [], 0
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
                self._producer.poll(0.05 if self._held else 0.0)
                if self._acknowledged:
                    self._delete()
                elif not more and not self._held:
                    return
        except (EnvironmentUnavailable, SerializationConflict) as error:
            log.warning("relay ends with messages left in the outbox", error=str(error))
