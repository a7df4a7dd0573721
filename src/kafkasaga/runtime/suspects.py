"""Messages at which the last owner of a partition may have died (A21).

Whoever reads a partition is noted in the database, and gives it up in good order when it leaves. If it did not, one of
the messages that it was handling may have ended its process. So the first of them, as many as one batch may have, are
handled one by one, and each attempt is recorded before it is made. A message at which the process has died three times
is set aside, and its partition goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final
from uuid import uuid4

import structlog

from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.messages import Record
from kafkasaga.ports import Store, TopicPartition
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.parking import DEATHS, ProcessEnded

log = structlog.get_logger("kafkasaga.consumer")


class Suspects:
    """The partitions of one consumer, and what is to be handled with care in each."""

    def __init__(self, group: str, store: Store, batches: BatchRunner, window: int) -> None:
        self._group, self._store, self._batches, self._window = group, store, batches, window
        self._owner: Final = uuid4()
        self._left: dict[TopicPartition, int] = {}
        """How many messages of a partition are still to be handled one by one."""
        self._tried: dict[TopicPartition, int] = {}
        """The offset of the last attempt recorded by this process: one outage of the database is not one death."""

    def take_over(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to read on.

        Raises:
            EnvironmentUnavailable: if the database is away.
        """
        found = self._store.take_over(self._group, self._owner, partitions)
        for place in partitions:
            self._left.pop(place, None)
            self._tried.pop(place, None)
            if place in found and not found[place].given_up:
                self._left[place] = self._window
        if self._left:
            log.warning(
                "the last owner of these partitions did not give them up; their first messages are handled one by one",
                partitions=[f"{topic}/{partition}" for topic, partition in sorted(self._left)],
            )
        return {place: progress.next for place, progress in found.items() if progress.next is not None}

    def give_up(self, partitions: Collection[TopicPartition]) -> None:
        """Leave partitions in good order. If the database is away, the next owner is careful for nothing."""
        for place in partitions:
            self._left.pop(place, None)
        try:
            self._store.give_up(self._group, self._owner, partitions)
        except (EnvironmentUnavailable, SerializationConflict) as error:
            log.info("partitions could not be given up in good order", error=str(error))

    def process(self, records: Sequence[Record]) -> dict[TopicPartition, int]:
        """As ``BatchRunner.process``, with care where it is needed."""
        careful, rest = self._split(records) if self._left else ([], list(records))
        positions: dict[TopicPartition, int] = {}
        for record in careful:
            positions |= self._with_care(record)
        return positions | self._batches.process(rest) if rest else positions

    def _split(self, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        careful: list[Record] = []
        rest: list[Record] = []
        left = dict(self._left)
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            if left.get(place, 0) > 0:
                left[place] -= 1
                careful.append(record)
            else:
                rest.append(record)
        return careful, rest

    def _with_care(self, record: Record) -> Mapping[TopicPartition, int]:
        place = TopicPartition(record.topic, record.partition)
        if self._tried.get(place, -1) < record.offset:
            with self._store.begin() as uow:
                attempts = uow.note_attempt(self._group, place, record.offset)
            if attempts > DEATHS:
                return self._done(place, self._batches.set_aside(record, ProcessEnded(DEATHS)))
            self._tried[place] = record.offset
        return self._done(place, self._batches.process([record]))

    def _done(self, place: TopicPartition, positions: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        left = self._left.get(place, 0) - 1
        if left > 0:
            self._left[place] = left
        else:
            self._left.pop(place, None)
        return positions
