"""The in-memory broker with what a network does to it: delays, lost acknowledgements, outages, members thrown out."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID
from zlib import crc32

from kafkasaga.errors import BrokerUnavailable
from kafkasaga.messages import Operation, Record, read_attributes
from kafkasaga.ports import Failures, OutboxRow, SendDone, SendError, TopicPartition
from kafkasaga.runtime.retention import AWAY
from kafkasaga.testing.broker import MemoryBroker, MemoryConsumer
from kafkasaga.testing.simulator.chance import Fault
from kafkasaga.testing.simulator.world import World

if TYPE_CHECKING:
    from kafkasaga.testing.simulator.process import Process

DELIVERY_TIMEOUT: Final = 120.0
"""Seconds after which a producer gives a message up, as ``delivery.timeout.ms`` says."""

_AWAY: Final = AWAY.total_seconds()
_SHORTLY_BEFORE: Final = 1.0

LONGEST_OVERLAP: Final = 1000.0
"""Seconds after which a command is delivered although no compensation has come."""

Answered = tuple[UUID, str, int, Operation]


class WorldBroker(MemoryBroker):
    """Topics in virtual time."""

    def __init__(self, world: World, partitions: int = 3) -> None:
        super().__init__(partitions)
        self.world = world
        self.down_until = 0.0
        self.written: dict[UUID, list[Record]] = defaultdict(list)
        """Every record by the id of its message."""
        self.replies: dict[Answered, list[tuple[float, Record]]] = defaultdict(list)
        """Every answer to a step's operation, and when it was written."""
        self.wrote: Callable[[str, Record], None] = lambda _, __: None
        """Hears of every record."""
        self._held: dict[tuple[UUID, str], Record] = {}
        self._readable: dict[TopicPartition, list[float]] = defaultdict(list)
        """For each record, from when on consumers get it."""

    def write(self, writer: str, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]) -> Record:
        """Append a record; consumers may get it a moment later."""
        record = self.append(topic, key.encode(), value, {name: text.encode() for name, text in headers.items()})
        attributes, place = read_attributes(record), TopicPartition(topic, record.partition)
        at = self._readable_at(f"{topic} {key} #{record.offset}")
        self.written[attributes.id].append(record)
        saga = attributes.saga
        if saga is not None and saga.command_id is not None:
            answered = (saga.saga_id, saga.step, saga.generation, saga.operation)
            self.replies[answered].append((self.world.time, record))
        elif saga is not None and saga.operation is Operation.COMPENSATION:
            self._release((saga.saga_id, saga.step), at)
        elif saga is not None and self.world.chance.strikes(Fault.OVERLAP, f"{topic} {key} #{record.offset}"):
            self._held[saga.saga_id, saga.step] = record
            at += LONGEST_OVERLAP
        self._readable[place].append(at)
        self.world.at(at, lambda: self._deliver(topic))
        self.wrote(writer, record)
        return record

    def _readable_at(self, name: str) -> float:
        """From when on consumers get a record, unless one before it in its partition comes later still."""
        at = self.world.time + self.world.chance.latency(f"deliver {name}")
        if self.world.chance.strikes(Fault.DELAY, name):
            at += self.world.chance.choose(f"delay {name}", (1.0, 0.1, 40.0, 150.0))
        return at

    def _release(self, step: tuple[UUID, str], at: float) -> None:
        """A compensation is on its way: the command that was held back comes with it."""
        record = self._held.pop(step, None)
        if record is not None:
            at += (self.world.chance.fraction(f"overlap {step}") - 0.5) * 0.01
            self._readable[TopicPartition(record.topic, record.partition)][record.offset] = at
            self.world.at(at, lambda: self._deliver(record.topic))

    def readable(self, place: TopicPartition, start: int, limit: int) -> list[Record]:
        """What a consumer gets now."""
        if self.world.time < self.down_until:
            return []
        log, end = self.log(place), start
        if end >= len(log):
            return []
        times = self._readable[place]
        while end < min(len(log), start + limit) and times[end] <= self.world.time:
            end += 1
        return log[start:end]

    def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        if self.world.time < self.down_until:
            raise BrokerUnavailable("the simulated broker is down")
        return super().ends(topics)

    def join(self, group: str, member: MemoryConsumer) -> None:
        super().join(group, member)
        self.world.change()

    def leave(self, group: str, member: MemoryConsumer) -> None:
        super().leave(group, member)
        self.world.change()

    def partition_of(self, key: str) -> int:
        return crc32(key.encode()) % self.partitions

    def _deliver(self, topic: str) -> None:
        self.world.change(progress=True)
        for group in self.groups():
            for member in group:
                if topic in member.topics and isinstance(member, WorldConsumer):
                    member.ring()


