"""Which failures of a send are for good."""

import pytest
from confluent_kafka import KafkaError

from kafkasaga.kafka.failures import PERMANENT, send_error


@pytest.mark.parametrize("code", sorted(PERMANENT))
def test_failures_in_the_table_are_for_good_and_say_why(code: int) -> None:
    error = send_error(KafkaError(code), "orders")
    assert error.permanent
    assert error.reason.startswith(f"orders: {PERMANENT[code]} (")


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._MSG_TIMED_OUT,
        KafkaError._PURGE_QUEUE,
        KafkaError._FATAL,
        KafkaError._TRANSPORT,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN,
    ],
)
def test_everything_else_is_tried_again(code: int) -> None:
    assert not send_error(KafkaError(code), "orders").permanent


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "topic"),
        (KafkaError._UNKNOWN_TOPIC, "topic"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "topic"),
        (KafkaError.MSG_SIZE_TOO_LARGE, "message"),
        (KafkaError.INVALID_RECORD, "message"),
        (KafkaError._MSG_TIMED_OUT, "message"),
    ],
)
def test_a10_a_failure_of_the_topic_is_told_from_one_of_the_message(code: int, scope: str) -> None:
    assert send_error(KafkaError(code), "orders").scope == scope
