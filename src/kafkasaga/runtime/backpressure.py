"""Too many parked messages of a partition, and it is read no further: back-pressure, not a second backlog (I14)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import structlog

from kafkasaga.clock import Clock
from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.ports import Consumer, Store, TopicPartition

log = structlog.get_logger("kafkasaga.consumer")

EVERY: Final = 5.0
"""Seconds between looks while a partition is paused."""


class Backpressure:
    """Pauses and resumes the partitions of one consumer."""

    def __init__(self, store: Store, consumer: Consumer, limit: int, clock: Clock) -> None:
        self._store, self._consumer, self._limit, self._clock = store, consumer, limit, clock
        self._paused: set[TopicPartition] = set()
        self._looked_at = float("-inf")

    def look(self, partitions: Collection[TopicPartition], *, parked: bool) -> bool:
        """Pause what has too much parked, resume what has not any more; whether the database was asked and answered.

        Args:
            partitions: what the consumer reads.
            parked: whether something was parked since the last look, so that it is time for one.
        """
        now = self._clock.monotonic()
        if not parked and (not self._paused or now - self._looked_at < EVERY):
            return False
        self._looked_at = now
        try:
            counts = self._store.parked_counts(partitions)
        except (EnvironmentUnavailable, SerializationConflict):
            return False  # the next step looks again if something was parked
        full = {place for place, count in counts.items() if count > self._limit}
        if begins := full - self._paused:
            self._consumer.pause(begins)
            log.error("too many messages are parked; reading no further", **_named(begins), max_parked=self._limit)
        if ends := self._paused - full:
            self._consumer.resume(ends)
            log.info("reading on", **_named(ends))
        self._paused = full
        return True


def _named(partitions: Collection[TopicPartition]) -> dict[str, list[str]]:
    return {"partitions": [f"{topic}/{partition}" for topic, partition in sorted(partitions)]}
