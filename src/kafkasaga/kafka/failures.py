"""What the failures of a send mean for the message.

Permanent: the same bytes to the same topic will fail again until a person changes something. Everything that is not in
the table is taken to pass, because it is safe: a message that is sent again and again is seen, one given up is not.
"""

# ruff: noqa: SLF001 - librdkafka gives the errors of its own making names that begin with an underscore

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaError

from kafkasaga.ports import SendError

PERMANENT: Final[Mapping[int, str]] = {
    # The record as it is.
    KafkaError.MSG_SIZE_TOO_LARGE: "larger than message.max.bytes here or max.message.bytes of the topic",
    KafkaError.INVALID_MSG_SIZE: "its size is not valid",
    KafkaError.INVALID_MSG: "the broker says that it is corrupt",
    KafkaError.INVALID_RECORD: "the broker's validation refused it (a compacted topic without a key, a schema check)",
    KafkaError.INVALID_TIMESTAMP: "its time stamp is outside what the topic accepts",
    KafkaError.POLICY_VIOLATION: "a policy of the broker refused it",
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT: "the topic's message format does not have headers",
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE: "the topic does not take this compression",
    KafkaError._INVALID_ARG: "librdkafka does not accept it",
    # Its topic.
    KafkaError.TOPIC_EXCEPTION: "the topic's name is not valid",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "the topic does not exist",
    KafkaError._UNKNOWN_TOPIC: "the topic does not exist",
    KafkaError._UNKNOWN_PARTITION: "the partition does not exist",
    # What this client may do.
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this client may not write to the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "this client may not write idempotently",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "this client may not write idempotently",
}

TOPIC_LEVEL: Final = frozenset(
    {
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
"""Those of them that every message to the topic meets."""


def send_error(error: KafkaError, topic: str) -> SendError:
    """Why a message for ``topic`` was not delivered."""
    meaning = PERMANENT.get(error.code())
    if meaning is None:
        return SendError(f"{topic}: {error.name()}: {error.str()}", permanent=False)
    reason = f"{topic}: {meaning} ({error.name()}: {error.str()})"
    return SendError(reason, permanent=True, scope="topic" if error.code() in TOPIC_LEVEL else "message")
