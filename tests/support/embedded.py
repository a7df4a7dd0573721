"""librdkafka's mock cluster: the Kafka protocol on loopback without Kafka.

It creates a topic at the first metadata request for it, keeps about 5 MB a partition, and lives as long as its
producer.
"""

from confluent_kafka import Producer

START_SECONDS = 10.0
PARTITIONS = 4  # of every topic; librdkafka offers no way to ask for another number


class MockCluster:
    """A mock cluster of one broker; it ends with the object."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._producer.list_topics(timeout=START_SECONDS).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def create_topics(self, *names: str, partitions: int = PARTITIONS) -> None:
        """Create topics by asking for them, which is the only way here."""
        if partitions != PARTITIONS:
            raise ValueError(f"a mock cluster's topics have {PARTITIONS} partitions, not {partitions}")
        for name in names:
            self._producer.list_topics(name, timeout=START_SECONDS)
