"""Kafka: what a command opens on a cluster. Each part has its own module; `kafka_client` names the library."""

from typing import Literal

from pipeline.connectors.connection import Connection, GroupOptions, transactional_id
from pipeline.connectors.kafka_feedback import KafkaFeedback
from pipeline.connectors.kafka_history import KafkaLog, history
from pipeline.connectors.kafka_publisher import KafkaPublisher
from pipeline.connectors.kafka_source import KafkaSource
from pipeline.connectors.kafka_topics import KafkaCluster
from pipeline.connectors.kafka_transactions import KafkaTransactions, refuses_zombies
from pipeline.delivery import AtLeastOnce
from pipeline.protocols import Delivery

__all__ = [
    "KafkaCluster",
    "KafkaFeedback",
    "KafkaLog",
    "KafkaPublisher",
    "KafkaSource",
    "KafkaTransactions",
    "history",
    "open_delivery",
    "refuses_zombies",
]


def open_delivery(
    way: Literal["at_least_once", "exactly_once"],
    connection: Connection,
    group: GroupOptions,
    source: KafkaSource,
    timeout_s: float = 30.0,
) -> Delivery:
    """Return the way of delivery that `kafka.delivery` names, for a member of a group.

    Raises:
        TransientError: the broker does not answer.
    """
    if way == "exactly_once":
        name = transactional_id(group.group_id, group.instance_id)
        return KafkaTransactions(connection, source, name, timeout_s)
    return AtLeastOnce(KafkaPublisher(connection, timeout_s), source)
