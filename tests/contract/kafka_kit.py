"""What the Kafka contract tests share: settings for a broker, members of a group, and waiting for conditions."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from kafkasaga.kafka import KafkaConsumer, KafkaProducer, Topics
from kafkasaga.messages import Record
from kafkasaga.ports import SendError, TopicPartition
from kafkasaga.testing.embedded import EmbeddedKafka

WITHIN = 60.0  # seconds; a deadline for what takes milliseconds on an idle machine


@dataclass(frozen=True)
class Broker:
    """A broker, as settings."""

    bootstrap_servers: str
    kafka: Mapping[str, Any] = field(default_factory=dict[str, Any])
    instance_id: str | None = None
    embedded: EmbeddedKafka | None = None

    def having(self, instance_id: str | None = None, **raw: Any) -> "Broker":
        named = {name.replace("_", "."): value for name, value in raw.items()}
        return Broker(self.bootstrap_servers, {**self.kafka, **named}, instance_id, self.embedded)

    def topic(self, partitions: int = 4) -> str:
        """A new topic."""
        name = unique("topic")
        if self.embedded is not None:
            self.embedded.create_topics([name], partitions=partitions)
        else:
            Topics(self).create([name], partitions=partitions)
        return name


def unique(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:12]}"


def until(condition: Callable[[], object], what: str, within: float = WITHIN) -> None:
    """Do what `condition` does until it is true; it has to wait by itself."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within:.0f} s"


class Member:
    """A consumer that remembers what it read and what it was told."""

    def __init__(
        self, settings: Broker, group: str, topics: Collection[str], starts: Mapping[TopicPartition, int] | None = None
    ) -> None:
        self.consumer = KafkaConsumer(settings, group)
        self.records: list[Record] = []
        self.partitions: set[TopicPartition] = set()
        self.revoked: set[TopicPartition] = set()
        self._starts = starts or {}
        self.consumer.subscribe(topics, self._assigned, self._revoked)

    def _assigned(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.partitions |= set(places)
        return {place: self._starts[place] for place in places if place in self._starts}

    def _revoked(self, places: Collection[TopicPartition]) -> None:
        self.partitions -= set(places)
        self.revoked |= set(places)

    def poll(self, timeout: float = 0.1) -> list[Record]:
        records = self.consumer.poll(100, timeout)
        self.records += records
        return records

    def read(self, count: int) -> list[Record]:
        """Poll until there are `count` records in all."""

        def enough() -> bool:
            self.poll()
            return len(self.records) >= count

        until(enough, f"{count} records")
        return self.records

    def joined(self) -> None:
        self.has(lambda: bool(self.partitions), "an assignment")

    def has(self, condition: Callable[[], object], what: str) -> None:
        def polled() -> object:
            self.poll()
            return condition()

        until(polled, what)

    def store_all(self) -> None:
        self.consumer.store({TopicPartition(r.topic, r.partition): r.offset + 1 for r in self.records})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.consumer.close()


class Sender:
    """A producer whose outcomes are kept in the order of the messages."""

    def __init__(self, settings: Broker) -> None:
        self.producer = KafkaProducer(settings)
        self.outcomes: dict[int, SendError | None] = {}
        self._sent = 0

    def send(self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str] | None = None) -> int:
        number, self._sent = self._sent, self._sent + 1
        self.producer.send(topic, key, value, headers or {}, lambda error: self.outcomes.__setitem__(number, error))
        return number

    def poll(self, timeout: float = 0) -> bool:
        """Serve delivery reports; always true."""
        self.producer.poll(timeout)
        return True

    def finish(self) -> list[SendError | None]:
        def finished() -> bool:
            self.producer.poll(0.1)
            return len(self.outcomes) == self._sent

        until(finished, "all delivery reports")
        return [self.outcomes[number] for number in range(self._sent)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.producer.close(10)


def fill(settings: Broker, topic: str, values: Sequence[bytes], key: str = "k") -> None:
    """Send `values` under one key and wait until they are there."""
    with Sender(settings) as sender:
        for value in values:
            sender.send(topic, key, value)
        assert sender.finish() == [None] * len(values)


def child(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """A Python process that runs `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
