"""Kafka's clients as the runtime sees them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from kafkasaga.messages import Record
from kafkasaga.ports.values import OutboxRow, TopicPartition

Assigned = Callable[[Collection[TopicPartition]], Mapping[TopicPartition, int]]
"""Called when partitions are assigned; returns where to read each on. Those left out start at the group's offset."""
Revoked = Callable[[Collection[TopicPartition]], None]
"""Called when partitions are taken away or lost."""


class Consumer(Protocol):
    """A member of a consumer group."""

    def subscribe(self, topics: Iterable[str], assigned: Assigned, revoked: Revoked) -> None:
        """Join the group. Both callbacks run inside ``poll``, in its thread."""
        ...

    def poll(self, limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        """Wait up to ``timeout`` seconds for the first record; take what is there behind it, ``limit`` at most.

        Then wait up to ``gather`` seconds for more, but no longer than they keep coming.
        """
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """How far ``poll`` has come, also past what is not a record (transaction markers, compacted records)."""
        ...

    def store(self, positions: Mapping[TopicPartition, int]) -> None:
        """Let these next offsets be committed to the group, some time. Call it only after the database committed.

        Those of partitions that were taken away meanwhile are left out: another member has them now.
        """
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


Failures = Sequence[tuple[OutboxRow, SendError]]
"""What was not delivered, as far as one can know, and why."""


class Producer(Protocol):
    """Sends messages, in the order of the calls for each partition; acknowledged by all in-sync replicas.

    What is *sent* is answered one by one, and a failure stops nothing else. What is *streamed* leaves no gaps: of the
    rows of one key, none is written behind one that was not. So a failure may take the rest of the stream with it.
    """

    def send(self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str], done: SendDone) -> None:
        """Queue a message; ``done`` is called from ``poll`` or ``close``, never from here."""
        ...

    def poll(self, timeout: float) -> None:
        """Serve ``done`` calls, waiting up to ``timeout`` seconds for one."""
        ...

    def stream(self, rows: Sequence[OutboxRow]) -> None:
        """Queue rows, in this order. Nothing else is streamed until ``streamed`` or ``give_up`` has told of them."""
        ...

    def streamed(self, timeout: float) -> Failures | None:
        """Wait until the fate of all that was streamed is known, at most ``timeout`` seconds: None, if it is not yet.

        What is not among the failures was acknowledged. What is may have been written nevertheless.
        """
        ...

    def give_up(self) -> Failures:
        """Stop what is being streamed, and tell of it. None of it is written any more, but for what is on its way."""
        ...

    def close(self, timeout: float) -> None:
        """Wait for what is under way, at most ``timeout`` seconds, then drop it; ``done`` hears of both."""
        ...
