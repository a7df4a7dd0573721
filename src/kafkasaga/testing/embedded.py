"""A Kafka broker inside this process: librdkafka's mock cluster, for demos and tests.

It speaks Kafka's protocol on the loopback interface, so other processes can use it too. Consumer groups, idempotent
producers, committed offsets and transactions work. It is not a Kafka:

- everything is in memory and gone when the process ends;
- a partition keeps about 5 MB, then drops the oldest records without a word; ``check`` finds out;
- it has no CreateTopics: a topic is made when it is first asked for, with 4 partitions (``create_topics`` here can do
  more);
- static membership is accepted but does not help: a restarted member waits for its predecessor's session to end;
- a rebalance waits for the whole session timeout, so that has to be short there: use ``settings``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from confluent_kafka import Producer, cimpl

from kafkasaga.errors import BrokerUnavailable, KafkasagaError
from kafkasaga.kafka import Topics, create_topics

START_SECONDS: Final = 10.0
PARTITIONS: Final = 4


class RecordsDropped(KafkasagaError, AssertionError):
    """The embedded broker has dropped records that were sent to it."""


class EmbeddedKafka:
    """The embedded broker, as a context manager.

    ::

        with EmbeddedKafka() as broker:
            settings = Settings.load(bootstrap_servers=broker.bootstrap_servers, kafka=broker.kafka)

    Leaving the block checks that nothing was dropped, and stops the broker.
    """

    instance_id = None

    def __init__(self) -> None:
        self._cluster: _Cluster = _TunedCluster() if _TunedCluster.possible() else _PlainCluster()
        self.bootstrap_servers: str = self._cluster.bootstrap_servers
        self.kafka: dict[str, Any] = {
            # A fetch that finds nothing waits this long, whatever arrives meanwhile: it is the latency of a message.
            "fetch.wait.max.ms": 5,
            # A rebalance lasts one second less than the session.
            "session.timeout.ms": self._cluster.session_timeout_ms,
            "heartbeat.interval.ms": 200,
            "auto.commit.interval.ms": 100,
        }
        """What its clients should give librdkafka (``KAFKASAGA_KAFKA``)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.check()
        finally:
            self.close()

    def create_topics(self, names: Iterable[str], *, partitions: int = PARTITIONS) -> None:
        """Make topics; one that exists is left as it is."""
        for name in sorted(set(names) - set(Topics(self).existing())):
            self._cluster.create_topic(name, partitions)
        create_topics(self, sorted(set(names)))

    def check(self) -> None:
        """Raises ``RecordsDropped`` if a partition does not have all that was sent to it any more."""
        topics = Topics(self)
        dropped = {place: start for place, start in topics.starts(topics.existing()).items() if start > 0}
        if dropped:
            places = ", ".join(
                f"{topic}[{partition}]: {count}" for (topic, partition), count in sorted(dropped.items())
            )
            raise RecordsDropped(
                f"the embedded broker keeps about 5 MB a partition and has dropped records ({places}), perhaps "
                "before they were read: send less, use more partitions, or use a real Kafka"
            )

    def close(self) -> None:
        """Stop it; what it held is gone."""
        self._cluster.close()


class _Cluster(Protocol):
    bootstrap_servers: str
    session_timeout_ms: int

    def create_topic(self, name: str, partitions: int) -> None: ...
    def close(self) -> None: ...


class _PlainCluster:
    """By the Python client's own means: the first join of a group takes 3 seconds, topics have 4 partitions."""

    session_timeout_ms = 6_000  # a member whose session is shorter than the first join never gets in

    def __init__(self) -> None:
        self._producer: Producer | None = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._producer.list_topics(timeout=START_SECONDS).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def create_topic(self, name: str, partitions: int) -> None:
        """It makes topics by itself when asked for them."""

    def close(self) -> None:
        self._producer = None


class _TunedCluster:
    """By librdkafka's own functions (``rdkafka_mock.h``), where the installed client lets them be called."""

    session_timeout_ms = 3_000

    def __init__(self) -> None:
        self._lib = lib = ctypes.CDLL(cimpl.__file__)
        for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_handle_mock_cluster"):
            getattr(lib, function).restype = ctypes.c_void_p
        lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        text = ctypes.create_string_buffer(512)
        conf = ctypes.c_void_p(lib.rd_kafka_conf_new())
        for name, value in ((b"test.mock.num.brokers", b"1"), (b"log_level", b"0")):
            lib.rd_kafka_conf_set(conf, name, value, text, ctypes.c_size_t(len(text)))
        producer = 0  # RD_KAFKA_PRODUCER
        self._client = ctypes.c_void_p(lib.rd_kafka_new(producer, conf, text, ctypes.c_size_t(len(text))))
        if self._client.value is None:
            raise BrokerUnavailable(f"the embedded broker did not start: {text.value.decode()}")
        self._mock = ctypes.c_void_p(lib.rd_kafka_handle_mock_cluster(self._client))
        lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._mock, ctypes.c_int32(0))
        self.bootstrap_servers = str(lib.rd_kafka_mock_cluster_bootstraps(self._mock).decode())

    @staticmethod
    def possible() -> bool:
        return hasattr(ctypes.CDLL(cimpl.__file__), "rd_kafka_mock_group_initial_rebalance_delay_ms")

    def create_topic(self, name: str, partitions: int) -> None:
        self._lib.rd_kafka_mock_topic_create(self._mock, name.encode(), ctypes.c_int(partitions), ctypes.c_int(1))

    def close(self) -> None:
        if self._client.value is not None:
            self._lib.rd_kafka_destroy(self._client)
            self._client = ctypes.c_void_p(None)
