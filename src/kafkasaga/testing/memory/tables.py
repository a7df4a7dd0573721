"""What a database in memory holds when no transaction is under way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from kafkasaga.messages import Envelope, to_text, write_headers
from kafkasaga.ports import (
    BarrierEntry,
    BarrierKey,
    InboxKey,
    LogEntry,
    OutboxRow,
    Parked,
    TopicPartition,
)
from kafkasaga.saga.instance import Instance


@dataclass(slots=True)
class Tables:
    """Committed rows."""

    inbox: set[InboxKey] = field(default_factory=set[InboxKey])
    barrier: dict[BarrierKey, BarrierEntry | None] = field(default_factory=dict[BarrierKey, BarrierEntry | None])
    offsets: dict[tuple[str, TopicPartition], int] = field(default_factory=dict[tuple[str, TopicPartition], int])
    owners: dict[tuple[str, TopicPartition], UUID] = field(default_factory=dict[tuple[str, TopicPartition], UUID])
    suspects: dict[tuple[str, TopicPartition], tuple[int, int]] = field(
        default_factory=dict[tuple[str, TopicPartition], tuple[int, int]]
    )
    """What is read next (its offset), and how often it was tried; with 0, where the batch ends that is tried."""
    sagas: dict[UUID, Instance] = field(default_factory=dict[UUID, Instance])
    newest: dict[tuple[str, str], tuple[int, UUID]] = field(default_factory=dict[tuple[str, str], tuple[int, UUID]])
    logs: dict[UUID, list[LogEntry]] = field(default_factory=dict[UUID, list[LogEntry]])
    timers: dict[UUID, datetime] = field(default_factory=dict[UUID, datetime])
    outbox: dict[int, OutboxRow] = field(default_factory=dict[int, OutboxRow])
    blocked: dict[UUID, str] = field(default_factory=dict[UUID, str])
    parked: dict[int, Parked] = field(default_factory=dict[int, Parked])
    position: int = 0
    """The last id given to a row of the outbox; never given again, also not after a rollback."""
    parked_id: int = 0

    def rewind(self, group: str, place: TopicPartition, offset: int) -> None:
        """Go back, and forget what was noted of the partition."""
        self.offsets[group, place] = offset
        self.suspects.pop((group, place), None)

    def advance(self, group: str, place: TopicPartition, offset: int) -> None:
        self.offsets[group, place] = max(offset, self.offsets.get((group, place), 0))

    def next_position(self) -> int:
        self.position += 1
        return self.position

    def next_parked_id(self) -> int:
        self.parked_id += 1
        return self.parked_id


def outbox_row(position: int, envelope: Envelope) -> OutboxRow:
    """An envelope as it lies in the outbox."""
    return OutboxRow(
        position=position,
        id=envelope.id.bytes,
        topic=envelope.topic,
        key=envelope.key,
        payload=envelope.payload,
        header_text=to_text(write_headers(envelope)),
    )


def heads(parked: Iterable[Parked]) -> list[Parked]:
    """The first message that holds each lane, and every message that has no lane."""
    found: dict[object, Parked] = {}
    holding = [message for message in parked if message.holds]
    for message in sorted(holding, key=lambda message: message.id):
        key = message.record.key
        found.setdefault(message.id if key is None else (message.consumer, message.record.topic, key), message)
    return list(found.values())
