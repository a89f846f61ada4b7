"""Kafka: what a command opens on a cluster. Each part has its own module; `kafka_client` names the library."""

from pipeline.connectors.kafka_atomic import KafkaAtomicPublisher
from pipeline.connectors.kafka_history import KafkaLog, history
from pipeline.connectors.kafka_publisher import KafkaPublisher
from pipeline.connectors.kafka_source import KafkaSource
from pipeline.connectors.kafka_topics import KafkaCluster

__all__ = ["KafkaAtomicPublisher", "KafkaCluster", "KafkaLog", "KafkaPublisher", "KafkaSource", "history"]
