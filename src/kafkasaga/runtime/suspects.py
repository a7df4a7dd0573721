"""Messages at which the last owner of a partition may have died (A21).

Whoever reads a partition is noted in the database, and gives it up in good order when it leaves. If it did not, one of
the messages that it was handling may have ended its process; but far more often somebody has killed it. So its first
messages, as many as one batch may have, are handled in batches as ever, and only the end of each batch is noted before
it is tried. If the process dies again during such a batch, its messages are handled one by one by the next one, and
each attempt is recorded before it is made. A message at which the process has died three times, in its batch and then
alone, is set aside, and its partition goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final
from uuid import uuid4

import structlog

from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.messages import Record
from kafkasaga.ports import Progress, Store, TopicPartition
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.parking import DEATHS, ProcessEnded

log = structlog.get_logger("kafkasaga.consumer")


class Suspects:
    """The partitions of one consumer, and what is to be handled with care in each."""

    def __init__(self, group: str, store: Store, batches: BatchRunner, window: int) -> None:
        self._group, self._store, self._batches, self._window = group, store, batches, window
        self._owner: Final = uuid4()
        self._left: dict[TopicPartition, int] = {}
        """How many messages of a partition are still to be handled in batches that are noted."""
        self._single: dict[TopicPartition, int] = {}
        """Up to which offset messages are handled one by one: a process has died in a batch that ended there."""
        self._tried: dict[TopicPartition, int] = {}
        """The offset of the last attempt recorded by this process: one outage of the database is not one death."""
        self._counted: dict[TopicPartition, int] = {}
        """The highest offset that is counted in ``_left``: a message that is given again is not counted again."""

    def take_over(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to read on.

        Raises:
            EnvironmentUnavailable: if the database is away.
            SerializationConflict: if another transaction holds what is to be taken over.
        """
        found = self._store.take_over(self._group, self._owner, partitions)
        for place in partitions:
            self._forget(place)
            if place in found and not found[place].given_up:
                self._suspect(place, found[place])
        if self._left:
            log.info("the last owner of partitions did not give them up", partitions=len(self._left))
        if self._single:
            log.warning(
                "a process has ended in a batch of these partitions; its messages are handled one by one",
                partitions=[f"{topic}/{partition}" for topic, partition in sorted(self._single)],
            )
        return {place: progress.next for place, progress in found.items() if progress.next is not None}

    def give_up(self, partitions: Collection[TopicPartition]) -> None:
        """Leave partitions in good order. If the database is away, the next owner is careful for nothing."""
        for place in partitions:
            self._forget(place)
        try:
            self._store.give_up(self._group, self._owner, partitions)
        except (EnvironmentUnavailable, SerializationConflict) as error:
            log.info("partitions could not be given up in good order", error=str(error))

    def begin_anew(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions were made anew: no offset that is known of them means anything; their first messages are noted."""
        for place in partitions:
            self._single.pop(place, None)
            self._counted.pop(place, None)

    def process(
        self, records: Sequence[Record], meanwhile: Callable[[], None] | None = None
    ) -> dict[TopicPartition, int]:
        """As ``BatchRunner.process``, with care where it is needed."""
        if not self._left:
            return self._batches.process(records, meanwhile)
        rest: list[Record] = []
        positions: dict[TopicPartition, int] = {}
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            if record.offset < self._single.get(place, 0):
                positions |= self._with_care(place, record)
            else:
                rest.append(record)
        return positions | self._noted(rest) if rest else positions

    def _suspect(self, place: TopicPartition, progress: Progress) -> None:
        self._left[place] = self._window
        # However far away that is: offsets have gaps, and may begin anywhere. It lasts for a batch of messages at most.
        if progress.suspect_end is not None:
            self._single[place] = progress.suspect_end

    def _forget(self, place: TopicPartition) -> None:
        for known in (self._left, self._single, self._tried, self._counted):
            known.pop(place, None)

    def _noted(self, records: Sequence[Record]) -> dict[TopicPartition, int]:
        """As a batch; where it ends is noted first, for the partitions that are suspected."""
        suspected: defaultdict[TopicPartition, list[int]] = defaultdict(list)
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            if place in self._left:
                suspected[place].append(record.offset)
        if suspected:
            with self._store.begin() as uow:
                uow.note_batch(self._group, {place: max(offsets) + 1 for place, offsets in suspected.items()})
        positions = self._batches.process(records)
        for place, offsets in suspected.items():
            self._done(place, offsets)
        return positions

    def _with_care(self, place: TopicPartition, record: Record) -> Mapping[TopicPartition, int]:
        """Alone, and recorded first. The death in the batch that it was in counts as the first one."""
        if self._tried.get(place, -1) < record.offset:
            with self._store.begin() as uow:
                attempts = 1 + uow.note_attempt(self._group, place, record.offset)
            if attempts > DEATHS:
                positions = self._batches.set_aside(record, ProcessEnded(DEATHS))
                self._done(place, [record.offset])
                return positions
            self._tried[place] = record.offset
        positions = self._batches.process([record])
        self._done(place, [record.offset])
        return positions

    def _done(self, place: TopicPartition, offsets: Sequence[int]) -> None:
        counted = self._counted.get(place, -1)
        left = self._left.get(place, 0) - sum(offset > counted for offset in offsets)
        if left > 0:
            self._left[place] = left
            self._counted[place] = max(counted, *offsets)
        else:
            self._forget(place)
