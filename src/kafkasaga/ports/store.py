"""A service's database as the runtime sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from kafkasaga.messages import Envelope
from kafkasaga.ports.relay_queue import RelayQueue
from kafkasaga.ports.values import (
    BarrierEntry,
    BarrierKey,
    InboxKey,
    Parked,
    ParkedKey,
    ParkedStatus,
    Progress,
    Prunable,
    SagaChange,
    TopicPartition,
    Turn,
)
from kafkasaga.saga.instance import Instance


class UnitOfWork(Protocol):
    """One database transaction, in which everything that a batch does happens or none of it (invariant I1)."""

    @property
    def session(self) -> Any:
        """The SQLAlchemy session of this transaction, for the user's handlers; made when first asked for."""
        ...

    def flush(self) -> None:
        """Write out what handlers left in the session. Raises what the database says to it."""
        ...

    def look_ahead(
        self,
        steps: Collection[BarrierKey],
        sagas: Collection[UUID] = (),
        turn: Turn = Turn.NONE,
        *,
        hands_over: bool = True,
    ) -> None:
        """These will be read from the barrier, and these sagas loaded, and lanes be asked for.

        ``claim_inbox`` waits for its turn first, and brings the answers along. ``hands_over`` says whether a user's
        functions are going to have the session: who asks for it unannounced has it too, a little later.

        Raises:
            TurnTimeout: from ``claim_inbox``, if the turn does not come in time.
        """
        ...

    def claim_inbox(self, keys: Collection[InboxKey]) -> set[InboxKey]:
        """Insert the keys, in sorted order; return those that were not there. Waits for concurrent claims to end."""
        ...

    def read_barrier(self, keys: Collection[BarrierKey]) -> dict[BarrierKey, BarrierEntry]:
        """The entries of those keys that have one. Claims nothing and waits for nobody."""
        ...

    def settle_barrier(self, entries: Mapping[BarrierKey, BarrierEntry]) -> None:
        """Write entries that were not there. Of two transactions that write the same one, one commits.

        Raises:
            SerializationConflict: if another one has written it since, now or at the end of the transaction.
        """
        ...

    def meanwhile(self, work: Callable[[], None]) -> None:
        """Do this while the database commits, if that leaves time for it: at most once, and not for this transaction.

        It raises nothing, and nothing of it says whether the commit succeeds.
        """
        ...

    def carried_out(self, actions: Collection[BarrierKey]) -> set[BarrierKey]:
        """Those actions whose handlers have run. Claims nothing and waits for nobody."""
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
            SerializationConflict: if a saga is not at ``before_seq`` any more (invariant I6), now or at the end of the
                transaction.
        """
        ...

    def add_outbox(self, envelopes: Sequence[Envelope]) -> None:
        """Append messages, in this order. The relay is woken after the commit."""
        ...

    def advance(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Remember where each partition is to be read on (the next offset); never goes back."""
        ...

    def rewind(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Go back, and forget what was noted: the partition begins anew (its topic was deleted and made again)."""
        ...

    def parked_lanes(self, lanes: Iterable[ParkedKey]) -> set[ParkedKey]:
        """Those of ``lanes`` in which something is parked."""
        ...

    def park(self, messages: Sequence[Parked]) -> None:
        """Keep messages, in this order."""
        ...

    def replace_parked(self, messages: Sequence[Parked]) -> set[InboxKey]:
        """Put commands in the places of parked ones of their lane that ask the same; those that had one.

        Place, attempts, error and due time stay those of the predecessor. One that is being tried now is left alone,
        and so is a dead letter.
        """
        ...

    def drop_parked(self, actions: Collection[BarrierKey]) -> list[tuple[ParkedKey, BarrierKey]]:
        """Delete parked commands that ask for these; the next of each lane becomes due. Returns what is gone.

        One that is being tried now is left alone, and so is a dead letter. A record without a key has an empty one.
        """
        ...

    def note_batch(self, group: str, ends: Mapping[TopicPartition, int]) -> None:
        """Note that what lies before these offsets, and was not handled yet, is tried together, before it is."""
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

    def parked_ids(self, topic: str, keys: Collection[InboxKey]) -> dict[InboxKey, int]:
        """Those of these messages of a topic that are parked, by consumer, source and id, dead ones too."""
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

    def prune(self, what: Prunable, keep: timedelta, limit: int) -> int:
        """Forget about ``limit`` rows that are older than ``keep`` by the database's clock; how many they were.

        What belongs together (``Prunable``) goes together, be they a few rows more.

        It waits for nobody's lock: what somebody holds is left for the next time, and so is what belongs together with
        it. So any number of processes may do it, and fewer than ``limit`` mean that another look is worth little now,
        not that nothing old is left.
        """
        ...

    def relay_queue(self) -> RelayQueue:
        """The outbox as its relay sees it, on a connection of its own."""
        ...

    def close(self) -> None:
        """Give back all connections."""
        ...
