"""A producer that leaves no gaps: of the messages of one key, none arrives behind one that did not.

One failure therefore ends it, and everything that it still held is reported as not delivered; a new one takes its
place. See ADR 19 for what librdkafka and the broker do for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message

from kafkasaga.kafka.config import KafkaConfig
from kafkasaga.kafka.link import code_of
from kafkasaga.kafka.sending import Sending, too_large
from kafkasaga.ports import Failures, OutboxRow, SendError, read_headers

MOST_KNOWN: Final = 50_000
"""Keys that are remembered; then they are all forgotten."""
KNOWN_SECONDS: Final = 600.0
"""And after this time: a broker forgets a producer that was silent for long, by default for a day."""

Lane = tuple[str, str]
_Report = tuple[str, str, bytes]
"""Topic, key and value of a message."""


class KafkaStream:
    """One thread's. What is not among the failures has arrived, once nothing is under way.

    librdkafka's own time-out of a message would leave a gap. So all that is streamed together is given up together
    after that time, also what has arrived, perhaps with a time stamp that its topic's retention finds too old (A17).

    A broker that has no message of a producer in a partition accepts a batch whose predecessor it has just refused: it
    has no sequence number to compare with. So of a key from which this producer has no answer yet, one message goes
    first, and what follows it waits for its answer.
    """

    def __init__(self, config: KafkaConfig, *, hurries: bool) -> None:
        # A call into Python for each message that arrived would cost as much as sending it; and so would a callback of
        # its own for each message, which would know its row.
        told = {"delivery.report.only.error": True, "on_delivery": self._failed}
        self._sending = Sending(config, config.stream() | told, expendable=True)
        self._hurries = hurries
        self._seconds = config.message_seconds
        self._until = 0.0
        self._is_late = False
        self._known: set[Lane] = set()
        self._known_until = 0.0
        self._first: set[Lane] = set()
        self._sent: list[OutboxRow] = []
        """Since the last answer."""
        self._later: list[OutboxRow] = []
        self._failures: list[tuple[OutboxRow, SendError]] = []
        self._reports: dict[_Report, SendError] = {}
        """What librdkafka says of messages; of which rows they are is found out when all is known."""
        self._broken: dict[Lane, str] = {}
        """The lanes of which something failed, and why."""
        self._ended = False

    def send(self, rows: Sequence[OutboxRow]) -> None:
        """Queue rows in order."""
        if time.monotonic() > self._known_until or len(self._known) > MOST_KNOWN:
            self._known, self._known_until = set(), time.monotonic() + KNOWN_SECONDS
        if not self._sent:
            self._until = time.monotonic() + self._seconds
        self._sent += rows
        self._send(rows)

    def wait(self, timeout: float) -> Failures | None:
        """Wait until all is known; None if it is not yet."""
        left = self._sending.flush(timeout) if self._hurries or not timeout else self._poll(timeout)
        if self._sent and time.monotonic() >= self._until:
            self._is_late = True
            return self.give_up()
        # What is left after a failure may never be answered: the broker refuses it for its sequence number.
        over = self._ended or self._sending.is_useless
        if left and not over:
            return None
        if self._later and not over:
            self._go_on()
            return None
        return self._take_failures()

    def give_up(self) -> Failures:
        """Drop what is not answered yet. Its producer goes with it: it would leave a gap where it was."""
        self._ended = True
        return self._take_failures()

    def close(self, timeout: float) -> None:
        """Wait for what is under way, then drop it."""
        self._sending.flush(timeout)
        self._sending.drop()

    def _send(self, rows: Sequence[OutboxRow]) -> None:
        """Behind one that is refused at once, none of its lane."""
        produce, broken, known, first = self._sending.produce, self._broken, self._known, self._first
        for at, row in enumerate(rows):
            _, _, topic, key, payload, header_text = row
            lane = topic, key
            if broken and lane in broken:
                self._fail(row, SendError(f"behind one that was not sent: {broken[lane]}", permanent=False))
                continue
            if lane not in known:
                if lane in first:
                    self._later.append(row)
                    continue
                first.add(lane)
            try:
                produce(topic, payload, key, headers=read_headers(header_text))
            except BufferError:
                if len(self._sending):
                    self._later += rows[at:]  # when there is room again
                    return
                self._fail(row, too_large(topic))
            except KafkaException as error:
                self._fail(row, self._sending.error(code_of(error), topic))

    def _go_on(self) -> None:
        """Everything has arrived; what waited for that follows."""
        self._known |= self._first - self._broken.keys()
        later, self._later = self._later, []
        self._first.clear()
        self._send(later)

    def _poll(self, timeout: float) -> int:
        """As the user's own linger has it."""
        if len(self._sending):
            self._sending.poll(timeout)
        return len(self._sending)

    def _failed(self, error: KafkaError | None, message: Message[Any, Any]) -> None:
        if error is not None:
            self._ended = True
            topic, key = message.topic() or "", (message.key() or b"").decode()
            failure = self._reports[topic, key, message.value() or b""] = self._sending.error(error, topic)
            self._broken.setdefault((topic, key), failure.reason)

    def _fail(self, row: OutboxRow, error: SendError) -> None:
        self._failures.append((row, error))
        self._broken.setdefault((row.topic, row.key), error.reason)

    def _take_failures(self) -> Failures:
        if self._sending.mend():
            self._known.clear()
        elif self._ended:
            self._sending.replace("what was streamed has not all arrived")
            self._known.clear()
        else:
            self._known |= self._first - self._broken.keys()
        for row in self._later:
            self._fail(row, SendError(f"{row.topic}: the stream ended before it", permanent=False))
        self._fail_reported()
        if self._is_late:
            self._fail_all_else("it was not answered for within message.timeout.ms")
        elif self._sending.unanswered:
            # Nothing heard of a message means that it arrived only where its client has answered for all (I2).
            self._fail_all_else("nobody knows whether it arrived")
        failures, self._failures = self._failures, []
        self._sent, self._later, self._ended, self._is_late = [], [], False, False
        self._sending.unanswered = False
        self._first.clear()
        self._broken.clear()
        return failures

    def _fail_reported(self) -> None:
        """Where several messages of a key are the same, all of them: it may repeat one, and loses none (I2)."""
        known = {row.id for row, _ in self._failures}
        for row in self._sent if self._reports else ():
            report = self._reports.get((row.topic, row.key, row.payload or b""))
            if report is not None and row.id not in known:
                self._fail(row, report)
        self._reports.clear()

    def _fail_all_else(self, why: str) -> None:
        known = {row.id for row, _ in self._failures}
        for row in self._sent:
            if row.id not in known:
                self._fail(row, SendError(f"{row.topic}: {why}", permanent=False))
