"""What the runtime asks of the stores and of Kafka: protocols and the plain values that cross them.

``stores`` and ``kafka`` implement these and know nothing of each other; the runtime knows nothing else of either. Every
method is bulk: a batch of messages is one transaction of a handful of statements, however large it is.

Errors that cross this border are ours: ``DatabaseUnavailable`` and ``SerializationConflict`` from the stores,
``BrokerUnavailable`` from Kafka. An error of the user's own SQL passes through as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, Protocol
from uuid import UUID

from kafkasaga.messages import Envelope, Operation, Record
from kafkasaga.saga.events import Event
from kafkasaga.saga.instance import Instance, SagaStatus

# ---- values -------------------------------------------------------------------------------------------------------


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


class Outcome(StrEnum):
    """What became of a barrier's operation."""

    DONE = "done"
    """The handler ran."""
    EMPTY = "empty"
    """A compensation with nothing to undo."""
    SUPERSEDED = "superseded"
    """An action whose compensation came first; it will never run."""


@dataclass(frozen=True, slots=True)
class BarrierEntry:
    """The outcome, and the first reply, to be given again: its topic, type, body and key."""

    outcome: Outcome
    reply_topic: str | None = None
    reply_type: str | None = None
    reply_body: bytes | None = None
    reply_key: str | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One row of a saga's log."""

    seq: int
    event: Event
    at: datetime
    cause: UUID | None = None
    """The id of the message that led to it."""


@dataclass(frozen=True, slots=True)
class SagaChange:
    """A saga's new state and the log entries that led there from ``before_seq`` (0: it is new)."""

    before_seq: int
    instance: Instance
    entries: tuple[LogEntry, ...]
    woken: bool = False
    """The timer has fired: it must be set anew even if only to a later time."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message that waits to be published. After a restore a position may be used again, a message id never."""

    position: int
    message_id: UUID
    topic: str
    key: str
    payload: bytes | None
    headers: Mapping[str, str]
    created_at: datetime

    @property
    def size(self) -> int:
        """Bytes of its payload."""
        return len(self.payload or b"")


LONGEST_LANE: Final = 1000
"""Bytes of a record's key that tell lanes apart: an index row has room for no more. Longer keys that begin alike share
a lane, which may make one wait for another, but never lets one overtake."""


class ParkedKey(NamedTuple):
    """A lane of order within a consumer: a parked message holds back the later ones of its lane (invariant I4)."""

    consumer: str
    topic: str
    key: bytes


