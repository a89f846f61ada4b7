"""What the worker and the commands ask of the outside world.

`pipeline.connectors` implements these; `pipeline.connectors.memory` holds a twin of each for tests and
`tests/contracts/` runs one behaviour suite over twins and real systems. All methods are called from one thread, but
for `Checkpoints.write`, which may still be at work on another one while `newest` is asked.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipeline.part_memory import Arrays, PartMemory
from pipeline.versions.log import Promotion, PromotionLog


class TopicPartition(NamedTuple):
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class RawRecord(Protocol):
    """A record as it lies in the topic. The Kafka client's own records satisfy this: none is copied."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Kafka timestamp in ms since the epoch; -1 where the topic has none."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class PartitionRecords:
    """Consecutive records of one partition, in offset order, never empty."""

    partition: TopicPartition
    records: Sequence[RawRecord]

    @property
    def next_offset(self) -> int:
        return self.records[-1].offset + 1


@dataclass(frozen=True, slots=True)
class Assignment:
    """What changed hands since the last call of `Source.assignment`."""

    gained: frozenset[TopicPartition] = frozenset()
    lost: frozenset[TopicPartition] = frozenset()


class OffsetRange(NamedTuple):
    """Offsets that a partition holds now: `begin` <= offset < `end`."""

    begin: int
    end: int


class Source(Protocol):
    """Records of the subscribed topics, one consumer group member.

    A partition that is gained stays paused until `start` names its first offset; so nothing is delivered
    before its state is restored.
    """

    def poll(self, timeout_s: float) -> Sequence[PartitionRecords]:
        """Return what has arrived, waiting up to `timeout_s` for a first record; may return nothing.

        Raises:
            TransientError: the broker does not answer.
            ConfigError: no right to read, or a topic that is not there.
        """

    def assignment(self) -> Assignment:
        """Return the partitions gained and lost since the last call; never blocks."""

    def committed(self, partition: TopicPartition) -> int | None:
        """Return the group's committed offset, or None where it has none."""

    def offsets(self, partition: TopicPartition) -> OffsetRange:
        """Return the offsets that the broker holds."""

    def topic_id(self, topic: str) -> str:
        """Return the id that tells a topic from a later one of the same name; "" where the broker has none.

        Raises:
            ConfigError: the topic is not there, or there is no right to see it.
            TransientError: the broker does not answer.
        """

    def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has; raises as `topic_id` does."""

    def joined(self) -> bool:
        """Return whether this member has an assignment, be it empty, and a coordinator; never blocks."""

    def start(self, partition: TopicPartition, offset: int) -> None:
        """Deliver a gained or paused partition from `offset` on."""

    def pause(self, partition: TopicPartition) -> None:
        """Deliver nothing of a partition until it is started again; the group still counts on this member."""

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit the next offset to read of each partition.

        Raises:
            AssignmentLost: the group has moved on without this member.
            TransientError: the broker does not answer.
        """

    def lag(self) -> Mapping[TopicPartition, int]:
        """Return how many records lie ahead of each started partition's position, from the last fetch."""

    def most_records(self) -> int:
        """Return how many records one poll holds at most, with the settings of this member."""

    def close(self) -> None:
        """Leave the group."""


