"""Kafka: source, publisher, and the questions that `check`, `train` and the demo ask of a broker.

The client resets an unknown position in silence by default; here it never does. A position that is not
there, or has expired while it was read, makes the partition *gained* anew, so that the worker decides.
Rebalance callbacks run on the client's I/O thread: they only note and pause.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any, Literal

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as client_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.serializer import SerializeWrapper
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as ClientPartition

from pipeline.connectors.connection import (
    REQUEST_TIMEOUT_MS,
    Connection,
    GroupOptions,
    Topic,
    require_fast_checksums,
)
from pipeline.errors import AssignmentLost, ConfigError, DeliveryError, OffkeyError, RecordError, TransientError
from pipeline.protocols import Assignment, Message, OffsetRange, PartitionRecords, TopicPartition

logger = logging.getLogger(__name__)

_NO_MEMBER = (
    client_errors.CommitFailedError,
    client_errors.RebalanceInProgressError,
    client_errors.IllegalGenerationError,
    client_errors.UnknownMemberIdError,
)
_TOO_LARGE = (client_errors.MessageSizeTooLargeError, client_errors.RecordListTooLargeError)
_READING = {"enable_auto_commit": False, "isolation_level": "read_committed", "allow_auto_create_topics": False}
_LARGEST_REQUEST_BYTES = 64 * 1024 * 1024
# The client refuses a record with neither key nor value, which Kafka allows; a key that serialises to none passes.
_NO_KEY = object()


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of a consumer group, and the listener to its rebalances; see `pipeline.protocols.Source`."""

    def __init__(self, connection: Connection, group: GroupOptions, topics: Sequence[str]) -> None:
        """Subscribe.

        Raises:
            TransientError: the broker does not answer.
            ConfigError: a topic is not there, or there is no right to read it.
        """
        require_fast_checksums()
        self._cluster = KafkaCluster(connection)
        self._lock = threading.Lock()
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._regained: set[TopicPartition] = set()
        self._told: frozenset[TopicPartition] = frozenset()
        self._position: dict[TopicPartition, int] = {}
        self._refused: set[TopicPartition] = set()
        try:
            for topic in topics:
                self._cluster.topic(topic, "READ")
            with translated(f"Kafka at {connection.bootstrap_servers}"):
                self._consumer = KafkaConsumer(
                    **connection.options(),
                    **group.options(),
                    **_READING,
                    auto_offset_reset="none",
                    partition_assignment_strategy=[StickyPartitionAssignor],
                )
            self._consumer.subscribe(topics=list(topics), listener=self)
        except BaseException:
            self._cluster.close()
            raise

    def poll(self, timeout_s: float) -> Sequence[PartitionRecords]:
        try:
            with translated("Kafka"):
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        except client_errors.NoOffsetForPartitionError:
            # Gained just now, without a committed offset: the next `assignment` tells of it.
            return ()
        except client_errors.OffsetOutOfRangeError as error:
            expired = {TopicPartition(place.topic, place.partition) for place in error.args[0]}
            logger.error("the position of %s is no longer held by the broker", sorted(expired))
            self._refused |= expired
            with self._lock:
                self._regained |= expired
                for place in expired & self._assigned:
                    self._consumer.pause(ClientPartition(*place))
            return ()
        arrived = [PartitionRecords(TopicPartition(*place), records) for place, records in polled.items()]
        for records in arrived:
            self._position[records.partition] = records.next_offset
        return arrived

    def assignment(self) -> Assignment:
        with self._lock:
            gained = (self._assigned - self._told) | (self._regained & self._assigned)
            change = Assignment(frozenset(gained), self._told - self._assigned)
            self._told = self._assigned
            self._regained.clear()
        for place in change.lost:
            self._position.pop(place, None)
        return change

    def committed(self, partition: TopicPartition) -> int | None:
        with translated(_name(partition)):
            found: int | None = self._consumer.committed(ClientPartition(*partition), timeout_ms=REQUEST_TIMEOUT_MS)
        return found

    def offsets(self, partition: TopicPartition) -> OffsetRange:
        place = ClientPartition(*partition)
        with translated(_name(partition)):
            begin = self._consumer.beginning_offsets([place], timeout_ms=REQUEST_TIMEOUT_MS)[place]
            end = self._consumer.end_offsets([place], timeout_ms=REQUEST_TIMEOUT_MS)[place]
        if partition not in self._refused:
            # The embedded broker calls the start of its last batch the end. So a committed offset past the
            # end is believed until a fetch at it is refused.
            end = max(end, self.committed(partition) or 0)
        return OffsetRange(begin, end)

    def topic_id(self, topic: str) -> str:
        return self._cluster.topic(topic).id

    def start(self, partition: TopicPartition, offset: int) -> None:
        place = ClientPartition(*partition)
        with self._lock:
            if partition not in self._assigned or partition in self._regained:
                return  # It changed hands meanwhile: the next `assignment` says so.
            self._consumer.seek(place, offset)
            self._consumer.resume(place)
        self._position[partition] = offset

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        with self._lock:
            gone = sorted(offsets.keys() - self._assigned)
        if gone:
            # The broker would take it from any member, and set another member's progress back.
            raise AssignmentLost(f"cannot commit {', '.join(map(_name, gone))}: no longer assigned here")
        asked = {ClientPartition(*place): OffsetAndMetadata(at, "", -1) for place, at in offsets.items()}
        try:
            with translated("commit of offsets"):
                self._consumer.commit(asked, timeout_ms=REQUEST_TIMEOUT_MS)
        except _NO_MEMBER as error:
            with self._lock:
                self._regained |= set(offsets)
            raise AssignmentLost(f"the group has moved on without this member ({error})") from error

    def lag(self) -> Mapping[TopicPartition, int]:
        found: dict[TopicPartition, int] = {}
        for place, position in self._position.items():
            try:
                end = self._consumer.highwater(ClientPartition(*place))
            except (AssertionError, KeyError, client_errors.IllegalStateError):
                continue  # Lost since the last `assignment`.
            if end is not None:
                found[place] = max(end - position, 0)
        return found

    def close(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=5000)
        self._cluster.close()

    def on_partitions_assigned(self, assigned: Sequence[ClientPartition]) -> None:
        """Called on the I/O thread."""
        with self._lock:
            self._consumer.pause(*assigned)
            places = {TopicPartition(*place) for place in assigned}
            self._assigned |= places
            self._regained |= places

    def on_partitions_revoked(self, revoked: Sequence[ClientPartition]) -> None:
        """Called on the I/O thread."""
        with self._lock:
            self._assigned -= {TopicPartition(*place) for place in revoked}


