"""A relay that is fast and wrong has failed: the check sees each way of being wrong."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest
from confluent_kafka import Producer

from benchmarks.harness.figures import WrongResult
from benchmarks.harness.machine import Machine
from benchmarks.ours.relayed import TOPIC
from benchmarks.workloads.relay import KEYS, Starts, check_relayed, messages
from kafkasaga.testing import EmbeddedKafka
from tests.support import KafkaServer, PostgresServer

ROWS = 2 * KEYS + 2  # three of the first two accounts, two of the others


@pytest.fixture
def machine(embedded_kafka: EmbeddedKafka, tmp_path: Path) -> Machine:
    """Its PostgreSQL is not started."""
    machine = Machine(PostgresServer(), cast(KafkaServer, embedded_kafka), tmp_path)
    machine.topics(TOPIC)
    return machine


@pytest.fixture
def starts(machine: Machine) -> Starts:
    """Something lies there from earlier."""
    publish(machine, range(KEYS))
    return machine.ends(TOPIC)


def publish(machine: Machine, orders: Iterable[int], *, moved: int | None = None, key: bytes | None = None) -> None:
    """As a relay does; one may go to another partition than its account's others, or under another key."""
    producer = Producer({"bootstrap.servers": machine.bootstrap_servers, "enable.idempotence": True})
    rows = {message.order: message for _, message in messages(0, ROWS, 200)}
    for order in orders:
        message = rows[order]
        partition = (usual_partition(message.account) + (order == moved)) % 6
        producer.produce(TOPIC, message.model_dump_json(), key or message.account.encode(), partition)
    producer.flush(30)


def usual_partition(account: str) -> int:
    return int(account.removeprefix("account-")) % 6


def test_every_row_once_and_in_order_passes(machine: Machine, starts: Starts) -> None:
    publish(machine, range(ROWS))
    assert check_relayed(machine, starts, ROWS) == 0


def test_a_lost_row_is_seen(machine: Machine, starts: Starts) -> None:
    publish(machine, [order for order in range(ROWS) if order != 2 * KEYS])
    with pytest.raises(WrongResult, match=f"messages in Kafka: {ROWS - 1}, expected {ROWS}"):
        check_relayed(machine, starts, ROWS)


def test_a_row_that_came_twice_is_seen_also_without_order(machine: Machine, starts: Starts) -> None:
    publish(machine, [*range(ROWS), 5])
    with pytest.raises(WrongResult, match="account-5: 0 came after 1"):
        check_relayed(machine, starts, ROWS)
    with pytest.raises(WrongResult, match=f"messages in Kafka: {ROWS + 1}, expected {ROWS}"):
        check_relayed(machine, starts, ROWS, in_order=False)


def test_a_row_that_came_twice_instead_of_another_is_seen(machine: Machine, starts: Starts) -> None:
    publish(machine, [*range(ROWS - 1), 5])
    with pytest.raises(WrongResult, match=f"different messages in Kafka: {ROWS - 1}, expected {ROWS}"):
        check_relayed(machine, starts, ROWS, in_order=False)


def test_rows_out_of_order_are_seen_or_counted(machine: Machine, starts: Starts) -> None:
    publish(machine, [2 * KEYS, 2 * KEYS + 1, *range(2 * KEYS)])
    with pytest.raises(WrongResult, match=r"account-[01]: 0 came after 2"):  # whose partition is read first
        check_relayed(machine, starts, ROWS)
    assert check_relayed(machine, starts, ROWS, in_order=False) == 4


def test_an_account_in_two_partitions_is_seen(machine: Machine, starts: Starts) -> None:
    publish(machine, range(ROWS), moved=2 * KEYS)
    with pytest.raises(WrongResult, match="account-0 is in two partitions"):
        check_relayed(machine, starts, ROWS, in_order=False)


def test_another_key_is_seen(machine: Machine, starts: Starts) -> None:
    publish(machine, range(ROWS), key=b"another")
    with pytest.raises(WrongResult, match="key: b'another', expected b'account-"):
        check_relayed(machine, starts, ROWS)
