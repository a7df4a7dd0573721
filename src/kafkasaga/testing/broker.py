"""An in-memory broker behind the same ports as Kafka: for tests that are to be quick, repeatable and wicked.

It keeps what matters of Kafka's behaviour: partitions by key, order within one, consumer groups with one owner a
partition, committed offsets that may lag behind, acknowledgements that come later than the append. It does not imitate
librdkafka; what is claimed of Kafka is tested on Kafka.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from kafkasaga.errors import BrokerUnavailable
from kafkasaga.messages import Record
from kafkasaga.ports import Assigned, Failures, OutboxRow, Revoked, SendDone, SendError, TopicPartition

Reject = Callable[[str, str, bytes | None], SendError | None]


@dataclass(slots=True)
class _Group:
    offsets: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    members: list[MemoryConsumer] = field(
        default_factory=lambda: list[MemoryConsumer]()  # noqa: PLW0108 - the class is defined below
    )


class MemoryBroker:
    """Topics that live as long as this object. Not thread-safe: one thread drives everything, on purpose."""

    def __init__(self, partitions: int = 4) -> None:
        self.partitions = partitions
        self.down = False
        """While True nothing is accepted and nothing is read."""
        self.reject: Reject | None = None
        """Asked for each message; what it returns is the error that the producer reports."""
        self._logs: dict[TopicPartition, list[Record]] = defaultdict(list)
        self._groups: dict[str, _Group] = defaultdict(_Group)

    def producer(self) -> MemoryProducer:
        """A new producer."""
        return MemoryProducer(self)

    def consumer(self, group: str) -> MemoryConsumer:
        """A new member of ``group``; it joins when it subscribes."""
        return MemoryConsumer(self, group)

    def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Mapping[str, bytes]) -> Record:
        """Append a record as any program could; returns it with its place."""
        partition = 0 if key is None else crc32(key) % self.partitions
        log = self._logs[TopicPartition(topic, partition)]
        record = Record(topic, partition, len(log), key, value, dict(headers))
        log.append(record)
        return record

    def make_anew(self, topic: str) -> None:
        """Delete a topic and create it again: empty, its offsets from 0."""
        for place, log in self._logs.items():
            if place.topic == topic:
                log.clear()

    def records(self, topic: str) -> list[Record]:
        """Everything in a topic, partition by partition."""
        return [record for n in range(self.partitions) for record in self._logs[TopicPartition(topic, n)]]

    def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """The end offset of every partition."""
        if self.down:
            raise BrokerUnavailable("the in-memory broker is down")
        places = [TopicPartition(topic, n) for topic in topics for n in range(self.partitions)]
        return {place: len(self._logs[place]) for place in places}

    # -- what its consumers ask

    def log(self, place: TopicPartition) -> list[Record]:
        return self._logs[place]

    def readable(self, place: TopicPartition, start: int, limit: int) -> list[Record]:
        """What a consumer that stands at ``start`` gets now; a subclass may let it wait."""
        return self._logs[place][start : start + limit]

    def groups(self) -> list[list[MemoryConsumer]]:
        """The members of each group."""
        return [group.members for group in self._groups.values()]

    def offset(self, group: str, place: TopicPartition) -> int:
        return self._groups[group].offsets.get(place, 0)

    def commit(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        self._groups[group].offsets.update(positions)

    def join(self, group: str, member: MemoryConsumer) -> None:
        self._groups[group].members.append(member)
        self._rebalance(group)

    def leave(self, group: str, member: MemoryConsumer) -> None:
        """Leave, or be thrown out: the others take over at their next poll."""
        if member in self._groups[group].members:
            self._groups[group].members.remove(member)
            self._rebalance(group)

    def _rebalance(self, group: str) -> None:
        members = self._groups[group].members
        shares: dict[int, set[TopicPartition]] = {n: set() for n in range(len(members))}
        for at, topic in enumerate(sorted({topic for member in members for topic in member.topics})):
            able = [n for n, member in enumerate(members) if topic in member.topics]
            for partition in range(self.partitions):
                # Round robin over topics too: one key's messages of two topics may well go to two members.
                shares[able[(at * self.partitions + partition) % len(able)]].add(TopicPartition(topic, partition))
        for n, member in enumerate(members):
            member.assign_next(shares[n])


class MemoryConsumer:
    """A consumer of the in-memory broker (``ports.Consumer``)."""

    def __init__(self, broker: MemoryBroker, group: str) -> None:
        self.broker, self.group = broker, group
        self.topics: frozenset[str] = frozenset()
        self._assigned: Assigned = lambda _: {}
        self._revoked: Revoked = lambda _: None
        self._owned: dict[TopicPartition, int] = {}
        self._coming: set[TopicPartition] | None = None
        self._paused = False
        self._held_back: set[TopicPartition] = set()

    def subscribe(self, topics: Iterable[str], assigned: Assigned, revoked: Revoked) -> None:
        self.topics, self._assigned, self._revoked = frozenset(topics), assigned, revoked
        self.broker.join(self.group, self)

    def poll(self, limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        if self.broker.down:
            return []
        self._settle()
        if self._paused:
            return []
        records: list[Record] = []
        for place in [place for place, start in self._owned.items() if start != len(self.broker.log(place))]:
            if place in self._held_back:
                continue
            start = self._owned[place]
            if start > len(self.broker.log(place)):
                start = 0  # as ``KafkaConsumer`` does where the log does not have the place
            taken = self.broker.readable(place, start, limit - len(records))
            self._owned[place] = start + len(taken)
            records += taken
        return records

    def positions(self) -> dict[TopicPartition, int]:
        return dict(self._owned)

    def store(self, positions: Mapping[TopicPartition, int]) -> None:
        self.broker.commit(self.group, {p: o for p, o in positions.items() if p in self._owned})

    def pause(self, partitions: Collection[TopicPartition] | None = None) -> None:
        self._paused |= partitions is None
        self._held_back |= set(partitions or ())

    def resume(self, partitions: Collection[TopicPartition] | None = None) -> None:
        self._paused &= partitions is not None
        self._held_back -= set(partitions or ())

    def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        return self.broker.ends(topics)

    def close(self) -> None:
        self.broker.leave(self.group, self)

    def assign_next(self, places: set[TopicPartition]) -> None:
        """The group's decision; it takes effect at the next poll, as Kafka's does."""
        self._coming = places

    def _settle(self) -> None:
        if self._coming is None:
            return
        coming, self._coming = self._coming, None
        if lost := self._owned.keys() - coming:
            for place in lost:
                del self._owned[place]
            self._revoked(lost)
        if gained := coming - self._owned.keys():
            known = self._assigned(gained)
            for place in gained:
                self._owned[place] = known.get(place, self.broker.offset(self.group, place))
            self._owned = dict(sorted(self._owned.items()))


class MemoryProducer:
    """A producer of the in-memory broker (``ports.Producer``). Appends at once, acknowledges at ``poll``."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._waiting: deque[tuple[str, str, bytes | None, Mapping[str, str], SendDone]] = deque()
        self._streaming: set[_Streamed] = set()
        self._failures: list[tuple[OutboxRow, SendError]] = []

    def send(self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str], done: SendDone) -> None:
        self._waiting.append((topic, key, value, headers, done))

    def poll(self, timeout: float) -> None:
        for _ in range(len(self._waiting)):
            if self._broker.down:
                return
            topic, key, value, headers, done = self._waiting.popleft()
            if isinstance(done, _Streamed) and self._failures:
                done(_BEHIND)
                continue
            error = self._broker.reject(topic, key, value) if self._broker.reject is not None else None
            if error is None:
                self._broker.append(topic, key.encode(), value, {n: text.encode() for n, text in headers.items()})
            done(error)

    def stream(self, rows: Sequence[OutboxRow]) -> None:
        for row in rows:
            done = _Streamed(row, self._streaming, self._failures)
            self._streaming.add(done)
            self.send(row.topic, row.key, row.payload, row.headers, done)

    def streamed(self, timeout: float) -> Failures | None:
        if self._streaming:
            self.poll(timeout)
        return None if self._streaming else self._take_failures()

    def give_up(self) -> Failures:
        self._waiting = deque(waiting for waiting in self._waiting if not isinstance(waiting[-1], _Streamed))
        for done in sorted(self._streaming, key=lambda done: done.row.position):
            done(_BEHIND)
        return self._take_failures()

    def close(self, timeout: float) -> None:
        if timeout:
            self.poll(timeout)
        self._waiting.clear()

    def _take_failures(self) -> Failures:
        failures = self._failures.copy()
        self._failures.clear()
        return failures


_BEHIND: Final = SendError("the stream ended before it", permanent=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Streamed:
    """A row that is streamed: it notes its own failure."""

    row: OutboxRow
    streaming: set[_Streamed]
    failures: list[tuple[OutboxRow, SendError]]

    def __call__(self, error: SendError | None) -> None:
        self.streaming.discard(self)
        if error is not None:
            self.failures.append((self.row, error))