class KafkaPublisher:
    """Alerts and dead letters on their way out; see `pipeline.protocols.Publisher`."""

    def __init__(self, connection: Connection, delivery_timeout_s: float = 30.0) -> None:
        require_fast_checksums()
        self._connection, self._delivery_timeout_s = connection, delivery_timeout_s
        self._sent: list[tuple[Message, Any]] = []
        self._producer: KafkaProducer | None = self._new_producer()

    def send(self, message: Message) -> None:
        key = _NO_KEY if message.key is None and message.value is None else message.key
        # Kafka allows a header without a value, which the client reads but does not write: it goes out empty.
        headers = [(name, b"" if value is None else value) for name, value in message.headers]
        with self._delivering(message):
            if self._producer is None:
                self._producer = self._new_producer()
            future = self._producer.send(message.topic, value=message.value, key=key, headers=headers)
        self._sent.append((message, future))

    def flush(self, timeout_s: float) -> None:
        sent, self._sent = self._sent, []
        if self._producer is None:
            return
        try:
            self._confirm(self._producer, sent, timeout_s)
        except OffkeyError:
            # A producer that lost a message may refuse all that follow, to keep their order: begin with a new one.
            _end(self._producer, 0)
            self._producer = None
            raise

    def close(self) -> None:
        if self._producer is not None:
            _end(self._producer, 5)

    def _new_producer(self) -> KafkaProducer:
        with translated(f"Kafka at {self._connection.bootstrap_servers}"):
            return KafkaProducer(
                **self._connection.options(),
                acks="all",
                max_request_size=_LARGEST_REQUEST_BYTES,
                delivery_timeout_ms=int(max(self._delivery_timeout_s, 11) * 1000),
                max_block_ms=REQUEST_TIMEOUT_MS,
                allow_auto_create_topics=False,
                key_serializer=SerializeWrapper(lambda key: None if key is _NO_KEY else key),
            )

    def _confirm(self, producer: KafkaProducer, sent: Sequence[tuple[Message, Any]], timeout_s: float) -> None:
        try:
            producer.flush(timeout=timeout_s)
        except client_errors.KafkaTimeoutError as error:
            for topic in {message.topic for message, _ in sent}:
                self._require_topic(topic)
            raise DeliveryError(
                f"{len(sent)} messages were not confirmed within {timeout_s:g} s; "
                f"is the broker at {self._connection.bootstrap_servers} running?"
            ) from error
        for message, future in sent:
            with self._delivering(message):
                future.get(timeout=0)

    @contextmanager
    def _delivering(self, message: Message) -> Iterator[None]:
        about, topic = f"{message.origin}: " if message.origin else "", message.topic
        try:
            yield
        except _TOO_LARGE as error:
            size = len(message.value or b"") + len(message.key or b"")
            raise RecordError(
                f"{about}{size} bytes are more than topic {topic} takes; raise its max.message.bytes, "
                "then start again"
            ) from error
        except client_errors.AuthorizationError as error:
            raise ConfigError(f"{about}no right to write to topic {topic}; grant it to this user") from error
        except (client_errors.UnknownTopicOrPartitionError, client_errors.InvalidTopicError) as error:
            raise ConfigError(f"{about}topic {topic} is not there; create it or set it under `topics`") from error
        except TransientError as error:
            raise DeliveryError(f"{about}not sent: {error}") from error
        except client_errors.KafkaTimeoutError as error:
            self._require_topic(topic)
            raise DeliveryError(
                f"{about}not confirmed by topic {topic} ({error}); "
                f"is the broker at {self._connection.bootstrap_servers} running?"
            ) from error
        except (client_errors.KafkaError, OSError, ValueError) as error:
            # ValueError: the client forgot the topic between its look-up and the choice of a partition.
            raise DeliveryError(f"{about}not confirmed by topic {topic} ({error!r})") from error

    def _require_topic(self, topic: str) -> None:
        """Tell a topic that is gone from a broker that is, which the caller reports: both only time out."""
        quick = replace(self._connection, connect_timeout_s=2.0)
        with suppress(TransientError), closing(KafkaCluster(quick)) as cluster:
            cluster.topic(topic, "WRITE")


