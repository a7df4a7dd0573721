"""The rows that the relay sends one by one: of each lane the first is under way, the others wait behind it (ADR 5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from kafkasaga.ports import OutboxRow, Producer, SendError
from kafkasaga.runtime.relay_blocks import Lane


@dataclass(slots=True, eq=False)
class LaneRows:
    """The rows of one (topic, key); the first one is under way."""

    name: Lane
    rows: deque[OutboxRow]
    answers: list[Answer]

    def done(self, error: SendError | None) -> None:
        """Kafka has answered. What follows from it is done for all that came together."""
        self.answers.append((self, error))


Answer = tuple[LaneRows, SendError | None]


class Lanes:
    """The lanes of which a row is under way."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, LaneRows] = {}
        self._answers: list[Answer] = []

    def __len__(self) -> int:
        return len(self._lanes)

    def __contains__(self, name: object) -> bool:
        return name in self._lanes

    def follow(self, row: OutboxRow) -> bool:
        """Queue a row behind those of its lane; False if none of them is here."""
        lane = self._lanes.get((row.topic, row.key))
        if lane is None:
            return False
        lane.rows.append(row)
        return True

    def begin(self, row: OutboxRow, producer: Producer) -> None:
        """Send a row of a lane of which nothing is under way."""
        name = (row.topic, row.key)
        self._lanes[name] = lane = LaneRows(name, deque((row,)), self._answers)
        send_first(lane, producer)

    def answered(self) -> Iterator[Answer]:
        """What Kafka has answered. An answer from before ``forget`` finds its lane gone."""
        answers = self._answers.copy()
        self._answers.clear()
        for lane, error in answers:
            if self._lanes.get(lane.name) is lane:
                yield lane, error

    def end(self, lane: LaneRows) -> Sequence[OutboxRow]:
        """Let go of a lane; the rows that it still has."""
        return self._lanes.pop(lane.name).rows

    def drop_followers(self, topic: str) -> Sequence[OutboxRow]:
        """Let go of a topic's rows, but for those that are under way: Kafka may still acknowledge them."""
        dropped: list[OutboxRow] = []
        for (of, _), lane in self._lanes.items():
            if of == topic:
                dropped += islice(lane.rows, 1, None)
                lane.rows = deque(islice(lane.rows, 1))
        return dropped

    def forget(self) -> None:
        """Let go of everything."""
        self._lanes = {}
        self._answers.clear()


def send_first(lane: LaneRows, producer: Producer) -> None:
    """Send the first row of a lane of which nothing is under way."""
    row = lane.rows[0]
    producer.send(row.topic, row.key, row.payload, row.headers, lane.done)
