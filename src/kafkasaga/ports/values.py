"""The plain values that cross the border between the runtime, the stores and Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from functools import partial
from operator import itemgetter
from typing import Final, NamedTuple
from uuid import UUID

from pydantic_core import from_json

from kafkasaga.messages import Operation, Record
from kafkasaga.saga.events import Event
from kafkasaga.saga.instance import Instance, SagaStatus
from kafkasaga.values import value


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class InboxKey(NamedTuple):
    """What makes a message the same message: who reads it, who wrote it, and its id (invariant I3)."""

    consumer: str
    source: str
    message_id: UUID


class BarrierKey(NamedTuple):
    """One thing that a saga can ask of a participant once (invariant I9)."""

    saga_id: UUID
    step: str
    generation: int
    operation: Operation

    @property
    def action(self) -> BarrierKey:
        """The action of this step and generation: itself, or what it is the undoing of."""
        return self._replace(operation=Operation.ACTION)


class Turn(Enum):
    """How a transaction stands to other batches of its database, from its first statement to its end."""

    NONE = "none"
    """It has nothing to do with them."""
    BESIDE = "beside"
    """Beside others; not beside one that is alone."""
    ALONE = "alone"


class Outcome(StrEnum):
    """What became of a barrier's operation."""

    DONE = "done"
    """The handler ran."""
    EMPTY = "empty"
    """A compensation with nothing to undo."""
    SUPERSEDED = "superseded"
    """An action whose compensation came first; it will never run."""


@value(frozen=True, slots=True)
class BarrierEntry:
    """The outcome, and the first reply, to be given again: its topic, type, body and key."""

    outcome: Outcome
    reply_topic: str | None = None
    reply_type: str | None = None
    reply_body: bytes | None = None
    reply_key: str | None = None


@value(frozen=True, slots=True)
class LogEntry:
    """One row of a saga's log."""

    seq: int
    event: Event
    at: datetime
    cause: UUID | None = None
    """The id of the message that led to it."""


@value(frozen=True, slots=True)
class SagaChange:
    """A saga's new state and the log entries that led there from ``before_seq`` (0: it is new)."""

    before_seq: int
    instance: Instance
    entries: tuple[LogEntry, ...]
    woken: bool = False
    """The timer has fired: it must be set anew even if only to a later time."""


read_headers: Final[Callable[[str], dict[str, str]]] = partial(from_json, cache_strings="keys")
"""A message's headers from their text in the outbox. Names come again and again, values such as ids do not."""


class OutboxRow(NamedTuple):
    """A message that waits to be published. After a restore a position may be used again, an id never."""

    position: int
    id: bytes
    """Of the message: a UUID's bytes, which are quick to compare and to write."""
    topic: str
    key: str
    payload: bytes | None
    header_text: str
    """A JSON object, as it lies in the outbox. Read only when sent: a ``dict`` takes more room than all the rest."""

    @property
    def headers(self) -> dict[str, str]:
        """Of the message."""
        return read_headers(self.header_text)

    @property
    def message_id(self) -> UUID:
        """Its id."""
        return UUID(bytes=self.id)

    @property
    def size(self) -> int:
        """Bytes of its payload."""
        return len(self.payload or b"")


# Of each row there is; so these are the few that Python calls without running a line of its own.
position_of: Final[Callable[[OutboxRow], int]] = itemgetter(0)
id_of: Final[Callable[[OutboxRow], bytes]] = itemgetter(1)
topic_of: Final[Callable[[OutboxRow], str]] = itemgetter(2)
_payload_of: Final[Callable[[OutboxRow], bytes | None]] = itemgetter(4)


def payload_bytes(rows: Iterable[OutboxRow]) -> int:
    """Bytes of their payloads together."""
    return sum([len(payload) for payload in map(_payload_of, rows) if payload])


LONGEST_LANE: Final = 1000
"""Bytes of a record's key that tell lanes apart: an index row has room for no more. Longer keys that begin alike share
a lane, which may make one wait for another, but never lets one overtake."""


UNMATCHED: Final = ":unmatched"
"""Ends the name of the consumer under which a message that belongs to no saga is parked."""


class ParkedKey(NamedTuple):
    """A lane of order within a consumer: a parked message holds back the later ones of its lane (invariant I4)."""

    consumer: str
    topic: str
    key: bytes


class ParkedStatus(StrEnum):
    """Whether a parked message is still tried."""

    WAITING = "waiting"
    DEAD = "dead"
    """Not tried any more; its lane waits for a person, unless it belongs to no saga: the next one may."""
    DEAD_LETTER = "dead-letter"
    """Not tried any more, and kept to be seen; its lane goes on without it."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A record that could not be handled now, with its bytes and headers as they came."""

    consumer: str
    record: Record
    message_id: UUID
    source: str
    error: str
    status: ParkedStatus
    attempts: int
    next_at: datetime | None
    """None while another message of its lane is before it: it becomes due when that one leaves."""
    parked_at: datetime
    deaths: int = 0
    """How many of the last attempts did not end, because the process did."""
    asks: BarrierKey | None = None
    """What a saga asks for by it, if it is a command."""
    id: int = 0
    """Given by the store; orders the messages of a lane."""

    @property
    def holds(self) -> bool:
        """Whether what comes behind it in its lane waits for it."""
        passed_over = self.status is ParkedStatus.DEAD and self.consumer.endswith(UNMATCHED)
        return self.status is not ParkedStatus.DEAD_LETTER and not passed_over


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition was read, and by whom."""

    next: int | None
    """Where to read on; None: nothing was read yet."""
    given_up: bool
    """Whether its last owner gave it up in good order. If not, what it was doing may have ended its process."""
    suspect_end: int | None = None
    """The end of what was noted to be under way and did not end: the offset behind its last message."""

    @classmethod
    def of(cls, next: int | None, suspect: int | None, attempts: int, *, given_up: bool) -> Progress:
        """``suspect`` is what was tried: one message, or with no ``attempts`` the batch that ends before it."""
        end = None if suspect is None else suspect + (1 if attempts else 0)
        return cls(next, given_up, end if end is not None and end > (next or 0) else None)


@dataclass(frozen=True, slots=True)
class SagaSummary:
    """What a list of sagas shows of one."""

    saga_id: UUID
    saga: str
    version: int
    key: str
    incarnation: int
    status: SagaStatus
    seq: int
    started_at: datetime
    updated_at: datetime
    reason: str | None = None
    """Why it turned back, was cancelled, or is stuck."""
    pruned_at: datetime | None = None
    """When its state and its log were deleted."""


class Prunable(StrEnum):
    """What a store may forget when it is old."""

    INBOX = "inbox"
    """Handled messages, unless they are parked."""
    BARRIER = "barrier"
    """What a saga has asked for: all of a saga together, none of one that is under way here or has a parked command."""
    SAGAS = "sagas"
    """State and log of ended sagas. What is left says how it ended, and takes late messages as the saga would."""
    SAGA_KEYS = "saga keys"
    """Ended sagas altogether: all of a key, and none while one of them is under way."""
    DEAD_LETTERS = "dead letters"
    """Parked messages of that status; no others."""