class WorldConsumer(MemoryConsumer):
    """A member of a consumer group, in a process that may die or stand still."""

    def __init__(self, broker: WorldBroker, group: str, process: Process) -> None:
        super().__init__(broker, group)
        self._world, self._process = broker.world, process
        self._strand = broker.world.current

    def poll(self, limit: int, timeout: float, gather: float = 0.0) -> list[Record]:  # noqa: ARG002 (no time passes)
        records = self._take(limit)
        if not records and timeout > 0:
            self._world.idle(timeout)
            records = self._take(limit)
        if records:
            self._process.point("poll")
            if self._world.chance.strikes(Fault.REBALANCE, self._process.place("rebalance")):
                self._process.note("loses its partitions")
                self.broker.leave(self.group, self)
                self.broker.join(self.group, self)
                self._world.change()
        return records

    def _take(self, limit: int) -> list[Record]:
        self._strand = self._world.current
        return super().poll(limit, 0)

    def store(self, positions: Mapping[TopicPartition, int]) -> None:
        self._process.point("before offset store")
        self._process.check_offsets(positions)
        super().store(positions)
        self._process.point("after offset store")

    def close(self) -> None:
        if self._process.alive:
            super().close()

    def ring(self) -> None:
        """Something came for it."""
        if self._strand is not None:
            self._world.wake(self._strand)


@dataclass
class _Flow:
    """A stream: the rows that are not written yet, in order."""

    rows: list[OutboxRow]
    known: bool = False
    failures: list[tuple[OutboxRow, SendError]] = field(default_factory=list[tuple[OutboxRow, SendError]])

    def end(self, reason: str) -> None:
        """Nothing more of it is written."""
        self.failures += [(row, SendError(reason, permanent=False)) for row in self.rows]
        self.rows = []


