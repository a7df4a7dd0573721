"""What a poll waits for behind its first record."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import pytest
from confluent_kafka import KafkaException

from kafkasaga.kafka.consumer import PARTS, take_while_they_come

LIMIT, SECONDS = 20, 4.0
RECORD, END_OF_PARTITION = None, "the end of a partition"


class Client:
    """What comes in each part of the moment, by the errors of the messages; then an outage."""

    def __init__(self, *parts: Sequence[str | None]) -> None:
        self._parts = list(parts)
        self.asked: list[tuple[int, float]] = []

    def consume(self, count: int, seconds: float) -> list[Any]:
        self.asked.append((count, seconds))
        if not self._parts:
            raise KafkaException("the broker went away")
        return [Message(error) for error in self._parts.pop(0)]


class Message:
    def __init__(self, error: str | None) -> None:
        self._error = error

    def error(self) -> str | None:
        return self._error


def gathered(client: Client) -> list[Any]:
    messages: list[Any] = [Message(RECORD)]
    take_while_they_come(client.consume, messages, LIMIT, SECONDS)
    return messages


def test_the_moment_ends_with_the_first_part_that_brings_nothing() -> None:
    client = Client([RECORD, RECORD], [RECORD], [])
    assert len(gathered(client)) == 4
    assert client.asked == [(19, 1.0), (17, 1.0), (16, 1.0)]


def test_the_end_of_a_partition_is_nothing_that_comes_but_is_kept() -> None:
    assert len(gathered(Client([END_OF_PARTITION]))) == 2


def test_the_end_of_a_partition_behind_a_record_does_not_hide_it() -> None:
    client = Client([RECORD, END_OF_PARTITION], [END_OF_PARTITION, RECORD], [])
    assert len(gathered(client)) == 5
    assert len(client.asked) == 3


@pytest.mark.parametrize("milliseconds", [0.2, 1, 3, 7, 100])
def test_no_part_is_so_short_that_it_is_none(milliseconds: float) -> None:
    """Of a timeout the binding takes whole milliseconds."""
    client = Client(*[[RECORD]] * (PARTS + 1))
    take_while_they_come(client.consume, [], LIMIT, milliseconds / 1000)
    parts = [round(seconds * 1000, 6) for _, seconds in client.asked]
    assert all(part == int(part) and part >= 1 for part in parts)
    assert sum(parts) == ceil(milliseconds)


def test_the_moment_is_as_long_as_it_was_to_be_at_most() -> None:
    client = Client(*[[RECORD]] * (PARTS + 1))
    assert len(gathered(client)) == 1 + PARTS
    assert sum(seconds for _, seconds in client.asked) == SECONDS


def test_the_moment_ends_with_a_full_batch() -> None:
    client = Client([RECORD] * (LIMIT - 1))
    assert len(gathered(client)) == LIMIT
    assert len(client.asked) == 1


def test_what_came_before_an_outage_is_kept() -> None:
    messages: list[Any] = [Message(RECORD)]
    with pytest.raises(KafkaException):
        take_while_they_come(Client([RECORD]).consume, messages, LIMIT, SECONDS)
    assert len(messages) == 2
