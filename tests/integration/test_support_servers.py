"""The servers the tests start themselves: what was committed is there after a kill, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from sqlalchemy import create_engine, inspect

from kafkasaga.testing import EmbeddedKafka
from tests.support import KafkaServer, PostgresServer, ServerError
from tests.support.process import FIRST_PORT, LAST_PORT, free_port
from tests.support.tiers import Tier

PATIENCE = 30.0


def produce(bootstrap_servers: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    producer.produce(topic, value, partition=0)
    assert producer.flush(PATIENCE) == 0


def consume(bootstrap_servers: str, topic: str) -> bytes | None:
    """The first message of partition 0."""
    settings = {"bootstrap.servers": bootstrap_servers, "group.id": "unused", "log_level": 0}
    consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(PATIENCE)
        assert message is not None
        assert message.error() is None
        return message.value()
    finally:
        consumer.close()


def connect(server: PostgresServer) -> psycopg.Connection:
    return psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True, connect_timeout=2)


def rows(server: PostgresServer) -> list[tuple[int]]:
    with connect(server) as connection:
        return connection.execute("SELECT n FROM kept").fetchall()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie, dead but not collected by whoever inherited it, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_message_survives_killing_kafka(private_kafka: KafkaServer) -> None:
    private_kafka.create_topics(["kept"])
    produce(private_kafka.bootstrap_servers, "kept", b"still here")
    address = private_kafka.bootstrap_servers
    private_kafka.kill()
    private_kafka.start()
    assert private_kafka.bootstrap_servers == address
    assert consume(address, "kept") == b"still here"
    private_kafka.restart()
    assert consume(address, "kept") == b"still here"


def test_kafka_creates_no_topics_by_itself(kafka: KafkaServer) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    assert producer.list_topics("never.created", timeout=PATIENCE).topics["never.created"].error is not None


def test_a_row_survives_killing_postgresql(private_postgres: PostgresServer) -> None:
    with connect(private_postgres) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    private_postgres.kill()
    private_postgres.start()
    assert rows(private_postgres) == [(1,)]
    private_postgres.restart()
    assert rows(private_postgres) == [(1,)]


def test_a_frozen_postgresql_answers_nobody_until_it_is_resumed(private_postgres: PostgresServer) -> None:
    with connect(private_postgres) as connection, ThreadPoolExecutor() as threads:
        private_postgres.pause()
        answer = threads.submit(lambda: connection.execute("SELECT 1").fetchone())
        with pytest.raises(psycopg.OperationalError):
            connect(private_postgres)
        assert not answer.done()
        private_postgres.resume()
        assert answer.result(PATIENCE) == (1,)


def test_databases_are_separate_and_can_be_dropped_while_in_use(postgres: PostgresServer) -> None:
    first, second = postgres.create_database(), postgres.create_database()
    assert first != second
    with psycopg.connect(first.replace("+psycopg", "")):
        postgres.drop_database(first)
    postgres.drop_database(second)


def test_a_server_that_cannot_start_shows_its_log(postgres: PostgresServer) -> None:
    with pytest.raises(ServerError, match="no_such_setting"), PostgresServer(settings={"no_such_setting": "1"}):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_servers_and_data_are_gone_after_their_test_run_was_killed(postgres: PostgresServer) -> None:
    script = (
        "import signal\n"
        "from tests.support import PostgresServer\n"
        "server = PostgresServer(); server.start()\n"
        "print(server.pid, server.process.log.parent, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as run:
        assert run.stdout is not None
        pid, directory = run.stdout.readline().split()
        assert alive(int(pid))
        os.kill(run.pid, signal.SIGKILL)
    assert eventually(lambda: not alive(int(pid)) and not Path(directory).exists())


def test_each_broker_carries_messages(broker: EmbeddedKafka | KafkaServer, bootstrap_servers: str) -> None:
    broker.create_topics(["carried"])
    produce(bootstrap_servers, "carried", b"value")
    assert consume(bootstrap_servers, "carried") == b"value"


def test_each_database_is_empty_at_first(database_url: str) -> None:
    engine = create_engine(database_url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_markers_follow_from_fixtures(database_url: str, broker: object, request: pytest.FixtureRequest) -> None:
    database, kafka_or_mock = request.node.callspec.id.split("-")
    markers = {marker.name for marker in request.node.iter_markers()} & set(Tier)
    assert markers == {database, kafka_or_mock}


def test_ports_are_outside_the_range_of_outgoing_connections() -> None:
    assert FIRST_PORT <= free_port() <= LAST_PORT
