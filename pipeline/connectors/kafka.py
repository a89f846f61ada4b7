"""Kafka: what a command opens on a cluster. Each part has its own module; `kafka_client` names the library."""

from pipeline.connectors.kafka_history import history
from pipeline.connectors.kafka_publisher import KafkaPublisher
from pipeline.connectors.kafka_source import KafkaSource
from pipeline.connectors.kafka_topics import KafkaCluster
from pipeline.connectors.kafka_transactions import KafkaTransactions

__all__ = ["KafkaCluster", "KafkaPublisher", "KafkaSource", "KafkaTransactions", "history"]
