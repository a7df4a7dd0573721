"""The rows that the relay streams: several of a lane at once, because nothing arrives behind one that did not (ADR 19).

While some are under way, the next ones wait here: read, and ready to follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from kafkasaga.ports import Failures, OutboxRow, Producer, payload_bytes

log = structlog.get_logger("kafkasaga.relay")

PATIENCE: Final = 3.0
"""Seconds until what is streamed is given up, unless Kafka has answered for all of it; others wait for it meanwhile."""
PATIENCE_BYTES: Final = 1024 * 1024
"""One second more for so many bytes."""


class Stream:
    """What is under way, and what follows it."""

    def __init__(self) -> None:
        self.waiting: list[OutboxRow] = []
        self.under_way: list[OutboxRow] = []
        self._until = 0.0

    def topics(self) -> set[str]:
        """Of the rows that are here."""
        return {row.topic for rows in (self.under_way, self.waiting) for row in rows}

    def launch(self, producer: Producer, now: float) -> None:
        """Send what waits, if nothing is under way."""
        if self.under_way or not self.waiting:
            return
        self.under_way, self.waiting = self.waiting, []
        self._until = now + PATIENCE + payload_bytes(self.under_way) / PATIENCE_BYTES
        producer.stream(self.under_way)

    def settle(self, producer: Producer, timeout: float, now: float) -> tuple[Sequence[OutboxRow], Failures] | None:
        """What was acknowledged, and what was not; None while that is not known."""
        failures = producer.streamed(timeout)
        if failures is None and now >= self._until:
            failures = producer.give_up()
        if failures is None:
            return None
        rows, self.under_way = self.under_way, []
        if not failures:
            return rows, failures
        failed = {row.id for row, _ in failures}
        return [row for row in rows if row.id not in failed], failures

    def drop(self, topics: set[str]) -> list[OutboxRow]:
        """Let go of what waits for these topics; what it was."""
        dropped = [row for row in self.waiting if row.topic in topics]
        self.waiting = [row for row in self.waiting if row.topic not in topics]
        return dropped

    def forget(self, producer: Producer | None) -> None:
        """Let go of everything."""
        if self.under_way and producer is not None:
            producer.give_up()
        self.waiting, self.under_way = [], []
