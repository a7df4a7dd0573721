"""One librdkafka producer, replaced when it is of no use any more."""

# ruff: noqa: SLF001 - librdkafka gives the errors of its own making names that begin with an underscore

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kafkasaga.kafka.config import KafkaConfig
from kafkasaga.kafka.failures import send_error
from kafkasaga.kafka.link import Link, code_of, logger
from kafkasaga.kafka.silence import Silence
from kafkasaga.ports import SendError

FULL_WAIT_SECONDS: Final = 0.1
"""For room in librdkafka's queue, before it is asked again."""
PURGE_SECONDS: Final = 5.0
"""For librdkafka to give back what it was told to drop."""

Answer = Callable[[KafkaError | None, "Message[Any, Any]"], None]


class Sending:
    """A producer of librdkafka and its link; for one thread.

    After a fatal error librdkafka's producer refuses everything. What it held is then reported as not delivered, for
    now, and a new one takes its place: with a new producer id, so the broker cannot recognise what the old one had
    sent. A message may then be there twice, never less than once.
    """

    def __init__(self, config: KafkaConfig, settings: Mapping[str, Any], *, expendable: bool = False) -> None:
        self._settings = settings
        self._gave_up = logging.INFO if expendable else logging.ERROR
        self._link = Link(config, "producer")
        self._silence = Silence(self._link)
        self._producer = self._open()
        self.unanswered = False
        """Whether a client was dropped that had not answered for all it held, since this was last set to False."""

    def __len__(self) -> int:
        """How many messages are under way."""
        return len(self._producer)

    @property
    def produce(self) -> Callable[..., None]:
        """The method of librdkafka's client; what it raises, ``send`` knows how to treat."""
        produce: Callable[..., None] = self._producer.produce
        return produce

    def send(
        self, topic: str, key: str, value: bytes | None, headers: dict[str, str], answer: Answer
    ) -> SendError | None:
        """Queue a message; waits while the queue is full. Why it cannot be, if it is refused at once."""
        while True:
            try:
                self.produce(topic, value, key, on_delivery=answer, headers=headers)
            except BufferError:
                if len(self._producer) == 0:
                    return too_large(topic)
                self.poll(FULL_WAIT_SECONDS)
            except KafkaException as error:
                return self.error(code_of(error), topic)
            else:
                return None

    def error(self, error: KafkaError, topic: str) -> SendError:
        """Why a message for ``topic`` was not delivered."""
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._link.fatal = self._link.fatal or error.str()
        return send_error(error, topic)

    def poll(self, timeout: float) -> None:
        """Serve answers, waiting for one."""
        with suppress(KafkaException):  # a fatal error, of which the link and each message hear too
            self._producer.poll(timeout)

    def flush(self, timeout: float) -> int:
        """Serve answers until nothing is under way or time is over; what lingers is sent. How many still are."""
        with suppress(KafkaException):  # as above
            self._producer.flush(timeout)
        return len(self._producer)

    @property
    def is_useless(self) -> bool:
        """Whether it will not send, or not everything it was given."""
        return self._link.fatal is not None or self._link.lost_a_leader

    def mend(self) -> bool:
        """Replace the producer if it is of no use any more: everything it held has then been answered."""
        if not self.is_useless:
            return False
        if self._link.fatal is not None:
            self.replace(f"librdkafka gave up ({self._link.fatal})", self._gave_up)
        else:
            self.replace("a partition had no leader for a moment")
        return True

    def tend(self) -> None:
        """Replace it also if it has lost its brokers for good; say that Kafka is away, or is back."""
        if not self.mend():
            if len(self._producer) == 0:
                self._silence.broken()
            elif self._silence.is_for_ever(self._producer):
                self.replace("it finds no broker any more, though there is one")
        self._link.probe(self._producer)

    def heard(self) -> None:
        """Something arrived."""
        self._silence.broken()

    def replace(self, why: str, level: int = logging.INFO) -> None:
        """Have everything answered as not delivered, and begin anew."""
        logger.log(level, "producer: %s; a new client takes its place", why)
        self.drop()
        self._producer = self._open()

    def trouble(self, text: str) -> None:
        """Say what will not pass by itself, now and then."""
        self._link.trouble(text)

    def drop(self) -> None:
        """Have everything that is still held answered as not delivered; ``unanswered`` tells whether all of it was."""
        if len(self._producer):
            self._producer.purge()
        deadline = time.monotonic() + PURGE_SECONDS
        while len(self._producer) and time.monotonic() < deadline:
            self.poll(FULL_WAIT_SECONDS)
        self.unanswered |= len(self._producer) > 0

    def _open(self) -> Producer:
        return self._link.open(Producer, dict(self._settings))


def too_large(topic: str) -> SendError:
    """Of a message for which librdkafka has no room though it holds nothing."""
    return SendError(f"{topic}: larger than the whole queue; raise queue.buffering.max.kbytes", permanent=True)
