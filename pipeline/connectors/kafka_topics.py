"""Questions about a cluster's topics and groups, and the creation of topics."""

import logging
from collections.abc import Mapping
from typing import Literal

from pipeline.connectors.connection import Connection, Topic
from pipeline.connectors.kafka_client import (
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    MemberToRemove,
    client_errors,
    translated,
)
from pipeline.connectors.kafka_contact import client_options
from pipeline.errors import ConfigError, TransientError
from pipeline.protocols import TopicPartition

logger = logging.getLogger(__name__)

Right = Literal["READ", "WRITE", "DESCRIBE_CONFIGS", "DESCRIBE"]


class KafkaCluster:
    """Questions about topics and groups."""

    def __init__(self, connection: Connection) -> None:
        """Connect; raises TransientError where the broker does not answer."""
        with translated(f"Kafka at {connection.bootstrap_servers}"):
            self._admin = KafkaAdminClient(**client_options(connection))

    def topic(self, name: str, right: Right | None = None) -> Topic:
        """Return what the broker says of a topic, and of this user's `right` where it tells of rights.

        Raises:
            ConfigError: it is not there, or there is no right to see it or to do with it what is asked.
            TransientError: the broker does not answer.
        """
        with translated(f"topic {name}"):
            (found,) = self._admin.describe_topics([name])
        if found.get("error_code") == client_errors.TopicAuthorizationFailedError.errno:
            # Said of topics that are not there as well.
            raise _lacking(name, right or "DESCRIBE")
        if found.get("error_code"):
            raise ConfigError(
                f"topic {name} is not there, or this user may not see it (Kafka error {found['error_code']}); "
                "create it, or set another one in the configuration"
            )
        allowed = found.get("authorized_operations")
        if right and allowed and right not in allowed:
            raise _lacking(name, right)
        topic_id = str(found.get("topic_id") or "")
        return Topic(name, "" if set(topic_id) <= {"0", "-"} else topic_id, len(found["partitions"]))

    def has(self, name: str) -> bool:
        """Return whether this user sees a topic of that name; raises TransientError as `topic` does."""
        with translated(f"topic {name}"):
            return name in self._admin.list_topics()

    def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Create topics with so many partitions; those there are kept."""
        with translated("creation of topics"):
            new = sorted(partitions.keys() - set(self._admin.list_topics()))
            if new:
                self._admin.create_topics(
                    {name: {"num_partitions": partitions[name], "replication_factor": 1} for name in new}
                )

    def setting(self, topic: str, name: str) -> str | None:
        """Return a topic's setting, or None where the broker does not tell; to whom has no right it is said why."""
        try:
            with translated(f"settings of topic {topic}"):
                described = self._admin.describe_configs(
                    [ConfigResource(ConfigResourceType.TOPIC, topic, {name: None})], config_filter="all"
                )
        except (TransientError, client_errors.KafkaError):
            return None
        (by_topic,) = described.values()
        found: str | None = by_topic[topic].get(name, {}).get("value")
        if found is None:
            # The client passes over the broker's reason.
            try:
                self.topic(topic, "DESCRIBE_CONFIGS")
            except (ConfigError, TransientError) as error:
                logger.warning("%s is not known of %s", name, error)
        return found

    def committed(self, group: str) -> Mapping[TopicPartition, int]:
        """Return the offsets that a group has committed.

        Raises:
            ConfigError: there is no right to the group.
            TransientError: no broker answers for it, which a new cluster takes a moment for.
        """
        with translated(f"group {group}"):
            found = self._admin.list_group_offsets({group: None})[group]
        return {TopicPartition(*place): at.offset for place, at in found.items()}

    def remove_member(self, group: str, instance_id: str) -> bool:
        """Take a static member out of its group for good; return False where the group does not know it.

        Raises:
            ConfigError: there is no right to the group.
            TransientError: the broker does not answer, or does not take it.
        """
        member = MemberToRemove(group_instance_id=instance_id)
        with translated(f"group {group}"):
            (answer,) = self._admin.remove_group_members(group, [member]).values()
            if answer is client_errors.UnknownMemberIdError:
                return False
            if answer is not client_errors.NoError:
                raise answer()
        return True

    def close(self) -> None:
        self._admin.close()


def _lacking(topic: str, right: Right) -> ConfigError:
    return ConfigError(f"topic {topic}: no right to {right.lower().replace('_', ' ')}; grant it to this user")