def _end(producer: KafkaProducer, timeout_s: float) -> None:
    try:
        producer.close(timeout=timeout_s)
    except client_errors.KafkaTimeoutError:
        # With messages unsent, the client's `close` gives up before it has closed anything: abort them first.
        producer._sender.force_close()
        producer.close(timeout=5)


class KafkaCluster:
    """Questions about topics."""

    def __init__(self, connection: Connection) -> None:
        """Connect; raises TransientError where the broker does not answer."""
        with translated(f"Kafka at {connection.bootstrap_servers}"):
            self._admin = KafkaAdminClient(**connection.options())

    def topic(self, name: str, right: Literal["READ", "WRITE"] | None = None) -> Topic:
        """Return what the broker says of a topic, and of this user's `right` where it tells of rights.

        Raises:
            ConfigError: it is not there, or there is no right to see it or to do with it what is asked.
            TransientError: the broker does not answer.
        """
        with translated(f"topic {name}"):
            (found,) = self._admin.describe_topics([name])
        if found.get("error_code"):
            raise ConfigError(
                f"topic {name} is not there, or this user may not see it (Kafka error {found['error_code']}); "
                "create it, or set another one in the configuration"
            )
        allowed = found.get("authorized_operations")
        if right and allowed and right not in allowed:
            raise ConfigError(f"topic {name}: no right to {right.lower()}; grant it to this user")
        topic_id = str(found.get("topic_id") or "")
        return Topic(name, "" if set(topic_id) <= {"0", "-"} else topic_id, len(found["partitions"]))

    def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Create topics with so many partitions; those there are kept."""
        with translated("creation of topics"):
            new = sorted(partitions.keys() - set(self._admin.list_topics()))
            if new:
                self._admin.create_topics(
                    {name: {"num_partitions": partitions[name], "replication_factor": 1} for name in new}
                )

    def setting(self, topic: str, name: str) -> str | None:
        """Return a topic's setting, or None where the broker does not tell."""
        try:
            with translated(f"settings of topic {topic}"):
                described = self._admin.describe_configs(
                    [ConfigResource(ConfigResourceType.TOPIC, topic, {name: None})], config_filter="all"
                )
        except (TransientError, client_errors.KafkaError):
            return None
        (by_topic,) = described.values()
        found: str | None = by_topic[topic].get(name, {}).get("value")
        return found

    def close(self) -> None:
        self._admin.close()