@dataclass(frozen=True, slots=True)
class Message:
    """One record to publish."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    origin: str = ""
    """The record it is about, as topic/partition@offset, for error texts."""
    partition: int | None = None
    """Where it goes; None: wherever its key leads."""
    timestamp_ms: int | None = None
    """Kafka timestamp in ms since the epoch; None: the time of sending."""


class Publisher(Protocol):
    """Alerts and dead letters on their way out."""

    def send(self, message: Message) -> None:
        """Queue one message; order is kept for each key.

        Raises:
            RecordError: it is larger than the client may send; the text names sizes and the remedy.
            DeliveryError: it cannot be queued.
        """

    def flush(self, timeout_s: float) -> None:
        """Return once every message sent since the last flush is confirmed.

        Raises:
            DeliveryError: at least one was not confirmed in time.
            RecordError: the broker refuses one for its size.
            ConfigError: the topic is not there, or there is no right to write to it.
        """

    def close(self, timeout_s: float = 5.0) -> None:
        """End within the timeout, and give up what is not confirmed by then."""


class Delivery(Protocol):
    """Messages on their way out, together with the offsets of the records behind them, where there are any.

    A batch is some `send` and one `finish`, and `settle` comes before the first one. After any error the batch is
    given up: the caller takes its records again from the committed offset, once `settle` has returned.
    """

    def settle(self) -> None:
        """See that nothing of an earlier batch is undecided; the committed offsets then tell what it came to.

        Exactly once, an earlier process of the same name can finish nothing any more.

        Raises:
            TransientError: the broker does not answer; ask again.
            ConfigError: no right to what this way of delivery needs.
        """

    def send(self, message: Message) -> None:
        """Queue one message of the batch; raises as `Publisher.send` does."""

    def finish(self, offsets: Mapping[TopicPartition, int], timeout_s: float) -> None:
        """Return once every message of the batch is confirmed and the next offsets to read are committed.

        Nothing to send or nothing to commit is no error.

        Raises:
            DeliveryError: at least one message was not confirmed in time, or it is not known whether all were.
            AssignmentLost: the group, or another process of the same name, has moved on without this one.
            RecordError: the broker refuses a message for its size.
            ConfigError: a topic is not there, or a right is missing.
            TransientError: the broker does not answer.
        """

    def close(self, timeout_s: float = 5.0) -> None:
        """Give up what is not finished, and end within the timeout."""


class Log(Protocol):
    """All committed records that a topic holds."""

    def retained(self) -> int:
        """Return about how many records it holds, for a progress bar."""

    def read(self) -> Iterator[PartitionRecords]:
        """Read from its first records to its present end, each partition in offset order.

        What is committed before this end is all read: transactions that are open now are waited for.

        Raises:
            TransientError: the broker stopped answering, or such a transaction did not end.
            ConfigError: the topic is not there, or there is no right to read it.
        """


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one partition of a stream, as it stood before the record at `next_offset`."""

    stream: str
    partition: TopicPartition
    topic_id: str
    next_offset: int
    model_version: str
    shape: str
    """What the arrays depend on (kind, features, window); another shape cannot be restored."""
    parts: Callable[[], Iterator[Arrays]] = field(default=lambda: iter(()), compare=False, repr=False)
    """Reads the arrays that make the state, part by part, the later ones over the earlier ones.

    Raises CheckpointError at a part that is damaged or gone, and the checkpoint is not found again;
    TransientError where storage does not answer.
    """
    refuse: Callable[[str], None] = field(default=lambda why: None, compare=False, repr=False)
    """Takes why the parts make no state though each can be read: the checkpoint is not found again."""


@dataclass(slots=True)
class Chain:
    """What one run of a worker has written of one partition: parts, each resting on those before."""

    run: str = field(default_factory=lambda: secrets.token_hex(4))
    """Tells the chain from that of another worker that believes to own the partition too."""
    sequence: int = 0
    """The newest chain has the highest; 0: nothing was written yet."""
    tried: int = 0
    """Number of the last part that was handed to storage."""
    last: int = 0
    """Number of the last part that it took; 0: none."""
    closed: bool = False
    """Whether the parts hold a state."""
    whole: bool = False
    """Whether they hold one that the last of them completes."""
    base_bytes: int = 0
    """Size of the parts up to the first state."""
    later_bytes: int = 0
    later_parts: int = 0
    """Size and number of the parts after it."""
    pruned: bool = False
    """Whether the chains before it, that nobody needs any more, are removed."""
    overtaken: bool = False
    """Whether another worker has begun a newer one, with which this one may be removed."""

    @property
    def is_long(self) -> bool:
        """Whether all is better written anew, to bound what a restart reads and what storage holds."""
        many = self.later_bytes > self.base_bytes or self.later_parts >= MOST_LATER_PARTS
        return self.whole and (many or self.overtaken)


