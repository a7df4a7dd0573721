"""What the relay holds back because Kafka refused it, for how long, and what ``outbox_block`` says of it.

A failure of one message holds back its lane; a failure of its topic holds back the whole topic, with one back-off and
one record (the first row that failed) however many keys the topic has. When the time is over, the topic or lane is on
trial: read again from its first row. An acknowledgement ends the block, another refusal doubles the time.

A failure that passes (Kafka was away) refuses nothing: what met it is tried again soon, each time, and not recorded.

Bounded (I14): a topic for each topic, and ``MOST_LANES`` lanes. With more, the topic that has the most of them is held
back as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from kafkasaga.ports import OutboxRow, RelayQueue, SendError

log = structlog.get_logger("kafkasaga.relay")

Lane = tuple[str, str]

RETRY_BLOCKED: Final = 5.0
"""Seconds until a row that could not be delivered is tried again: its topic may exist by then. Doubled each time."""
RETRY_BLOCKED_MOST: Final = 60.0
"""Seconds between attempts in the end."""
RETRY_PASSING: Final = 1.0
"""Seconds until a row that met a passing failure is tried again."""
LOOK_FOR_ABSENT: Final = 30.0
"""Seconds between looks for rows on record that a person has deleted."""
MOST_LANES: Final = 200
"""Lanes held back one by one; each makes the statement that reads the outbox longer."""


@dataclass(slots=True)
class _Block:
    row: OutboxRow
    until: float
    delay: float
    """The last pause after a refusal; 0 if there was none, only failures that pass."""
    swept: bool = False
    """On trial since before a sweep that is complete."""


class Blocks:
    """The topics and lanes that are held back or on trial."""

    def __init__(self, recorded: Iterable[UUID]) -> None:
        self._topics: dict[str, _Block] = {}
        self._lanes: dict[Lane, _Block] = {}
        self._recorded: set[UUID] = set(recorded)
        self._to_record: dict[UUID, tuple[OutboxRow, str]] = {}
        self._mended: dict[UUID, OutboxRow] = {}
        self._look_at: float | None = None
        self._look_due = False

    @property
    def busy(self) -> bool:
        """Whether anything is held back, on trial or on record."""
        return bool(self._topics or self._lanes or self._recorded or self._to_record)

    def knows(self, lane: Lane) -> bool:
        """Whether a lane is held back or on trial."""
        return lane in self._lanes

    def held_back(self, now: float) -> tuple[set[str], set[Lane]]:
        """The topics and the lanes that must not be read yet."""
        topics = {topic for topic, block in self._topics.items() if block.until > now}
        return topics, {lane for lane, block in self._lanes.items() if block.until > now and lane[0] not in topics}

    def block(self, row: OutboxRow, error: SendError, now: float) -> str | None:
        """A row was refused; returns the topic that is held back as a whole from now on, if one is."""
        if error.scope == "topic":
            return row.topic if self._block_topic(row, error.reason, now, permanent=error.permanent) else None
        if (whole := self._topics.get(row.topic)) is not None and whole.until > now:
            return None  # it was under way when its topic was held back
        lane = (row.topic, row.key)
        self._lanes[lane] = _renewed(self._lanes.get(lane), row, now, permanent=error.permanent)
        if error.permanent and row.message_id not in self._recorded:
            self._record(row, error.reason, "message cannot be delivered; later ones of its key wait behind it")
        return self._hold_largest(error.reason, now) if len(self._lanes) > MOST_LANES else None

    def acknowledged(self, row: OutboxRow, now: float) -> None:
        """A row arrived: what was on trial has passed. It proves nothing if it was under way when its topic failed."""
        if self._recorded or self._to_record:
            self._mend(row)
        if self._topics and (block := self._topics.get(row.topic)) is not None and block.until <= now:
            del self._topics[row.topic]
            self._mend(block.row)
        if self._lanes and (block := self._lanes.pop((row.topic, row.key), None)) is not None:
            self._mend(block.row)

    def forget_absent(self, present: Callable[[Lane], bool], passed_over: Container[str], now: float) -> None:
        """After a sweep over all topics but some: a lane on trial of which no row is left (a person deleted them)."""
        for lane, block in list(self._lanes.items()):
            if lane[0] in passed_over:
                continue
            if block.until <= now and block.swept and not present(lane):
                del self._lanes[lane]
            else:
                block.swept = block.until <= now
        if self._recorded and (self._look_at is None or self._look_at <= now):
            self._look_due, self._look_at = True, now + LOOK_FOR_ABSENT

    def write(self, queue: RelayQueue) -> None:
        """Bring ``outbox_block`` up to date: at most three statements, and mostly none."""
        if self._to_record:
            queue.block(list(self._to_record.values()))
            self._recorded |= self._to_record.keys()
            self._to_record = {}
        if self._mended:
            queue.unblock(list(self._mended.values()))
            self._recorded -= self._mended.keys()
            self._mended = {}
        if self._look_due:
            self._recorded -= queue.unblock_absent()
            self._look_due = False

    def _block_topic(self, row: OutboxRow, reason: str, now: float, *, permanent: bool) -> bool:
        known = self._topics.get(row.topic)
        if known is not None and known.until > now:
            return False  # one of the many that were under way together
        if permanent and known is not None and known.row.message_id != row.message_id:
            self._mend(known.row)
        self._topics[row.topic] = _renewed(known, row, now, permanent=permanent)
        if permanent and row.message_id not in self._recorded:
            self._record(row, reason, "topic takes no messages; those for it wait")
        return True

    def _hold_largest(self, reason: str, now: float) -> str:
        """Hold back the topic with the most failed lanes as a whole, instead of each of them; returns it.

        Of refused lanes, or of those that met a passing failure: of whichever there are more.
        """
        refused = 2 * sum(block.delay > 0 for block in self._lanes.values()) > len(self._lanes)
        lanes = [lane for lane, block in self._lanes.items() if (block.delay > 0) is refused]
        ((topic, count),) = Counter(topic for topic, _ in lanes).most_common(1)
        blocks = [self._lanes.pop(lane) for lane in lanes if lane[0] == topic]
        if refused:
            for block in blocks:
                self._mend(block.row)
        first = min((block.row for block in blocks), key=lambda row: row.position)
        why = f"{topic}: held back as a whole, for {count} keys wait behind refused messages; the last: {reason}"
        self._block_topic(first, why, now, permanent=refused)
        return topic

    def _record(self, row: OutboxRow, reason: str, event: str) -> None:
        self._mended.pop(row.message_id, None)
        self._to_record[row.message_id] = (row, reason)
        log.error(event, topic=row.topic, key=row.key, message_id=str(row.message_id), error=reason)

    def _mend(self, row: OutboxRow) -> None:
        self._to_record.pop(row.message_id, None)
        if row.message_id in self._recorded:
            self._mended[row.message_id] = row


def _renewed(known: _Block | None, row: OutboxRow, now: float, *, permanent: bool) -> _Block:
    delay = 0.0 if known is None else known.delay
    if not permanent:  # it says nothing about an earlier refusal, whose row may be on record
        return _Block(row if known is None else known.row, now + RETRY_PASSING, delay)
    delay = min(max(2 * delay, RETRY_BLOCKED), RETRY_BLOCKED_MOST)
    return _Block(row, now + delay, delay)
