"""Kafka CARRIES: the only place that knows confluent-kafka."""

from kafkasaga.kafka.config import KafkaConfig, KafkaSettings
from kafkasaga.kafka.consumer import KafkaConsumer
from kafkasaga.kafka.producer import KafkaProducer
from kafkasaga.kafka.topics import Topics, create_topics, missing_topics

__all__ = [
    "KafkaConfig",
    "KafkaConsumer",
    "KafkaProducer",
    "KafkaSettings",
    "Topics",
    "create_topics",
    "missing_topics",
]
