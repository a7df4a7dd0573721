"""librdkafka's mock cluster: the Kafka protocol on loopback without Kafka.

It creates a topic at the first metadata request for it, keeps about 5 MB a partition, and lives as long as its
producer.
"""

from confluent_kafka import Producer

START_SECONDS = 10.0


class MockCluster:
    """A mock cluster of one broker; it ends with the object."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._producer.list_topics(timeout=START_SECONDS).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
