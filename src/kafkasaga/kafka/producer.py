"""An idempotent producer that tells of every message what became of it."""

# ruff: noqa: SLF001 - librdkafka gives the errors of its own making names that begin with an underscore

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kafkasaga.kafka.config import LINGER, KafkaConfig, KafkaSettings
from kafkasaga.kafka.failures import send_error
from kafkasaga.kafka.link import Link, code_of, logger
from kafkasaga.kafka.properties import canonical
from kafkasaga.kafka.silence import Silence
from kafkasaga.ports import SendDone, SendError

FLUSH_SECONDS: Final = 0.005
"""Long enough for librdkafka's threads to send what lingers; it ends sooner when all of it has arrived."""
FULL_WAIT_SECONDS: Final = 0.1
"""For room in librdkafka's queue, before it is asked again."""
PURGE_SECONDS: Final = 5.0
"""For librdkafka to give back what it was told to drop."""
ALONE_SECONDS: Final = 1.0
"""For what is under way to arrive, so that a message may have a batch of its own; then there is the next poll."""

_Sending = tuple[str, str, bytes | None, Mapping[str, str], SendDone]
_Delivered = Callable[[_Sending, KafkaError | None, Any], None]


class KafkaProducer:
    """Implements ``ports.Producer``, for one thread. ``done`` is only ever called from ``poll`` and ``close``.

    After a fatal error librdkafka's producer refuses everything. What it held is then reported as not delivered, for
    now, and a new one takes its place: with a new producer id, so the broker cannot recognise what the old one had
    sent. A message may then be there twice, never less than once.
    """

    def __init__(self, settings: KafkaSettings, *, client_id: str = "kafkasaga-relay") -> None:
        config = self._config = KafkaConfig.of(settings, client_id)
        self._finished: deque[tuple[SendDone, SendError | None]] = deque()
        self._alone: deque[_Sending] = deque()
        """Of batches that were refused as too large."""
        self._hurries = not any(canonical(name) == canonical(LINGER) for name in config.raw)
        self._link = Link(config, "producer")
        self._silence = Silence(self._link)
        self._producer = self._open()

    def send(self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str], done: SendDone) -> None:
        """Queue a message; waits while the queue is full."""
        self._produce((topic, key, value, headers, done), self._delivered)

    def _produce(self, sending: _Sending, delivered: _Delivered) -> None:
        topic, key, value, headers, done = sending
        while True:
            try:
                self._producer.produce(
                    topic, value, key, on_delivery=partial(delivered, sending), headers=dict(headers)
                )
            except BufferError:
                if len(self._producer) == 0:
                    text = f"{topic}: larger than the whole queue; raise queue.buffering.max.kbytes"
                    self._finished.append((done, SendError(text, permanent=True)))
                    return
                self._producer.poll(FULL_WAIT_SECONDS)
            except KafkaException as error:
                self._refused(code_of(error), topic, done)
                return
            else:
                return

    def poll(self, timeout: float) -> None:
        """Call ``done`` for what is finished; waits only if nothing is.

        To wait is to have nothing more to send for now, so a batch is not held open any longer: whoever sends much
        gets large batches, and a lone message leaves at once.
        """
        if timeout and self._hurries and not self._finished:
            self._producer.flush(min(timeout, FLUSH_SECONDS))
        self._producer.poll(0 if self._finished else timeout)
        if self._alone:
            self._send_alone()
        if self._link.fatal is not None:
            self._replace(f"librdkafka gave up ({self._link.fatal})")
        elif self._link.lost_a_leader:
            self._replace("a partition had no leader for a moment")
        elif len(self._producer) == 0:
            self._silence.broken()
        elif self._silence.is_for_ever(self._producer):
            self._replace("it finds no broker any more, though there is one")
        self._link.probe(self._producer)
        self._tell()

    def close(self, timeout: float) -> None:
        """Wait for what is under way, then drop it; ``done`` hears of both."""
        self._producer.flush(timeout)
        self._drop()
        self._tell()

    def _open(self) -> Producer:
        return self._link.open(Producer, self._config.producer())

    def _delivered(self, sending: _Sending, error: KafkaError | None, message: Message[Any, Any]) -> None:
        if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            self._alone.append(sending)
        else:
            self._delivered_alone(sending, error, message)

    def _delivered_alone(self, sending: _Sending, error: KafkaError | None, _: Message[Any, Any]) -> None:
        topic, *_rest, done = sending
        if error is None:
            self._silence.broken()
            self._finished.append((done, None))
        else:
            self._refused(error, topic, done)

    def _send_alone(self) -> None:
        """Send each message of a refused batch by itself.

        A topic whose ``max.message.bytes`` is below librdkafka's batches refuses them whole: it is said of every
        message in one that it is too large, and true of one of them or of none.
        """
        topics = ", ".join(sorted({topic for topic, *_ in self._alone}))
        self._link.trouble(
            f"{topics}: batches are refused as too large and sent again message by message; raise max.message.bytes "
            "of the topic, or set batch.size in KAFKASAGA_KAFKA below it"
        )
        while self._alone and self._producer.flush(ALONE_SECONDS) == 0:
            self._produce(self._alone.popleft(), self._delivered_alone)
            self._producer.flush(ALONE_SECONDS)

    def _refused(self, error: KafkaError, topic: str, done: SendDone) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._link.fatal = self._link.fatal or error.str()
        self._finished.append((done, send_error(error, topic)))

    def _tell(self) -> None:
        while self._finished:
            done, error = self._finished.popleft()
            done(error)

    def _replace(self, why: str) -> None:
        level = logging.INFO if self._link.fatal is None else logging.ERROR
        logger.log(level, "producer: %s; a new client takes its place", why)
        self._drop()
        self._link.fatal, self._link.lost_a_leader = None, False
        self._producer = self._open()

    def _drop(self) -> None:
        """Have everything that is still held reported as not delivered."""
        if len(self._producer):
            self._producer.purge()
        while self._alone:
            topic, *_rest, done = self._alone.popleft()
            self._finished.append((done, SendError(f"{topic}: not sent again by itself yet", permanent=False)))
        deadline = time.monotonic() + PURGE_SECONDS
        while len(self._producer) and time.monotonic() < deadline:
            self._producer.poll(FULL_WAIT_SECONDS)
