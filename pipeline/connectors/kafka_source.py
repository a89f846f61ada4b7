"""Records as one member of a consumer group reads them.

The client resets an unknown position in silence by default; here it never does. A position that is not
there, or has expired while it was read, makes the partition *gained* anew, so that the worker decides.
Rebalance callbacks run on the client's I/O thread: they only note and pause.

Memory: the client fetches for polls alone. While nobody polls, because alerts or storage are slow, it holds what is
left of one answer of each broker and one answer more, of `fetch_max_bytes` each, or of one producer's batch where
that is larger.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

from pipeline.connectors.connection import REQUEST_TIMEOUT_MS, Connection, GroupOptions, require_fast_checksums
from pipeline.connectors.kafka_client import (
    NO_MEMBER,
    READING,
    ClientPartition,
    ConsumerGroupMetadata,
    ConsumerRebalanceListener,
    KafkaConsumer,
    OffsetAndMetadata,
    StickyPartitionAssignor,
    client_errors,
    translated,
)
from pipeline.connectors.kafka_contact import client_options
from pipeline.connectors.kafka_topics import KafkaCluster
from pipeline.connectors.poll_size import PollSize
from pipeline.errors import AssignmentLost, ConfigError
from pipeline.protocols import Assignment, OffsetRange, PartitionRecords, TopicPartition

logger = logging.getLogger(__name__)


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
        self._read = ", ".join(topics)
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._regained: set[TopicPartition] = set()
        self._told: frozenset[TopicPartition] = frozenset()
        self._position: dict[TopicPartition, int] = {}
        self._refused: set[TopicPartition] = set()
        self._has_assignment = False
        self._most_records = group.max_poll_records
        self._size = PollSize(group.max_poll_records, group.max_poll_bytes)
        try:
            for topic in topics:
                self._cluster.topic(topic, "READ")
            with translated(f"Kafka at {connection.bootstrap_servers}"):
                self._consumer = KafkaConsumer(
                    **client_options(connection),
                    **group.options(),
                    **READING,
                    auto_offset_reset="none",
                    partition_assignment_strategy=[StickyPartitionAssignor],
                )
            self._consumer.subscribe(topics=list(topics), listener=self)
        except BaseException:
            self._cluster.close()
            raise

    def poll(self, timeout_s: float) -> Sequence[PartitionRecords]:
        self._require_unfenced()
        group = self._consumer._coordinator
        if group.rebalance_in_progress() and not group.need_rejoin():
            # When two members join at once, the client may forget that it is joining, and wait for ever.
            group.request_rejoin()
        try:
            with translated(f"reading {self._read}"):
                polled = self._consumer.poll(int(timeout_s * 1000), self._size.records)
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
        self._size.note(arrived)
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
        place = ClientPartition(*partition)
        # A poll that ends while the client asks for the same leaves the answer there for whoever asks next, however
        # late that is: what was committed since would be missing.
        self._consumer._coordinator._offset_fetch_futures.pop(frozenset([place]), None)
        with translated(str(partition)):
            found: int | None = self._consumer.committed(place, timeout_ms=REQUEST_TIMEOUT_MS)
        return found

    def offsets(self, partition: TopicPartition) -> OffsetRange:
        place = ClientPartition(*partition)
        with translated(str(partition)):
            begin = self._consumer.beginning_offsets([place], timeout_ms=REQUEST_TIMEOUT_MS)[place]
            end = self._consumer.end_offsets([place], timeout_ms=REQUEST_TIMEOUT_MS)[place]
        if partition not in self._refused:
            # The embedded broker calls the start of its last batch the end. So a committed offset past the
            # end is believed until a fetch at it is refused.
            end = max(end, self.committed(partition) or 0)
        return OffsetRange(begin, end)

    def most_records(self) -> int:
        return self._most_records

    def topic_id(self, topic: str) -> str:
        return self._cluster.topic(topic).id

    def partition_count(self, topic: str) -> int:
        return self._cluster.topic(topic).partitions

    def joined(self) -> bool:
        group = self._consumer._coordinator
        return self._has_assignment and group.generation_if_stable() is not None and not group.coordinator_unknown()

    def start(self, partition: TopicPartition, offset: int) -> None:
        place = ClientPartition(*partition)
        with self._lock:
            if partition not in self._assigned or partition in self._regained:
                return  # It changed hands meanwhile: the next `assignment` says so.
            self._consumer.seek(place, offset)
            self._consumer.resume(place)
        self._position[partition] = offset

    def pause(self, partition: TopicPartition) -> None:
        with self._lock:
            if partition in self._assigned:
                self._consumer.pause(ClientPartition(*partition))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._require_assigned(offsets)
        try:
            with translated("commit of offsets"):
                self._consumer.commit(as_client(offsets), timeout_ms=REQUEST_TIMEOUT_MS)
        except NO_MEMBER as error:
            raise self._left_behind(offsets, str(error)) from error

    def membership(self, partitions: Iterable[TopicPartition]) -> ConsumerGroupMetadata:
        """Return by what the broker tells this member, for so long as these partitions are its own, from a zombie.

        Raises:
            AssignmentLost: a partition is not, or was someone else's since it was polled.
        """
        # In this order: a rebalance that has given the member a new generation has changed the assignment before.
        found = self._consumer.group_metadata()
        self._require_assigned(partitions)
        if found.generation_id < 0:
            # A heartbeat was told so, as of a process that slept. Without a generation the broker takes the offsets
            # of a transaction from anybody, for old clients know none.
            raise self._left_behind(partitions, "it is no member any more")
        return found

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

    def close(self, timeout_s: float = 5.0) -> None:
        self._consumer.close(autocommit=False, timeout_ms=int(timeout_s * 1000))
        self._cluster.close()

    def _require_unfenced(self) -> None:
        """See that no other process has our instance id: the client stops its heartbeats then, and reads on.

        It tells nobody before a commit; until then both would publish.
        """
        group = self._consumer._coordinator
        with group._lock:
            fenced = group.stable() and not group.rejoining and not group._heartbeat_enabled
        if fenced:
            raise ConfigError("another process has the same kafka.instance_id; give each its own")

    def _left_behind(self, partitions: Iterable[TopicPartition], why: str) -> AssignmentLost:
        """Take note that others may have had partitions, though the client has not heard yet that they are gone."""
        with self._lock:
            self._regained |= set(partitions)
        return AssignmentLost(f"the group has moved on without this member ({why})")

    def _require_assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """The broker would take a commit from any member, and set another member's progress back."""
        with self._lock:
            gone = sorted(set(partitions) - (self._assigned - self._regained))
        if gone:
            raise AssignmentLost(f"cannot commit {', '.join(map(str, gone))}: no longer assigned here")

    def on_partitions_assigned(self, assigned: Sequence[ClientPartition]) -> None:
        """Called on the I/O thread."""
        with self._lock:
            self._consumer.pause(*assigned)
            places = {TopicPartition(*place) for place in assigned}
            self._assigned |= places
            self._regained |= places
            self._has_assignment = True

    def on_partitions_revoked(self, revoked: Sequence[ClientPartition]) -> None:
        """Called on the I/O thread."""
        with self._lock:
            self._assigned -= {TopicPartition(*place) for place in revoked}
            self._has_assignment = False


def as_client(offsets: Mapping[TopicPartition, int]) -> dict[ClientPartition, OffsetAndMetadata]:
    """Return offsets to commit as the client takes them."""
    return {ClientPartition(*place): OffsetAndMetadata(at, "", -1) for place, at in offsets.items()}
