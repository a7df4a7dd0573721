"""A client that librdkafka has left without any broker.

When brokers name none for a moment (a broker that was frozen, or too busy to tell its controller that it lives),
librdkafka (2.16) can forget all that it knew, and then waits for ever: no connection, no attempt at one, and no error.
So a client from which nothing was heard for a while is asked whether it has a connection; if it has none, and a new
client gets an answer, it has to be replaced. A broker that keeps its connection and takes its time is no reason.
"""

# ruff: noqa: SLF001 - librdkafka gives the errors of its own making names that begin with an underscore

from __future__ import annotations

import time
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from kafkasaga.kafka.link import Link, code_of

PATIENCE_SECONDS: Final = 10.0
"""Without a sign of life; then a client is asked, and as often again."""
ANSWER_SECONDS: Final = 2.0
"""For a broker that is there to answer."""


class Silence:
    """Watches over one client."""

    def __init__(self, link: Link) -> None:
        self._config = link.config
        self._since = time.monotonic()

    def broken(self) -> None:
        """There was a sign of life."""
        self._since = time.monotonic()

    def is_for_ever(self, client: Any) -> bool:
        """Whether the client has no broker, though there is one; asks only if it has been silent for a while."""
        if time.monotonic() < self._since + PATIENCE_SECONDS:
            return False
        deaf = _has_no_broker(client) and self._there_is_one()
        self._since = time.monotonic()
        return deaf

    def _there_is_one(self) -> bool:
        # Not by the client's own link: what another one says of itself is not to be taken for its fate.
        return _failure(Link(self._config, "admin").open(AdminClient, self._config.admin())) is None


def _has_no_broker(client: Any) -> bool:
    """The question waits for a connection first; one that is open and silent lets it time out instead."""
    failure = _failure(client)
    return failure is not None and failure.code() == KafkaError._TRANSPORT


def _failure(client: Any) -> KafkaError | None:
    try:
        client.list_topics(timeout=ANSWER_SECONDS)
    except KafkaException as error:
        return code_of(error)
    return None
