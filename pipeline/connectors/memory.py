"""In-memory twins of the real systems, for tests: same contracts, no I/O.

A `MemoryBroker` outlives the sources and publishers that share it, so a test can end a worker anywhere and
start another one on what the first left behind.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.objects import Stat
from pipeline.connectors.registry import StoredRegistry
from pipeline.errors import AssignmentLost, ConfigError, RecordError
from pipeline.protocols import (
    Assignment,
    Message,
    OffsetRange,
    PartitionRecords,
    TopicPartition,
)


class MemoryRecord(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass
class MemoryBroker:
    """Topics, committed offsets, and which member reads what."""

    max_message_bytes: int = 1_000_000
    topics: dict[str, list[list[MemoryRecord]]] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    begin: dict[TopicPartition, int] = field(default_factory=dict)
    """First offset held, where older ones have expired."""
    members: list["MemorySource"] = field(default_factory=list)
    producers: dict[str, int] = field(default_factory=dict)
    """How many processes have begun under each transactional id; the last one's transactions count."""
    _made: dict[str, int] = field(default_factory=dict)

    def create_topic(self, name: str, partitions: int = 1) -> None:
        self.topics[name] = [[] for _ in range(partitions)]
        self._made[name] = self._made.get(name, 0) + 1

    def topic_id(self, name: str) -> str:
        if name not in self.topics:
            raise ConfigError(f"topic {name} is not there; create it or set the stream's `topic`")
        return f"{name}#{self._made[name]}"

    def append(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp: int = 0,
        partition: int = 0,
    ) -> None:
        log = self.topics[topic][partition]
        log.append(MemoryRecord(len(log), timestamp, key, value, tuple(headers)))

    def records(self, topic: str) -> list[MemoryRecord]:
        """Return everything in a topic, partition by partition."""
        return [record for log in self.topics[topic] for record in log]

    def rebalance(self) -> None:
        """Deal out all subscribed partitions to the members in turn."""
        shares: dict[int, set[TopicPartition]] = {id(member): set() for member in self.members}
        for topic in sorted({topic for member in self.members for topic in member.subscribed}):
            for number in range(len(self.topics[topic])):
                member = self.members[number % len(self.members)]
                shares[id(member)].add(TopicPartition(topic, number))
        for member in self.members:
            member.assign(frozenset(shares[id(member)]))


class MemorySource:
    """One member of the one group of a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, topics: Sequence[str], max_poll_records: int = 4000) -> None:
        missing = [topic for topic in topics if topic not in broker.topics]
        if missing:
            raise ConfigError(f"topic {missing[0]} is not there; create it or set the stream's `topic`")
        self.subscribed = tuple(topics)
        self._broker = broker
        self._max_poll_records = max_poll_records
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._regained: frozenset[TopicPartition] = frozenset()
        self._told: frozenset[TopicPartition] = frozenset()
        self._position: dict[TopicPartition, int] = {}
        broker.members.append(self)
        broker.rebalance()

    def assign(self, partitions: frozenset[TopicPartition]) -> None:
        """Take a new assignment from the broker; what is gained waits for `start`."""
        self._regained |= partitions - self._assigned
        self._assigned = partitions
        self._position = {place: at for place, at in self._position.items() if place in partitions}

    def poll(self, timeout_s: float) -> Sequence[PartitionRecords]:
        found: list[PartitionRecords] = []
        left = self._max_poll_records
        for place, at in self._position.items():
            ready = self._broker.topics[place.topic][place.partition][at : at + left]
            if ready:
                found.append(PartitionRecords(place, ready))
                self._position[place] = at + len(ready)
                left -= len(ready)
        return found

    def most_records(self) -> int:
        return self._max_poll_records

    def assignment(self) -> Assignment:
        gained = (self._assigned - self._told) | (self._regained & self._assigned)
        change = Assignment(gained, self._told - self._assigned)
        self._told, self._regained = self._assigned, frozenset()
        return change

    def committed(self, partition: TopicPartition) -> int | None:
        return self._broker.committed.get(partition)

    def offsets(self, partition: TopicPartition) -> OffsetRange:
        log = self._broker.topics[partition.topic][partition.partition]
        return OffsetRange(self._broker.begin.get(partition, 0), len(log))

    def topic_id(self, topic: str) -> str:
        return self._broker.topic_id(topic)

    def partition_count(self, topic: str) -> int:
        return len(self._broker.topics[topic])

    def joined(self) -> bool:
        return self in self._broker.members

    def start(self, partition: TopicPartition, offset: int) -> None:
        if partition in self._assigned:
            self._position[partition] = offset

    def pause(self, partition: TopicPartition) -> None:
        self._position.pop(partition, None)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        gone = [place for place in offsets if place not in self._assigned]
        if gone or self not in self._broker.members:
            raise AssignmentLost(f"cannot commit {', '.join(map(str, gone))}: no longer assigned here")
        self._broker.committed.update(offsets)

    def lag(self) -> Mapping[TopicPartition, int]:
        return {place: self.offsets(place).end - at for place, at in self._position.items()}

    def close(self) -> None:
        if self in self._broker.members:
            self._broker.members.remove(self)
            self._broker.rebalance()


class MemoryPublisher:
    """Publishes to a `MemoryBroker`; messages are there once they are flushed."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._sent: list[Message] = []

    def send(self, message: Message) -> None:
        size = len(message.key or b"") + len(message.value or b"")
        if size > self._broker.max_message_bytes:
            raise RecordError(
                f"{message.origin or message.topic}: {size} bytes are more than topic {message.topic} takes "
                f"({self._broker.max_message_bytes}); raise its max.message.bytes"
            )
        self._sent.append(message)

    def flush(self, timeout_s: float) -> None:
        sent, self._sent = self._sent, []
        for message in sent:
            self._require_topic(message)
            by_key = sum(message.key or b"") % len(self._broker.topics[message.topic])
            self._broker.append(
                message.topic,
                message.value,
                key=message.key,
                headers=message.headers,
                timestamp=-1 if message.timestamp_ms is None else message.timestamp_ms,
                partition=by_key if message.partition is None else message.partition,
            )

    def close(self, timeout_s: float = 5.0) -> None:
        self._sent.clear()

    def _require_topic(self, message: Message) -> None:
        if message.topic not in self._broker.topics:
            raise ConfigError(f"topic {message.topic} is not there; create it or set it under `topics`")


