"""A member of a consumer group."""

# ruff: noqa: SLF001 - librdkafka gives the errors of its own making names that begin with an underscore

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from math import ceil
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place

from kafkasaga.errors import ConfigurationError
from kafkasaga.kafka.config import KafkaConfig, KafkaSettings
from kafkasaga.kafka.link import Link, logger
from kafkasaga.kafka.silence import Silence
from kafkasaga.kafka.topics import Topics
from kafkasaga.kafka.translate import record_of
from kafkasaga.messages import Record
from kafkasaga.ports import Assigned, Revoked, TopicPartition

WATERMARK_SECONDS: Final = 5.0
"""For a broker to say where a partition begins, before the consumer does without."""
CLOSE_SECONDS: Final = 10.0
"""For a client to commit and leave. One that librdkafka has left without a broker never comes to that end."""
GONE: Final = 1 << 63
"""The position of a partition that is another's: behind every record."""
PARTS: Final = 4
"""Of the moment in which messages are gathered: the first one that brings none is its end."""
DROPPED_AT_ONCE: Final = 10_000
"""Records that were fetched, but that nobody takes any more."""


class KafkaConsumer:
    """Implements ``ports.Consumer``. Everything but ``ends`` must be called from one thread.

    Whatever goes wrong inside librdkafka's callbacks is raised at the beginning of the *next* ``poll``: an exception on
    the way out of this one would drop the records that it has already taken from the queue.
    """

    def __init__(self, settings: KafkaSettings, group: str, *, client_id: str | None = None) -> None:
        config = self._config = KafkaConfig.of(settings, client_id or group)
        self._group = group
        self._link = Link(config, f"consumer {group}")
        self._silence = Silence(self._link)
        self._consumer = self._link.open(Consumer, config.consumer(group))
        self._topics = Topics(settings)
        self._wanted: list[str] = []
        self._assigned: Assigned = lambda _: {}
        self._revoked: Revoked = lambda _: None
        self._waiting: set[TopicPartition] = set()
        """Assigned by the group, but ``assigned`` has not said yet where to begin."""
        self._reading: dict[TopicPartition, int | None] = {}
        """Where each partition is to be read on; None: at the group's offset, which only the broker knows."""
        self._paused = False
        self._held_back: set[TopicPartition] = set()
        """Paused by name."""
        self._failure: Exception | None = None
        self._closing = False

    def subscribe(self, topics: Iterable[str], assigned: Assigned, revoked: Revoked) -> None:
        """Join the group."""
        self._wanted, self._assigned, self._revoked = sorted(topics), assigned, revoked
        self._join()

    def _join(self) -> None:
        self._consumer.subscribe(
            self._wanted, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def poll(self, limit: int, timeout: float, gather: float = 0.0) -> list[Record]:
        """Wait for the first record, take what is there behind it, and gather while more keep coming.

        Raises:
            ConfigurationError: if another process uses the same instance id, or librdkafka gave up for good.
            BrokerUnavailable: if librdkafka could not fetch; an unreachable broker alone is no error, just silence.
        """
        self._raise_failure()
        if self._waiting:
            self._begin()
        self._link.probe(self._consumer)
        self._listen()
        messages: list[Message[Any, Any]] = []
        try:
            messages += self._consumer.consume(1, timeout)
            if messages and limit > 1:
                messages += self._consumer.consume(limit - 1, 0)
            if gather and not all(message.error() for message in messages):
                take_while_they_come(self._consumer.consume, messages, limit, gather)
        except KafkaException as error:
            failure = self._link.unavailable(error, "records were to be fetched")
            if not messages:
                raise failure from error
            self._failure = failure
        return self._taken(messages)

    def positions(self) -> dict[TopicPartition, int]:
        """How far each partition has been read, also past what is not a record: transaction markers, compacted ones."""
        return {place: offset for place, offset in self._reading.items() if offset is not None}

    def store(self, positions: Mapping[TopicPartition, int]) -> None:
        """Let these offsets be committed. Partitions that were taken away meanwhile are left out."""
        places = [Place(*place, offset) for place, offset in positions.items() if place in self._reading]
        if not places:
            return
        try:
            self._consumer.store_offsets(offsets=places)
        except KafkaException as error:
            # The database knows; the group's offset follows with the next batch.
            self._link.trouble(f"offsets were not stored: {error.args[0].str()}")

    def pause(self, partitions: Collection[TopicPartition] | None = None) -> None:
        """Fetch nothing more of these for now, also when they come again; None: of any, also of those that come."""
        if partitions is None:
            self._paused = True
        else:
            self._held_back |= set(partitions)
        self._consumer.pause([Place(*place) for place in self._reading if self._is_paused(place)])

    def resume(self, partitions: Collection[TopicPartition] | None = None) -> None:
        """Go on with these; None: with all but those that were paused by name."""
        if partitions is None:
            self._paused = False
        else:
            self._held_back -= set(partitions)
        self._consumer.resume([Place(*place) for place in self._reading if not self._is_paused(place)])

    def _pause_again(self) -> None:
        """Nothing is promised of the pause of what is assigned anew: one partition or, without cooperation, all."""
        if held_back := [Place(*place) for place in self._reading if self._is_paused(place)]:
            self._consumer.pause(held_back)

    def _is_paused(self, place: TopicPartition) -> bool:
        return self._paused or place in self._held_back

    def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """The end offset of every partition, as the broker says now."""
        return self._topics.ends(topics)

    def close(self) -> None:
        """Commit stored offsets and leave the group; a static member keeps its partitions until its session ends.

        Nothing is assigned or revoked any more: whoever closes has ended its work.
        """
        self._closing = True
        _close(self._consumer, CLOSE_SECONDS)

    # ---- what librdkafka tells ----------------------------------------------------------------------------------

    def _on_assign(self, client: Consumer, places: list[Place]) -> None:
        if self._is_closing(client):
            self._take_nothing(client)
            return
        self._waiting |= {TopicPartition(place.topic, place.partition) for place in places}
        if not self._config.cooperative:
            self._reading.clear()
        try:
            self._begin()
        except Exception:  # noqa: BLE001 - whatever `assigned` raises is raised to the caller by the next poll, which asks again
            # librdkafka must be answered; without an answer its binding would begin at the group's offsets.
            self._assign([])

    def _is_closing(self, client: Consumer) -> bool:
        return self._closing or client is not self._consumer

    def _take_nothing(self, client: Consumer) -> None:
        if self._config.cooperative:
            client.incremental_assign([])
        else:
            client.unassign()

    def _begin(self) -> None:
        """Begin to read what waits, where ``assigned`` says."""
        waiting = sorted(self._waiting)
        starts = self._assigned(waiting)
        self._assign([_place(place, starts.get(place)) for place in waiting])
        self._reading |= {place: starts.get(place) for place in waiting}
        self._waiting.clear()
        self._pause_again()

    def _on_revoke(self, client: Consumer, places: list[Place]) -> None:
        if self._is_closing(client):
            return
        gone = {TopicPartition(place.topic, place.partition) for place in places}
        known = [place for place in self._reading if place in gone]
        self._waiting -= gone
        for place in known:
            del self._reading[place]
        try:
            self._revoked(known)
        except Exception as error:  # noqa: BLE001 - raised to the caller by the next poll
            self._failure = error
        # The binding takes them from librdkafka's assignment by itself, in the way of the group's protocol.

    def _assign(self, places: list[Place]) -> None:
        if self._config.cooperative:
            self._consumer.incremental_assign(places)
        else:
            again = {(place.topic, place.partition) for place in places}
            others = [_place(place, at) for place, at in self._reading.items() if place not in again]
            self._consumer.assign(others + places)

    def _taken(self, messages: Iterable[Message[Any, Any]]) -> list[Record]:
        """Without those of a partition that was taken away in the same poll, after they had left the queue.

        It may have come again in that poll: then its position is another one.
        """
        records: list[Record] = []
        reading: dict[Any, int | None] = self._reading  # a plain tuple finds its place
        for message in messages:
            error = message.error()
            if error is not None:
                self._hear(message, error)
                continue
            record = record_of(message)
            place = record.topic, record.partition
            at = reading.get(place, GONE)
            if at is None or at <= record.offset:
                reading[place] = record.offset + 1
                records.append(record)
        return records

    def _hear(self, message: Message[Any, Any], error: KafkaError) -> None:
        """What librdkafka says instead of a record."""
        place = TopicPartition(message.topic() or "", message.partition() or 0)
        if error.code() == KafkaError._PARTITION_EOF:
            if place in self._reading:
                self._reading[place] = message.offset() or 0
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            if place in self._reading:
                self._begin_again(place, message.offset(), error)
        elif error.fatal() or error.code() == KafkaError._FATAL:
            self._link.fatal = self._config.masked(error.str())
        else:
            self._link.trouble(" ".join(filter(None, (message.topic(), error.str()))))

    def _begin_again(self, place: TopicPartition, wanted: int | None, error: KafkaError) -> None:
        """The log does not have the wanted offset, or the group has none: go on at the earliest record."""
        start = Place(*place, OFFSET_BEGINNING)
        if self._config.cooperative:
            self._consumer.incremental_unassign([start])
        self._assign([start])
        self._reading[place] = None
        self._pause_again()
        if wanted is not None and wanted >= 0:
            self._say_what_is_missing(place, wanted, error)

    def _say_what_is_missing(self, place: TopicPartition, wanted: int, error: KafkaError) -> None:
        try:
            low, high = self._consumer.get_watermark_offsets(Place(*place), timeout=WATERMARK_SECONDS, cached=False)
        except KafkaException:
            low, high = -1, -1
        if wanted < low:
            logger.error(
                "%s partition %d: messages %d to %d are lost: the topic's retention removed them before they were "
                "read; reading on at %d. Raise the topic's retention.ms, and look for sagas that wait for a reply",
                place.topic, place.partition, wanted, low - 1, low,
            )  # fmt: skip
        else:
            logger.error(
                "%s partition %d: offset %d is not there (%s), the log ends at %d: the topic was made anew, or Kafka "
                "lost data; reading again from the beginning, known messages are recognised",
                place.topic, place.partition, wanted, error.str(), high,
            )  # fmt: skip

    def _listen(self) -> None:
        """Who has no partitions may have nothing to do; or has lost the broker, and its session with it."""
        if self._reading or self._waiting:
            self._silence.broken()
        elif self._silence.is_for_ever(self._consumer):
            self._join_anew("it finds no broker any more, though there is one", patience=0.0)

    def _join_anew(self, why: str, patience: float = CLOSE_SECONDS) -> None:
        """What librdkafka does not come out of by itself, a new client does."""
        logger.warning("the consumer of group %s joins anew after an outage: %s", self._group, why)
        gone = list(self._reading)
        self._reading.clear()
        self._waiting.clear()
        old, self._consumer = self._consumer, self._link.open(Consumer, self._config.consumer(self._group))
        _close(old, patience)
        self._join()
        if gone:
            self._revoked(gone)

    def _raise_failure(self) -> None:
        if self._link.fatal is not None and self._link.was_down_lately:
            # A static member that rejoins after its broker was away can be fenced by itself: an offset commit that was
            # under way carries the member id from before. librdkafka gives up for good then.
            self._join_anew(self._link.fatal)
        if self._link.fatal is not None:
            raise ConfigurationError(
                f"the consumer of group {self._group} cannot go on: {self._link.fatal}. If another process has taken "
                f"the instance id {self._config.instance_id!r}, give each replica its own KAFKASAGA_INSTANCE_ID"
            )
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def take_while_they_come(
    consume: Callable[[int, float], list[Message[Any, Any]]],
    messages: list[Message[Any, Any]],
    limit: int,
    seconds: float,
) -> None:
    """Add to ``messages`` what comes within so many seconds, until there are ``limit``.

    Messages come in bursts, as others commit their batches. To wait on behind the end of one is idle time for all. What
    came before stays in ``messages`` where ``consume`` raises.
    """
    left = ceil(seconds * 1000)  # milliseconds, for the binding cuts off what is less
    part = ceil(left / PARTS)
    while left > 0 and len(messages) < limit:
        more = consume(limit - len(messages), min(part, left) / 1000)
        messages += more
        left -= part
        if all(message.error() for message in more):
            return


def _close(client: Consumer, patience: float) -> None:
    """In a thread of its own, which ends with the process at the latest."""
    closing = threading.Thread(target=_take_and_close, args=(client,), name="kafkasaga-close", daemon=True)
    closing.start()
    closing.join(patience)


def _take_and_close(client: Consumer) -> None:
    """Serve what librdkafka has to tell, then close.

    A client that is closed before it has heard of its first partitions hears of them and of their loss at once. What
    the binding then asks librdkafka, with the GIL held, librdkafka may never answer, as it has ended meanwhile
    (librdkafka issues 4041 and 4884): the whole process would stand still.
    """
    with suppress(KafkaException):
        client.pause(client.assignment())
        while client.consume(DROPPED_AT_ONCE, 0):
            pass
    client.close()


def _place(place: TopicPartition, offset: int | None) -> Place:
    return Place(*place) if offset is None else Place(*place, offset)
