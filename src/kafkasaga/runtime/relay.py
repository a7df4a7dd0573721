"""The relay: from the outbox to Kafka.

It reads committed rows in the order of their positions, sends them, and deletes those that Kafka has acknowledged. One
relay at a time holds the queue; others stand by. What it promises, and how:

- **Nothing is lost (I2).** A row is deleted only after all in-sync replicas have it. Rows are read from the *start* of
  the table again and again: a transaction that took a low position and committed late is not passed over.
- **Key order (I4).** Rows of a lane (topic, key) are sent one by one, each after the acknowledgement of the one before
  it; or *streamed*, several at once, by a producer of which nothing arrives behind a row that did not (ADR 19). Rows
  are streamed while all goes well; a topic that failed is sent for a while, so that one learns which row it is. A lane
  is only ever under way in one of these manners. A row that can never be delivered
  blocks its lane, visibly, and no other. A sweep over several pages ends at the highest position that was there when it
  began: behind it may lie a row whose predecessor was committed after the page that it belongs to had been read.
- **A zombie can repeat but not reorder (I11).** Two relays both begin at the first undeleted row of each lane and go
  on in order and without gaps; so whichever sends a row first, its predecessors are in the log already.
- **A dead topic holds nobody back for long (A10).** What Kafka refuses leaves the memory and is not read again until
  its time has come (``relay_blocks``); a topic that has not acknowledged anything gets a small share of the window
  (``relay_window``). What a sweep passes over it passes over to its end, for a lane goes on with its first row. Only
  a topic that falls silent in the middle of a stream has the other streamed ones wait, until the stream is given up
  (``relay_stream``); then it is sent by itself until something of it arrives.
- **Bounded (I14).** At most ``window`` rows and 16 MiB of payload are in memory, half as much again while Kafka hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from kafkasaga.clock import Clock
from kafkasaga.errors import BrokerUnavailable, DatabaseUnavailable, EnvironmentUnavailable, SerializationConflict
from kafkasaga.ports import Failures, OutboxRow, Page, Producer, RelayQueue, SendError, nothing, topic_of
from kafkasaga.runtime.relay_blocks import Blocks, Lane
from kafkasaga.runtime.relay_lanes import LaneRows, Lanes, send_first
from kafkasaga.runtime.relay_stream import Stream
from kafkasaga.runtime.relay_sweep import Room, Sweep
from kafkasaga.runtime.relay_window import Window

log = structlog.get_logger("kafkasaga.relay")

WINDOW = 6000
"""Rows in memory at once: enough to keep a producer busy."""
PAGES = 3
"""So many pages fill the window: while one is deleted, the next one is on its way to Kafka and a third one is read."""
WINDOW_BYTES = 16 * 1024 * 1024
"""Bytes of payload in memory at once (one row more, if it is larger)."""
RETRY_UNAVAILABLE = 1.0
"""Seconds between attempts while the database is away."""
RETRY_CONFLICT = 0.05
"""Seconds until a delete that met another transaction is tried again."""
SOON = 0.005
"""Seconds to wait for answers while there may be more to read."""
LATER = 0.02
"""Seconds to wait for answers when there is nothing else to do."""
DRAIN = 5.0
"""Seconds to publish what is there when the relay is told to stop."""


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
        self._page, self._page_bytes = max(1, window // PAGES), max(1, window_bytes // PAGES)
        self._lanes = Lanes()
        self._stream = Stream()
        self._acknowledged: list[OutboxRow] = []
        self._sweep = Sweep(poll_interval)
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
            # What is committed from now on wakes the relay: it need not look before it waits.
            fetched = not self._sweep.saw_everything
        if not self._held.rows and not fetched:
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
        waits = self._reads_with_a_delete
        room = self._held.room(now, waits=waits)
        if room is None or not self._sweep.may_read(now) or (waits and not self._held.stalled):
            return False
        page = self._sweep.page(self._queue, self._fitting(room), self._held.full(), self._held_back)
        return self._read(page, self._queue.fetch(*page), now)

    def _read(self, page: Page, rows: Sequence[OutboxRow], now: float) -> bool:
        """Have what was read sent; True if there was anything new, or there is more to read."""
        full = self._sweep.took(page, rows)
        fresh = self._take(rows)
        self._launch()
        if not full:
            self._blocks.forget_absent(self._lanes.__contains__, self._sweep.topics, now)
        self._sweep.rest(now, fresh=fresh, full=full, waits=bool(self._held.rows))
        return fresh or full

    def _fitting(self, room: Room) -> Room:
        return min(room[0], self._page), min(room[1], self._page_bytes)

    @property
    def _reads_with_a_delete(self) -> bool:
        """Whether the next page is here, and the one behind it comes when the one before it is deleted."""
        return bool(self._sweep.is_under_way and self._stream.under_way and self._stream.waiting)

    def _held_back(self) -> tuple[set[str], set[Lane]]:
        """What the next sweep passes over."""
        return self._blocks.held_back(self._clock.monotonic())

    def _take(self, rows: Sequence[OutboxRow]) -> bool:
        """Have rows streamed, or queue them in their lanes; True if one was new."""
        held, skip, now = self._held, self._sweep.topics, self._clock.monotonic()
        fresh = held.new(rows)
        topics = set(map(topic_of, fresh))
        if not skip.isdisjoint(topics):
            fresh = [row for row in fresh if row.topic not in skip]
            topics -= skip
        if not self._lanes and not self._blocks.busy and all(held.trusts(topic, now) for topic in topics):
            self._stream.waiting += fresh
            held.add_all(fresh, now)
            return bool(fresh)
        # No more trusted, and rows of the same lanes may still be under way: these wait in the table.
        skip |= {topic for topic in topics if not held.trusts(topic, now)} & self._stream.topics()
        for row in fresh:
            if row.topic not in skip:
                self._place(row, now)
                if held.add(row, now):
                    skip.add(row.topic)
        return bool(fresh)

    def _place(self, row: OutboxRow, now: float) -> None:
        """Queue a row behind those of its lane, wherever they are."""
        if self._lanes.follow(row):
            return
        if self._streams((row.topic, row.key), now):
            self._stream.waiting.append(row)
        else:
            self._lanes.begin(row, self._at_work)

    def _streams(self, lane: Lane, now: float) -> bool:
        return self._held.trusts(lane[0], now) and not self._blocks.knows(lane)

    @property
    def _at_work(self) -> Producer:
        assert self._producer is not None
        return self._producer

    def _hear(self, timeout: float) -> None:
        """Wait for answers."""
        self._at_work.poll(0.0 if self._stream.under_way else timeout)
        now = self._clock.monotonic()
        for lane, error in self._lanes.answered():
            if error is None:
                self._arrived(lane, now)
            else:
                self._hold_back(lane, error)
        if self._stream.under_way:
            self._settle(timeout)
        if not self._acknowledged:
            self._launch()

    def _launch(self) -> None:
        """Stream what waits for that."""
        self._stream.launch(self._at_work, self._clock.monotonic())

    def _arrived(self, lane: LaneRows, now: float) -> None:
        row = lane.rows.popleft()
        self._acknowledged.append(row)
        self._held.acknowledged(row.topic, now)
        self._blocks.acknowledged(row, now)
        if lane.rows and not self._streams(lane.name, now):
            send_first(lane, self._at_work)
        else:
            self._stream.waiting += self._lanes.end(lane)

    def _settle(self, timeout: float) -> None:
        """Wait for what is streamed."""
        settled = self._stream.settle(self._at_work, timeout, self._clock.monotonic())
        if settled is None:
            return
        (rows, failures), now = settled, self._clock.monotonic()
        self._acknowledged += rows
        failed = {row.topic for row, _ in failures}
        for topic in set(map(topic_of, rows)):
            self._held.acknowledged(topic, now)
            if topic not in failed:
                self._held.streamed(topic)
        if self._blocks.busy:
            for row in rows:
                self._blocks.acknowledged(row, now)
        if failures:
            self._distrust(failures, now)

    def _distrust(self, failures: Failures, now: float) -> None:
        """Begin again from the table, and send these topics' rows one by one: it shows which one is refused, if any."""
        topics = {row.topic for row, _ in failures}
        log.info("relay goes on row by row", topics=sorted(topics), error=failures[0][1].reason)
        self._held.remove([row for row, _ in failures])
        self._held.remove(self._stream.drop(topics))
        for topic in topics:
            self._held.failed(topic, now)
        self._sweep.topics |= topics
        self._sweep.begin_again()

    def _delete(self) -> None:
        """Delete what has arrived, and read on with the same round trip, while the next page is on its way to Kafka."""
        rows, now = self._acknowledged, self._clock.monotonic()
        room = self._held.room(now)
        page = None if room is None else self._sweep.page_ahead(self._fitting(room))
        found = self._queue.delete(rows, self._launch if self._stream.waiting else nothing, page)
        self._acknowledged = []
        self._held.remove(rows)
        self._sweep.go_on()
        if page is not None:
            self._read(page, found, now)

    # -- what goes wrong

    def _hold_back(self, lane: LaneRows, error: SendError) -> None:
        """Hold a lane or its topic back. Their rows leave the memory, so that they take no room from the others."""
        row, now = lane.rows[0], self._clock.monotonic()
        self._held.remove(self._lanes.end(lane))
        if error.scope == "topic" or not error.permanent:
            self._held.failed(row.topic, now)
        topic = self._blocks.block(row, error, now)
        if topic is not None:
            self._held.failed(topic, now)
            self._sweep.topics.add(topic)
            self._sweep.lanes = {lane for lane in self._sweep.lanes if lane[0] != topic}
            self._held.remove(self._stream.drop({topic}))
            self._held.remove(self._lanes.drop_followers(topic))
        if row.topic not in self._sweep.topics:
            self._sweep.lanes.add(lane.name)

    def _stand_back(self, error: Exception | None) -> None:
        """Forget everything in memory: the table has it."""
        if error is not None and self._active:
            log.warning("relay is interrupted; it tries again", error=str(error))
        self._active = False
        self._stream.forget(self._producer)
        self._lanes.forget()
        self._held, self._acknowledged = self._new_window(), []
        self._sweep.begin_again()

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