class WorldProducer:
    """A producer (``ports.Producer``): a message is written some time after it was sent, acknowledged still later."""

    def __init__(self, broker: WorldBroker, process: Process) -> None:
        self._broker, self._world, self._process = broker, broker.world, process
        self._acknowledged: deque[tuple[SendDone, SendError | None]] = deque()
        self._last: dict[TopicPartition, float] = {}
        self._rejected: set[str] = set()
        self._closed = False
        self._strand = broker.world.current
        self._flow = _Flow([])

    def send(self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str], done: SendDone) -> None:
        self._process.point("before produce", waits=False)
        name = self._process.place(f"produce {topic} {key}")
        place = TopicPartition(topic, self._broker.partition_of(key))
        at = max(self._world.time + self._world.chance.latency(name), self._last.get(place, 0.0))
        self._last[place] = at
        sent = self._world.time

        def write() -> None:
            self._write(name, sent, topic, key, value, headers, done, write)

        self._world.at(at, write)

    def poll(self, timeout: float) -> None:
        self._strand = self._world.current
        if not self._acknowledged and timeout > 0:
            self._world.idle(timeout)
        while self._acknowledged:
            done, error = self._acknowledged.popleft()
            done(error)

    def close(self, timeout: float) -> None:  # noqa: ARG002 (the port names it)
        self._closed = True

    def stream(self, rows: Sequence[OutboxRow]) -> None:
        self._process.point("before produce", waits=False)
        self._flow = _Flow(list(rows))
        self._schedule(self._flow)

    def streamed(self, timeout: float) -> Failures | None:
        self._strand = self._world.current
        if not self._flow.known and timeout > 0:
            self._world.idle(timeout)
        return self._flow.failures if self._flow.known else None

    def give_up(self) -> Failures:
        flow, self._flow = self._flow, _Flow([])
        flow.end("given up")
        return flow.failures

    def _schedule(self, flow: _Flow) -> None:
        """Write the next row of a stream some time later: one behind the other, so that none overtakes."""
        if not flow.rows:
            self._settle(flow)
            return
        row = flow.rows[0]
        name = self._process.place(f"stream {row.topic} {row.key}")
        self._world.at(self._world.time + self._world.chance.latency(name), lambda: self._write_next(name, flow))

    def _write_next(self, name: str, flow: _Flow) -> None:
        world, chance = self._world, self._world.chance
        if not flow.rows or ((self._closed or not self._process.alive) and chance.number(f"in flight {name}") & 1):
            return  # given up, or still in the producer's memory
        if (held := max(self._process.held(), self._broker.down_until)) > world.time:
            world.at(held + 0.001, lambda: self._write_next(name, flow))
            return
        row = flow.rows[0]
        if chance.strikes(Fault.REJECTION, name, "produce"):
            self._process.note(f"{row.topic} is refused by the broker")
            flow.end("the simulated broker refuses this record")
            self._settle(flow)
            return
        self._broker.write(self._process.service, row.topic, row.key, row.payload, row.headers)
        if chance.strikes(Fault.LOST_ACKNOWLEDGEMENT, name, "produce"):
            flow.end("the acknowledgement was lost")
            self._settle(flow)
            return
        del flow.rows[0]
        self._schedule(flow)

    def _settle(self, flow: _Flow) -> None:
        def known() -> None:
            flow.known = True
            if self._strand is not None:
                self._world.wake(self._strand)

        self._world.at(self._world.time + self._world.chance.latency(self._process.place("streamed")), known)

    def _write(  # noqa: PLR0913, PLR0917 (one record, and whom to tell)
        self,
        name: str,
        sent: float,
        topic: str,
        key: str,
        value: bytes | None,
        headers: Mapping[str, str],
        done: SendDone,
        again: Callable[[], None],
    ) -> None:
        world, chance = self._world, self._world.chance
        if (self._closed or not self._process.alive) and chance.number(f"in flight {name}") & 1:
            return  # it was still in the producer's memory
        if (held := self._process.held()) > world.time:
            world.at(held, again)
            return
        if world.time < self._broker.down_until:
            if world.time - sent > DELIVERY_TIMEOUT:
                self._acknowledge(name, done, SendError("delivery timed out", permanent=False))
            else:
                world.at(self._broker.down_until + 0.001, again)
            return
        if chance.strikes(Fault.REJECTION, name, "produce"):
            self._process.note(f"{topic} is refused by the broker")
            self._acknowledge(name, done, SendError("the simulated broker refuses this record", permanent=True))
            return
        self._broker.write(self._process.service, topic, key, value, headers)
        for fault, later in ((Fault.DUPLICATE, (0.0, 0.005, 2.0, 70.0)), (Fault.LATE_COPY, (_AWAY, 900.0, _AWAY / 2))):
            if chance.strikes(fault, name, "produce"):
                at = world.time + chance.choose(f"again {name}", later)
                world.at(at - _SHORTLY_BEFORE, world.change)  # so that who forgets what is old has forgotten it
                world.at(at, lambda: void(self._broker.write(self._process.service, topic, key, value, headers)))
        lost = chance.strikes(Fault.LOST_ACKNOWLEDGEMENT, name, "produce")
        self._acknowledge(name, done, SendError("the acknowledgement was lost", permanent=False) if lost else None)

    def _acknowledge(self, name: str, done: SendDone, error: SendError | None) -> None:
        def acknowledge() -> None:
            self._acknowledged.append((done, error))
            if self._strand is not None:
                self._world.wake(self._strand)

        self._world.at(self._world.time + self._world.chance.latency(f"acknowledge {name}"), acknowledge)


def void(_: object) -> None:
    """Takes what nobody needs."""