MOST_LATER_PARTS = 200
"""Each is an object to be read at a restart, be it small."""
MOST_STORED = 7
"""So many times what all series take in a part storage holds of a partition at most: the chain before, the one that
is read, each as long as three where all series change between two checkpoints, and the one that is begun."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a chain on its way to storage."""

    checkpoint: Checkpoint
    chain: Chain
    memory: PartMemory
    """Not to be touched before the part is written or has failed."""
    closes: bool
    """With it the chain holds the state that the checkpoint tells of; before, it holds pieces of several."""
    whole: bool = False
    """It holds that state by itself, and rests on no other part."""


class Checkpoints(Protocol):
    """Checkpoints of all partitions, kept in storage."""

    def write(self, part: Part) -> None:
        """Store it whole or not at all, note it in its chain, and forget old chains.

        Raises:
            TransientError: storage does not answer, or is full.
            ConfigError: there is no right to write.
        """

    def newest(self, stream: str, partition: TopicPartition, at_or_below: int) -> Checkpoint | None:
        """Return the checkpoint with the highest `next_offset` that is not past `at_or_below`, of the newest topic.

        One that is damaged, of an unknown format, or that rests on a part that is, is logged as an error, and the
        one before it is taken. What is only read later, by `Checkpoint.parts`, may still turn out to be.

        Raises:
            TransientError: storage does not answer.
        """

    def partitions_at_first(self, stream: str, topic: str, topic_id: str, partitions_now: Callable[[], int]) -> int:
        """Return how many partitions a topic had when the stream began on it.

        The first call asks `partitions_now` and keeps the answer for ever; of two at once, one is kept for both.

        Raises:
            TransientError: storage does not answer.
            ConfigError: there is no right to write it down.
        """


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version of a stream's model."""

    stream: str
    version: str
    files: Mapping[str, bytes]
    """File name to content: `model.safetensors`, `manifest.json`, and `origin.json` where it is known."""


class Registry(Protocol):
    """Model versions of each stream and the append-only log that says which one serves."""

    def add(self, model: ModelVersion) -> None:
        """Store a version; it becomes visible with its manifest, which is written last.

        A version that is there with the same content is left as it is: an earlier try has written it.

        Raises:
            RegistryError: that version is there already, with other content.
            TransientError: storage does not answer.
        """

    def versions(self, stream: str) -> Sequence[str]:
        """Return the complete versions, oldest first as far as their names tell."""

    def unfinished(self, stream: str) -> Sequence[str]:
        """Return versions without a manifest: being written or removed, or left so when that was interrupted."""

    def load(self, stream: str, version: str) -> ModelVersion:
        """Return a version with its files.

        Raises:
            RegistryError: it is missing or not complete.
            TransientError: storage does not answer.
        """

    def file(self, stream: str, version: str, name: str) -> bytes | None:
        """Return one file of a version, or None where it has none of this name."""

    def size_bytes(self, stream: str, version: str) -> int:
        """Return how much storage a version takes."""

    def remove(self, stream: str, version: str) -> None:
        """Delete a version, its manifest first; one that is not there is fine.

        The log has to say before that it serves never again.
        """

    def promote(self, stream: str, promotion: Promotion) -> None:
        """Append to the log.

        Raises:
            PromotionLost: another writer has taken that number.
        """

    def champion(self, stream: str) -> Promotion | None:
        """Return the entry that made the version serve which serves now; None: there is no entry.

        Only the end of the log is read: a hole before it, or a damaged entry, is no reason not to serve.

        Raises:
            RegistryError: the last entry is damaged.
        """

    def log(self, stream: str) -> PromotionLog:
        """Return the log with what is wrong with it."""