def history(connection: Connection, topic: str, max_records: int) -> Iterator[PartitionRecords]:
    """Read a topic's newest retained records up to its present end, outside any group.

    `max_records` is shared out evenly; a partition gives one record at least, so that none goes unseen.

    Raises:
        TransientError: the broker stopped answering.
        ConfigError: the topic is not there, or there is no right to read it.
    """
    require_fast_checksums()
    with closing(KafkaCluster(connection)) as cluster:
        places = [ClientPartition(topic, number) for number in range(cluster.topic(topic, "READ").partitions)]
    with translated(f"topic {topic}"):
        consumer = KafkaConsumer(
            **connection.options(), **_READING, group_id=None, auto_offset_reset="earliest", max_poll_records=4000
        )
    try:
        with translated(f"topic {topic}"):
            consumer.assign(places)
            most = max(max_records // len(places), 1)
            begin, end = consumer.beginning_offsets(places), consumer.end_offsets(places)
            for place in places:
                consumer.seek(place, max(begin[place], end[place] - most))
        left = {place for place in places if end[place] > begin[place]}
        while left:
            with translated(f"topic {topic}"):
                polled = consumer.poll(timeout_ms=REQUEST_TIMEOUT_MS)
            for place, records in polled.items():
                # Whole, even past the end asked for: see `KafkaSource.offsets`.
                yield PartitionRecords(TopicPartition(*place), records)
            with translated(f"topic {topic}"):
                reached = {place for place in left if consumer.position(place) >= end[place]}
            if not polled and not reached:
                raise TransientError(f"topic {topic}: no records for {REQUEST_TIMEOUT_MS / 1000:g} s; try again")
            left -= reached
    finally:
        consumer.close()


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the client's exceptions into ours; those that a caller tells apart pass as they are."""
    try:
        yield
    except (*_NO_MEMBER, client_errors.NoOffsetForPartitionError, client_errors.OffsetOutOfRangeError):
        raise
    except client_errors.FencedInstanceIdError as error:
        raise ConfigError(f"{what}: another process has the same kafka.instance_id; give each its own") from error
    except client_errors.AuthorizationError as error:
        raise ConfigError(f"{what}: no right ({error}); grant it to this user") from error
    except (client_errors.UnknownTopicOrPartitionError, client_errors.InvalidTopicError) as error:
        raise ConfigError(f"{what}: not there; create it, or set another one in the configuration") from error
    except (client_errors.KafkaError, OSError) as error:
        text = str(error) or type(error).__name__
        raise TransientError(
            f"{what}: no answer ({text}); is the broker running, and kafka.bootstrap_servers right?"
        ) from error


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}/{partition.partition}"