class ParkedStatus(StrEnum):
    """Whether a parked message is still tried."""

    WAITING = "waiting"
    DEAD = "dead"
    """Not tried any more; its lane waits for a person."""
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


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition was read, and by whom."""

    next: int | None
    """Where to read on; None: nothing was read yet."""
    given_up: bool
    """Whether its last owner gave it up in good order. If not, what it was doing may have ended its process."""


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


# ---- stores -------------------------------------------------------------------------------------------------------


class UnitOfWork(Protocol):
    """One database transaction, in which everything that a batch does happens or none of it (invariant I1)."""

    @property
    def session(self) -> Any:
        """The SQLAlchemy session of this transaction, for the user's handlers; made when first asked for."""
        ...

    def flush(self) -> None:
        """Write out what handlers left in the session. Raises what the database says to it."""
        ...

    def claim_inbox(self, keys: Collection[InboxKey]) -> set[InboxKey]:
        """Insert the keys, in sorted order; return those that were not there. Waits for concurrent claims to end."""
        ...

    def claim_barrier(self, keys: Collection[BarrierKey]) -> dict[BarrierKey, BarrierEntry]:
        """Insert the keys, in sorted order; return the entries of those that were there. Waits like ``claim_inbox``.

        Every key claimed must be settled in the same transaction.
        """
        ...

    def settle_barrier(self, entries: Mapping[BarrierKey, BarrierEntry]) -> None:
        """Write what became of claimed keys."""
        ...

    def load_sagas(self, ids: Collection[UUID]) -> dict[UUID, Instance]:
        """Lock and read sagas, in the order of their ids (no two batches can dead-lock). Unknown ids are left out."""
        ...

    def current_sagas(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
        """For (saga name, correlation key): the saga of the highest incarnation. Unknown ones are left out."""
        ...

    def save_sagas(self, changes: Sequence[SagaChange]) -> None:
        """Append to the logs, write the snapshots, set the timers.

        Raises:
            SerializationConflict: if a saga is not at ``before_seq`` any more (invariant I6).
        """
        ...

    def add_outbox(self, envelopes: Sequence[Envelope]) -> None:
        """Append messages, in this order. The relay is woken after the commit."""
        ...

    def advance(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Remember where each partition is to be read on (the next offset); never goes back."""
        ...

    def rewind(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Go back: the partition begins anew (its topic was deleted and made again)."""
        ...

    def parked_lanes(self, lanes: Collection[ParkedKey]) -> set[ParkedKey]:
        """Those of ``lanes`` in which something is parked."""
        ...

    def park(self, messages: Sequence[Parked]) -> None:
        """Keep messages, in this order."""
        ...

    def note_attempt(self, group: str, place: TopicPartition, offset: int) -> int:
        """Count an attempt at a record that was not handled yet, before it is made; returns how many there were."""
        ...

    def claim_parked(self, now: datetime) -> Parked | None:
        """Lock and read one message that is due and the head of its lane; None if there is none that nobody holds.

        The head is computed ignoring locks and only that row is try-locked: two replicas never get two of one lane.
        """
        ...

    def lock_parked(self, id: int, attempts: int) -> bool:
        """Lock a parked message again, waiting for who holds it; False if it was tried or changed since."""
        ...

    def unpark(self, id: int) -> None:
        """Delete a parked message: it was handled. The next of its lane becomes due."""
        ...

    def repark(
        self, id: int, *, error: str, status: ParkedStatus, attempts: int, next_at: datetime, deaths: int = 0
    ) -> None:
        """Keep a parked message for another time; behind a dead letter, the next of its lane becomes due."""
        ...

    def free_lanes(self) -> int:
        """Make messages due that nothing is before any more; returns how many.

        ``unpark`` does that for the next of a lane, but cannot see one that another transaction is just parking.
        """
        ...


class Store(Protocol):
    """A service's database, as the runtime sees it."""

    def begin(self) -> AbstractContextManager[UnitOfWork]:
        """A transaction: committed at the end of the block, rolled back by an exception."""
        ...

    def enlist(self, session: Any) -> UnitOfWork:
        """The caller's own transaction as a unit of work: it commits with the session."""
        ...

    def check_schema(self) -> None:
        """Raises SchemaError if the tables are missing, old or newer; the text names the remedy."""
        ...

    def positions(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where each partition is to be read on; partitions never read are left out."""
        ...

    def take_over(
        self, group: str, owner: UUID, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, Progress]:
        """Note that ``owner`` reads these partitions from now on; how far they were read, and how that ended."""
        ...

    def give_up(self, group: str, owner: UUID, partitions: Collection[TopicPartition]) -> None:
        """Note that ``owner`` has left these partitions in good order, unless another one has them by now."""
        ...

    def parked_counts(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """How many messages of each partition wait, dead ones too, dead letters not."""
        ...

    def due_sagas(self, now: datetime, limit: int) -> list[UUID]:
        """Sagas whose timer is due, oldest first."""
        ...

    def live_versions(self) -> dict[tuple[str, int], int]:
        """How many sagas are under way under each (name, version)."""
        ...

    def next_due(self) -> datetime | None:
        """When the next timer is due."""
        ...

    def unsent(self, ids: Collection[UUID]) -> set[UUID]:
        """Those message ids that are still in the outbox."""
        ...

    def relay_queue(self) -> RelayQueue:
        """The outbox as its relay sees it, on a connection of its own."""
        ...

    def close(self) -> None:
        """Give back all connections."""
        ...


@dataclass(frozen=True, slots=True)
class Skip:
    """What the relay does not want to read now."""

    topics: Collection[str] = ()
    lanes: Collection[tuple[str, str]] = ()
    """Topic and key."""

    def __contains__(self, row: OutboxRow) -> bool:
        return row.topic in self.topics or (row.topic, row.key) in self.lanes


SKIP_NOTHING: Final = Skip()


class RelayQueue(Protocol):
    """The outbox from the other end. One relay at a time holds it; its death frees it at once (invariant I11)."""

    def acquire(self) -> bool:
        """Take it, or make sure that it is still held; False while another relay holds it.

        Raises:
            DatabaseUnavailable: and then it is not held any more.
        """
        ...

    def fetch(
        self, after: int, limit: int, upto: int | None = None, size: int | None = None, skip: Skip = SKIP_NOTHING
    ) -> list[OutboxRow]:
        """Committed rows behind position ``after``, up to ``upto``, in order. No transaction stays open.

        At most ``limit`` of them; and the one that brings their payloads to ``size`` bytes is the last.
        """
        ...

    def last(self) -> int:
        """The highest position of a committed row; 0 if there is none."""
        ...

    def delete(self, rows: Sequence[OutboxRow]) -> None:
        """Delete published rows, by position *and* id."""
        ...

    def block(self, rows: Sequence[tuple[OutboxRow, str]]) -> None:
        """Record that rows cannot be delivered, and why; their lanes, or topics, wait behind them (invariant I10)."""
        ...

    def unblock(self, rows: Sequence[OutboxRow]) -> None:
        """The rows were delivered after all: forget that they were blocked."""
        ...

    def blocked(self) -> dict[UUID, str]:
        """The blocked rows' message ids, and why."""
        ...

    def wait(self, timeout: float) -> None:
        """Wait until something was committed to the outbox, here or in another process, at most ``timeout`` seconds."""
        ...

    def wake(self) -> None:
        """End a ``wait`` (from another thread)."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...


# ---- Kafka --------------------------------------------------------------------------------------------------------


Assigned = Callable[[Collection[TopicPartition]], Mapping[TopicPartition, int]]
"""Called when partitions are assigned; returns where to read each on. Those left out start at the group's offset."""
Revoked = Callable[[Collection[TopicPartition]], None]
"""Called when partitions are taken away or lost."""


class Consumer(Protocol):
    """A member of a consumer group."""

    def subscribe(self, topics: Iterable[str], assigned: Assigned, revoked: Revoked) -> None:
        """Join the group. Both callbacks run inside ``poll``, in its thread."""
        ...

    def poll(self, limit: int, timeout: float) -> list[Record]:
        """Wait up to ``timeout`` seconds for the first record, then return what is there, at most ``limit``."""
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """How far ``poll`` has come, also past what is not a record (transaction markers, compacted records)."""
        ...

    def store(self, positions: Mapping[TopicPartition, int]) -> None:
        """Let these next offsets be committed to the group, some time. Call it only after the database committed."""
        ...

    def pause(self, partitions: Collection[TopicPartition] | None = None) -> None:
        """Fetch nothing more of these for now; None: of any, and ``poll`` then only keeps the membership alive."""
        ...

    def resume(self, partitions: Collection[TopicPartition] | None = None) -> None:
        """Go on with these; None: with all but those that were paused by name."""
        ...

    def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """The end offset of every partition of ``topics``, as the broker says now. Raises BrokerUnavailable."""
        ...

    def close(self) -> None:
        """Commit stored offsets and leave the group."""
        ...


@dataclass(frozen=True, slots=True)
class SendError:
    """Why a message was not delivered."""

    reason: str
    permanent: bool
    """This message cannot be delivered as it is and where it is; sending it again at once is useless."""
    scope: Literal["message", "topic"] = "message"
    """What is refused: this message, or whatever is sent to its topic."""


SendDone = Callable[[SendError | None], None]


class Producer(Protocol):
    """Sends messages, in the order of the calls for each partition; acknowledged by all in-sync replicas."""

    def send(self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str], done: SendDone) -> None:
        """Queue a message; ``done`` is called from ``poll`` or ``close``, never from here."""
        ...

    def poll(self, timeout: float) -> None:
        """Serve ``done`` calls, waiting up to ``timeout`` seconds for one."""
        ...

    def close(self, timeout: float) -> None:
        """Wait for what is under way, at most ``timeout`` seconds, then drop it; ``done`` hears of both."""
        ...
