"""An idempotent producer that tells of every message what became of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, Message

from kafkasaga.kafka.config import LINGER, KafkaConfig, KafkaSettings
from kafkasaga.kafka.properties import canonical
from kafkasaga.kafka.sending import Sending
from kafkasaga.kafka.stream import KafkaStream
from kafkasaga.ports import Failures, OutboxRow, SendDone, SendError

FLUSH_SECONDS: Final = 0.005
"""Long enough for librdkafka's threads to send what lingers; it ends sooner when all of it has arrived."""
NARROW_SECONDS: Final = 600.0
"""After a batch was refused for its size, until its topic is tried with whole ones again."""


@dataclass(frozen=True, slots=True)
class _Sent:
    topic: str
    key: str
    value: bytes | None
    headers: dict[str, str]
    done: SendDone


class KafkaProducer:
    """Implements ``ports.Producer``, for one thread. ``done`` is only ever called from ``poll`` and ``close``.

    A broker refuses a whole batch that is larger than its topic takes, whatever the size of the messages in it. What
    was refused so is sent again, each in a batch of its own; only then is a message itself too large.
    """

    def __init__(self, settings: KafkaSettings, *, client_id: str = "kafkasaga-relay") -> None:
        config = self._config = KafkaConfig.of(settings, client_id)
        self._finished: deque[tuple[SendDone, SendError | None]] = deque()
        self._hurries = not any(canonical(name) == canonical(LINGER) for name in config.raw)
        self._sending = Sending(config, config.producer())
        self._lone: Sending | None = None
        self._narrow: set[str] = set()
        """Topics that refused a batch for its size."""
        self._narrow_until = 0.0
        self._again: list[_Sent] = []
        self._stream: KafkaStream | None = None

    def send(self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str], done: SendDone) -> None:
        """Queue a message; waits while the queue is full."""
        self._send(_Sent(topic, key, value, dict(headers), done))

    def poll(self, timeout: float) -> None:
        """Call ``done`` for what is finished; waits only if nothing is.

        To wait is to have nothing more to send for now, so a batch is not held open any longer: whoever sends much
        gets large batches, and a lone message leaves at once.
        """
        if self._lone is not None and len(self._lone):
            self._lone.flush(0 if self._finished else timeout)
            timeout = 0
        if timeout and self._hurries and not self._finished:
            self._sending.flush(min(timeout, FLUSH_SECONDS))
        self._sending.poll(0 if self._finished else timeout)
        self._sending.tend()
        self._tend_lone()
        self._send_again()
        self._tell()

    def stream(self, rows: Sequence[OutboxRow]) -> None:
        """Queue rows; what finds no room waits for it in ``streamed``."""
        self._stream = self._stream or KafkaStream(self._config, hurries=self._hurries)
        self._stream.send(rows)

    def streamed(self, timeout: float) -> Failures | None:
        """Wait for all that was streamed."""
        return [] if self._stream is None else self._stream.wait(timeout)

    def give_up(self) -> Failures:
        """Drop what is being streamed."""
        return [] if self._stream is None else self._stream.give_up()

    def close(self, timeout: float) -> None:
        """Wait for what is under way, then drop it; ``done`` hears of both."""
        self._sending.flush(timeout)
        for sending in (self._sending, self._lone):
            if sending is not None:
                sending.drop()
        if self._stream is not None:
            self._stream.close(timeout)
        self._finished.extend((sent.done, SendError("not sent again", permanent=False)) for sent in self._again)
        self._tell()

    def _send(self, sent: _Sent) -> None:
        sending = self._sending_for(sent.topic)
        answer = partial(self._answered, sent, sending)
        error = sending.send(sent.topic, sent.key, sent.value, sent.headers, answer)
        if error is not None:
            self._finished.append((sent.done, error))

    def _sending_for(self, topic: str) -> Sending:
        if topic not in self._narrow:
            return self._sending
        if self._lone is None:
            self._lone = Sending(self._config, self._config.lone())
        return self._lone

    def _answered(self, sent: _Sent, by: Sending, error: KafkaError | None, _: Message[Any, Any]) -> None:
        if error is None:
            by.heard()
            self._finished.append((sent.done, None))
        elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE and by is self._sending:
            self._again.append(sent)
        else:
            self._finished.append((sent.done, by.error(error, sent.topic)))

    def _tend_lone(self) -> None:
        """After a while without a refusal, the topics are given whole batches again: they may take more by now."""
        if self._lone is None:
            return
        self._lone.tend()
        if not len(self._lone) and time.monotonic() >= self._narrow_until:
            self._lone, self._narrow = None, set()

    def _send_again(self) -> None:
        again, self._again = self._again, []
        self._narrow |= {sent.topic for sent in again}
        if again:
            self._narrow_until = time.monotonic() + NARROW_SECONDS
            topics = ", ".join(sorted({sent.topic for sent in again}))
            self._sending.trouble(
                f"{topics}: batches are refused as too large and sent again message by message; raise "
                "max.message.bytes of the topic, or set batch.size in KAFKASAGA_KAFKA below it"
            )
        for sent in again:
            self._send(sent)

    def _tell(self) -> None:
        while self._finished:
            done, error = self._finished.popleft()
            done(error)
