"""Apache Kafka for the tests: its jars by Maven, one broker in KRaft mode."""

from tests.support.kafka.server import KafkaServer

__all__ = ["KafkaServer"]
