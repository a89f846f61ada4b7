"""The client library, kafka-python: what offkey takes of it, and its exceptions in our words.

This is the one module that imports the library. Its classes carry no types; the modules beside this one give them
some: `kafka_source` reads as a member of a group, `kafka_history` and `kafka_feedback` outside any,
`kafka_publisher` writes, `kafka_transactions` writes and commits as one, `kafka_topics` asks about topics,
`rehearsed` unpacks what no broker has sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as client_errors
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.serializer import SerializeWrapper
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata
from kafka.structs import TopicPartition as ClientPartition

from pipeline.errors import ConfigError, TransientError

__all__ = [
    "NO_MEMBER",
    "READING",
    "ClientPartition",
    "ConfigResource",
    "ConfigResourceType",
    "ConsumerGroupMetadata",
    "ConsumerRebalanceListener",
    "FetchedRecords",
    "KafkaAdminClient",
    "KafkaConsumer",
    "KafkaProducer",
    "MemberToRemove",
    "MemoryRecords",
    "MemoryRecordsBuilder",
    "OffsetAndMetadata",
    "SerializeWrapper",
    "StickyPartitionAssignor",
    "client_errors",
    "translated",
]

FetchedRecords = Fetcher.PartitionRecords
"""What unpacks an answer of the broker to the records that a poll returns."""
NO_MEMBER = (
    client_errors.CommitFailedError,
    client_errors.RebalanceInProgressError,
    client_errors.IllegalGenerationError,
    client_errors.UnknownMemberIdError,
)
"""The group has moved on without this member."""

READING = {"enable_auto_commit": False, "isolation_level": "read_committed", "allow_auto_create_topics": False}
"""Options of every consumer."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the client's exceptions into ours; those that a caller tells apart pass as they are."""
    try:
        yield
    except (*NO_MEMBER, client_errors.NoOffsetForPartitionError, client_errors.OffsetOutOfRangeError):
        raise
    except client_errors.FencedInstanceIdError as error:
        raise ConfigError(f"{what}: another process has the same kafka.instance_id; give each its own") from error
    except client_errors.AuthorizationError as error:
        raise ConfigError(f"{what}: no right ({error}); grant it to this user") from error
    except (client_errors.UnknownTopicOrPartitionError, client_errors.InvalidTopicError) as error:
        raise ConfigError(f"{what}: not there; create it, or set another one in the configuration") from error
    except client_errors.InvalidSessionTimeoutError as error:
        raise ConfigError(
            f"{what}: the cluster does not take this kafka.session_timeout; set one between its "
            "group.min.session.timeout.ms and group.max.session.timeout.ms"
        ) from error
    except client_errors.UnsupportedCodecError as error:
        raise ConfigError(
            f"{what}: cannot be unpacked ({error}); install offkey again with its dependencies"
        ) from error
    except (client_errors.InvalidGroupIdError, client_errors.KafkaConfigurationError) as error:
        raise ConfigError(f"{what}: not taken ({error}); change what it names under `kafka`") from error
    except (client_errors.KafkaError, OSError) as error:
        text = str(error) or type(error).__name__
        raise TransientError(
            f"{what}: no answer ({text}); is the broker running, and kafka.bootstrap_servers right?"
        ) from error