class MemoryTransactions(MemoryPublisher):
    """Messages and offsets that are there together or not at all; see `pipeline.protocols.Delivery`."""

    def __init__(self, broker: MemoryBroker, source: MemorySource | None, transactional_id: str) -> None:
        super().__init__(broker)
        self._source, self._id = source, transactional_id
        self._epoch: int | None = None

    def settle(self) -> None:
        if self._epoch is None:
            self._epoch = self._broker.producers[self._id] = self._broker.producers.get(self._id, 0) + 1

    def send(self, message: Message) -> None:
        try:
            super().send(message)
        except RecordError:
            self._sent.clear()
            raise

    def finish(self, offsets: Mapping[TopicPartition, int], timeout_s: float) -> None:
        batch, self._sent = self._sent, []
        if batch and self._broker.producers[self._id] != self._epoch:
            self._epoch = None
            raise AssignmentLost(f"transaction {self._id}: another process has begun under the same id")
        for message in batch:
            self._require_topic(message)
        if offsets:
            assert self._source is not None, "offsets come from a source"
            self._source.commit(offsets)
        self._sent = batch
        self.flush(timeout_s)


class MemoryStorage:
    """Objects in a dictionary; see `pipeline.connectors.storage.ObjectStorage`."""

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.now_ms = 0
        """When everything was written."""

    def get(self, name: str) -> bytes | None:
        return self.objects.get(name)

    def get_range(self, name: str, start: int, end: int) -> bytes | None:
        content = self.objects.get(name)
        return None if content is None else content[start:end]

    def stat(self, name: str) -> Stat | None:
        return Stat(len(self.objects[name]), self.now_ms) if name in self.objects else None

    def put(self, name: str, content: bytes) -> None:
        self.objects[name] = bytes(content)

    def create(self, name: str, content: bytes | memoryview) -> bool:
        if name in self.objects:
            return False
        self.objects[name] = bytes(content)
        return True

    def list(self, folder: str) -> list[str]:
        # What is written on another thread meanwhile is seen or not, as in the real one.
        return sorted(name for name in self.objects.copy() if name.startswith(f"{folder}/"))

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: len(self.objects[name]) for name in self.list(folder)}

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)


class MemoryCheckpoints(StoredCheckpoints):
    """The stored ones, on storage that outlives no process."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        super().__init__(self.storage)


class MemoryAdoptions(StoredAdoptions):
    """The stored ones, on storage that outlives no process."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        super().__init__(self.storage)


class MemoryRegistry(StoredRegistry):
    """The stored one, on storage that outlives no process."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        super().__init__(self.storage)


class MemoryLog:
    """All records of a topic of a `MemoryBroker`, in portions as a broker would deliver them."""

    def __init__(self, broker: MemoryBroker, topic: str, portion: int = 100) -> None:
        self._broker, self._topic, self._portion = broker, topic, portion

    def retained(self) -> int:
        return sum(len(kept) for _, kept in self._partitions())

    def read(self) -> Iterator[PartitionRecords]:
        for place, kept in self._partitions():
            for low in range(0, len(kept), self._portion):
                yield PartitionRecords(place, kept[low : low + self._portion])

    def _partitions(self) -> list[tuple[TopicPartition, list[MemoryRecord]]]:
        self._broker.topic_id(self._topic)
        logs = enumerate(self._broker.topics[self._topic])
        places = [(TopicPartition(self._topic, number), log) for number, log in logs]
        return [(place, log[self._broker.begin.get(place, 0) :]) for place, log in places]


class MemoryFeedback:
    """A topic of a `MemoryBroker`, read whole and then followed; see `pipeline.feedback.FeedbackTopic`."""

    def __init__(self, broker: MemoryBroker, topic: str, portion: int = 100) -> None:
        broker.topic_id(topic)
        self._broker, self._topic, self._portion = broker, topic, portion
        logs = enumerate(broker.topics[topic])
        self._ends = {TopicPartition(topic, number): len(log) for number, log in logs}
        self._position = {place: broker.begin.get(place, 0) for place in self._ends}

    def poll(self) -> Sequence[PartitionRecords]:
        found: list[PartitionRecords] = []
        for place, at in self._position.items():
            ready = self._broker.topics[place.topic][place.partition][at : at + self._portion]
            if ready:
                found.append(PartitionRecords(place, ready))
                self._position[place] = at + len(ready)
        return found

    def caught_up(self) -> bool:
        return all(self._position[place] >= end for place, end in self._ends.items())

    def close(self) -> None:
        """Nothing is open."""
