"""A client that librdkafka has left without any broker.

When brokers name none for a moment (a broker that was frozen, or too busy to tell its controller that it lives),
librdkafka (2.16) can forget all that it knew, and then waits for ever: no connection, no attempt at one, and no error.
The client is asked whether it still gets an answer whenever it has had nothing to do for a while; if it does not, and a
new client does, it has to be replaced.
"""

from __future__ import annotations

import time
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from kafkasaga.kafka.link import Link

PATIENCE_SECONDS: Final = 10.0
"""Without a sign of life; then a client is asked, and as often again."""
ANSWER_SECONDS: Final = 2.0
"""For a broker that is there to answer."""


class Silence:
    """Watches over one client."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._since = time.monotonic()

    def broken(self) -> None:
        """There was a sign of life."""
        self._since = time.monotonic()

    def is_for_ever(self, client: Any) -> bool:
        """Whether the client gets no answer, and another one does; asks only if it has been silent for a while."""
        if time.monotonic() < self._since + PATIENCE_SECONDS:
            return False
        deaf = not _answered(client) and _answered(self._link.open(AdminClient, self._link.config.admin()))
        self._since = time.monotonic()
        return deaf


def _answered(client: Any) -> bool:
    try:
        client.list_topics(timeout=ANSWER_SECONDS)
    except KafkaException:
        return False
    return True
