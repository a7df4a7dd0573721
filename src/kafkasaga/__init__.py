"""Sagas over Apache Kafka."""
