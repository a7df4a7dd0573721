"""Which topics there are, where they end, and making them."""

# ruff: noqa: SLF001 - librdkafka gives the errors of its own making names that begin with an underscore

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # pyright: ignore[reportPrivateImportUsage]
from confluent_kafka.cimpl import NewTopic

from kafkasaga.errors import TopicsError
from kafkasaga.kafka.config import KafkaConfig, KafkaSettings
from kafkasaga.kafka.link import Link, code_of
from kafkasaga.ports import TopicPartition

ANSWER_SECONDS: Final = 10.0
"""For a broker to answer."""
REFUSAL_SECONDS: Final = 3.0
"""Between two looks whether a broker that does not answer has refused us."""
CREATE_SECONDS: Final = 30.0
"""For the brokers to have a new topic everywhere."""


class Topics:
    """The topics of a cluster. Its connection is made when first used, and anew when nobody answered.

    Every method raises ``BrokerUnavailable`` when nobody answers, ``BrokerRefused`` when nobody lets us in.
    """

    def __init__(self, settings: KafkaSettings, *, timeout: float = ANSWER_SECONDS) -> None:
        self._config = KafkaConfig.of(settings, "kafkasaga-admin")
        self._link = Link(self._config, "admin")
        self._timeout = timeout
        self._client: AdminClient | None = None

    def existing(self) -> dict[str, int]:
        """The topics that this client may see, with their number of partitions."""
        topics = self._metadata().topics
        return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def missing(self, required: Iterable[str]) -> list[str]:
        """Those of ``required`` that do not exist, sorted."""
        return sorted(set(required) - set(self.existing()))

    def create(self, names: Collection[str], *, partitions: int = 4, replication: int = -1) -> list[str]:
        """Make those of ``names`` that do not exist; returns which. ``replication`` -1 is the brokers' own default.

        Raises:
            TopicsError: if a broker refuses; the text says which topic and why.
        """
        metadata = self._metadata()
        missing = sorted(set(names) - set(metadata.topics))
        if not missing:
            return []
        if metadata.controller_id not in metadata.brokers:
            refused = [text for name in missing if (text := self._create_by_asking(name))]
        else:
            made: dict[str, Future[None]] = self._admin.create_topics(
                [NewTopic(name, partitions, replication) for name in missing],
                operation_timeout=CREATE_SECONDS,
                request_timeout=CREATE_SECONDS,
            )
            refused = [text for name, future in made.items() if (text := self._refusal(name, future))]
        if refused:
            raise TopicsError("\n".join(["topics could not be made:", *(f"  {text}" for text in refused)]))
        return missing

    def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """The end of every partition of ``topics``, behind the last record that a consumer can get now.

        Raises:
            TopicsError: if one of them does not exist.
        """
        return self._offsets(topics, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def starts(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """The first offset that every partition of ``topics`` still has.

        Raises:
            TopicsError: if one of them does not exist.
        """
        return self._offsets(topics, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def _offsets(self, topics: Iterable[str], spec: Any) -> dict[TopicPartition, int]:
        wanted, existing = sorted(set(topics)), self.existing()
        if missing := [name for name in wanted if name not in existing]:
            raise TopicsError(f"topics do not exist: {', '.join(missing)}; make them first")
        places = [Place(name, partition) for name in wanted for partition in range(existing[name])]
        if not places:
            return {}
        answers: dict[Place, Future[Any]] = self._admin.list_offsets(
            dict.fromkeys(places, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=self._timeout,
        )
        try:
            return {
                TopicPartition(place.topic, place.partition): future.result().offset
                for place, future in answers.items()
            }
        except KafkaException as error:
            raise self._link.unavailable(error, "it was asked for offsets") from None

    @property
    def _admin(self) -> Any:  # the client's stubs leave open what its futures give
        if self._client is None:
            self._client = self._link.open(AdminClient, self._config.admin())
        return self._client

    def _metadata(self) -> Any:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                # All topics: asking for one by name would make it, where brokers make topics by themselves.
                found = self._admin.list_topics(timeout=min(REFUSAL_SECONDS, self._timeout))
            except KafkaException as error:
                self._admin.poll(0)  # librdkafka says here why nobody answers
                if self._link.refusal is not None or time.monotonic() > deadline:
                    self._client = None  # librdkafka may have forgotten all brokers for good (`silence`)
                    raise self._link.unavailable(error, "it was asked for its topics") from None
            else:
                self._link.refusal = self._link.reason = None
                return found

    def _refusal(self, name: str, future: Future[None]) -> str | None:
        try:
            future.result()
        except KafkaException as error:
            code = code_of(error).code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:  # somebody was faster
                return None
            if code in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                raise self._link.unavailable(error, f"it was to make topic {name}") from None
            return f"{name}: {code_of(error).str()}"
        return None

    def _create_by_asking(self, name: str) -> str | None:
        """Librdkafka's mock cluster has no controller, so no CreateTopics; it makes a topic that it is asked for."""
        try:
            topic = self._admin.list_topics(name, timeout=self._timeout).topics[name]
        except KafkaException as error:
            raise self._link.unavailable(error, f"it was to make topic {name}") from None
        return None if topic.error is None else f"{name}: {topic.error.str()}"


def missing_topics(settings: KafkaSettings, required: Iterable[str]) -> list[str]:
    """``Topics.missing`` for one question."""
    return Topics(settings).missing(required)


def create_topics(
    settings: KafkaSettings, names: Collection[str], *, partitions: int = 4, replication: int = -1
) -> list[str]:
    """``Topics.create`` for once."""
    return Topics(settings).create(names, partitions=partitions, replication=replication)
