"""The partitions that a worker owns: taken over with their state, given up.

A partition is taken over at the group's committed offset. The newest checkpoint at or below it is restored, and
the records between the two are replayed without publishing. Where there is none that fits, the partition begins
there without state, and its series warm up again.

Without a usable committed offset the stream's `start` decides. That is a first start where the stream has no
checkpoint of the partition. Where it has one, or where the committed offset is not held, it is a gap: it is
logged as an error, and what will not be read is counted. A checkpoint alone is no place to go on at, for it does
not tell which group wrote it: a second group on the same storage would skip what it never read, while reading
twice only repeats alerts with equal ids.

A partition that was added to its topic after the group had begun there starts at its earliest offset, whatever
`start` says: its records came in after the group's start, and before anyone knew of it. How many partitions there
were at the start is kept in storage. It is written before the first offset is committed, so that of two workers
that start together the second does not take its own partitions for added ones.

Where a partition begins anew, the offset is committed and its empty state is checkpointed before its first
record is read, so there is always a checkpoint to come back to. State in memory outlives a rebalance only if the
group's committed offset is the one that it stands before.

How the state is checkpointed as it goes on is told in `pipeline.checkpointing`.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pipeline import metrics
from pipeline.adopting import Adopting
from pipeline.adoptions import Adoptions
from pipeline.checkpointing import Checkpointing, Progress
from pipeline.errors import CheckpointError, ConfigError, TransientError
from pipeline.feedback import Words
from pipeline.logs import about
from pipeline.protocols import Checkpoint, Checkpoints, OffsetRange, Source, TopicPartition
from pipeline.stream import Lane

logger = logging.getLogger(__name__)

_OFFSETS_A_RECORD = 2
"""Of a producer's transactions of one record each, which take another offset for their end."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """Why a group cannot go on where it was."""

    reason: str
    unread: int
    """The first offset that was never read, as far as is known."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a partition stands before its next record."""

    next_offset: int
    publish_from: int
    """Records before it are read again."""
    topic_id: str
    partitions: int
    """Among how many the stream's bounds are divided."""
    words: Words
    """What was said of incidents, and acts now."""


@dataclass
class Partitions:
    """The assigned partitions of one worker, with their state in the lanes' pipelines."""

    lane_of: Mapping[str, Lane]
    """By topic."""
    source: Source
    checkpoints: Checkpoints
    adoptions: Adoptions
    clock: Callable[[], float] = time.monotonic
    progress: dict[TopicPartition, Progress] = field(default_factory=dict)
    """Of the partitions whose state is in place."""
    assigned: frozenset[TopicPartition] = frozenset()

    def __post_init__(self) -> None:
        self.adopting = Adopting(self.lane_of, self.adoptions, self.clock)
        self.checkpointing = Checkpointing(self.lane_of, self.checkpoints, self.progress, self.adopting.version)
        self._at_first: dict[tuple[str, str], int] = {}

    def follow_assignment(self) -> None:
        """Take over what was gained and let its records come; forget what was lost.

        Raises:
            ConfigError: a partition has no usable committed offset, and `start` is `fail`.
            TransientError: something outside failed; the next call takes over the rest.
        """
        change = self.source.assignment()
        self.assigned = (self.assigned - change.lost) | change.gained
        self.forget(change.lost)
        try:
            for partition in sorted(change.gained & self.progress.keys()):
                self._resume(partition)
        except TransientError:
            # They are told as gained only once: without state, the next call takes them over.
            self.forget(change.gained)
            raise
        for partition in sorted(self.assigned - self.progress.keys()):
            while partition not in self.progress:
                self._take_over(partition)

    def standing(self, topic: str) -> dict[TopicPartition, Standing]:
        """Return where a topic's partitions stand whose state is in place."""
        return {
            place: Standing(
                at.next_offset,
                at.publish_from,
                at.topic_id,
                self._at_first[topic, at.topic_id],
                self.adopting.words(place),
            )
            for place, at in self.progress.items()
            if place.topic == topic
        }

    def adopt(self) -> None:
        """Have the partitions adopt their streams' champions and feedback, those that replay when they are done.

        Raises:
            AssignmentLost: another worker has taken a partition over.
        """
        live = {place: at.next_offset for place, at in self.progress.items() if at.next_offset >= at.publish_from}
        self.adopting.go_on(live, self.source.lag())

    def forget_remade(self) -> None:
        """Throw the state of a topic away that was made anew under our feet.

        Raises:
            ConfigError: a topic is not there any more. The group takes its partitions away as if others had them.
            TransientError: the broker does not answer.
        """
        ids = {topic: self.source.topic_id(topic) for topic in self.lane_of}
        self.forget([place for place, at in self.progress.items() if at.topic_id != ids[place.topic]])

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Throw state away; of those still assigned, the next `follow_assignment` restores it."""
        for partition in list(partitions):
            lane = self.lane_of[partition.topic]
            lane.pipeline.drop(partition)
            self.adopting.forget(partition)
            if self.progress.pop(partition, None) is not None and partition in self.assigned:
                metrics.STATE_RESET.labels(lane.name).inc()

    def forget_all(self) -> None:
        """Throw all state away."""
        self.forget(self.assigned)

    def _resume(self, partition: TopicPartition) -> None:
        """Keep the state of a partition that came back at once, if nobody else committed anything meanwhile.

        Somebody may have begun a newer chain of it, with whose next one an older one is removed, and may have
        adopted another model.
        """
        progress, held = self.progress[partition], self.source.offsets(partition)
        next_offset = progress.next_offset
        if self.source.committed(partition) == next_offset and held.begin <= next_offset <= held.end:
            progress.chain, version = None, self.adopting.version(partition)
            published_end = self._published_end(next_offset, held)
            self.adopting.take_over(partition, progress.topic_id, next_offset, next_offset, version, published_end)
            self.source.start(partition, next_offset)
        else:
            self.forget([partition])

    def _take_over(self, partition: TopicPartition) -> None:
        """Restore a partition's state, or begin a new one, and let its records come.

        Without effect where the checkpoint turns out to be damaged as it is read: the one before is next.
        """
        lane = self.lane_of[partition.topic]
        committed, held = self.source.committed(partition), self.source.offsets(partition)
        topic_id = self.source.topic_id(partition.topic)
        checkpoint = self.checkpoints.newest(lane.name, partition, sys.maxsize if committed is None else committed)
        gap = _gap(committed, held, checkpoint, topic_id)
        if committed is None and gap is None and self._is_added(lane, partition, topic_id):
            start = self._commit_added(lane, partition, held)
            self._begin(lane, partition, start, topic_id)
            return
        if committed is None or gap is not None:
            start = self._commit_start(lane, partition, gap, held)
            self._begin(lane, partition, start, topic_id)
            return
        unusable = _why_unusable(checkpoint, lane.pipeline.shape, held)
        published_end = self._published_end(committed, held)
        if checkpoint is not None and unusable is None:
            self._restore(lane, partition, checkpoint, committed, published_end)
        else:
            said = about(partition, stream=lane.name, offset=committed)
            logger.warning("%s: begins at offset %d without state: %s", partition, committed, unusable, extra=said)
            self._begin(lane, partition, committed, topic_id, published_end)

    def _published_end(self, committed: int, held: OffsetRange) -> int:
        """Return before which offset records may have been published that are not committed: those of one poll."""
        return min(committed + _OFFSETS_A_RECORD * self.source.most_records(), held.end)

    def _commit_start(self, lane: Lane, partition: TopicPartition, gap: _Gap | None, held: OffsetRange) -> int:
        """Commit the offset that `start` says; a gap is reported once that has succeeded."""
        if lane.start == "fail":
            raise _refused(lane, partition, gap.reason if gap else "the group has no committed offset")
        start = held.begin if lane.start == "earliest" else held.end
        self.source.commit({partition: start})
        if gap is None:
            said = about(partition, stream=lane.name, offset=start)
            logger.info("%s: begins at offset %d, nothing to restore", partition, start, extra=said)
        else:
            unread = max(start - gap.unread, 0)
            metrics.OFFSETS_LOST.labels(lane.name).inc(unread)
            logger.error(
                "%s: %s; beginning at the %s one, %d; records that are not read: %d",
                *(partition, gap.reason, lane.start, start, unread),
                extra=about(partition, stream=lane.name, offset=start),
            )
        return start

    def _is_added(self, lane: Lane, partition: TopicPartition, topic_id: str) -> bool:
        """Tell a partition that came after the group's start on the topic from one that was there already."""
        return partition.partition >= self._partitions_at_first(lane, partition, topic_id)

    def _partitions_at_first(self, lane: Lane, partition: TopicPartition, topic_id: str) -> int:
        """Return how many partitions the topic had when the stream began on it."""
        topic = partition.topic

        def partitions_now() -> int:
            there = [TopicPartition(topic, number) for number in range(self.source.partition_count(topic))]
            begun = [place.partition for place in there if self.source.committed(place) is not None]
            if begun:
                # The group is older than this record in storage, or storage is new.
                return max(begun) + 1
            if lane.start == "fail":
                raise _refused(lane, partition, "the group has no committed offset")
            return len(there)

        at_first = self._at_first.get((topic, topic_id))
        if at_first is None:
            at_first = self.checkpoints.partitions_at_first(lane.name, topic, topic_id, partitions_now)
            self._at_first[topic, topic_id] = at_first
        return at_first

    def _commit_added(self, lane: Lane, partition: TopicPartition, held: OffsetRange) -> int:
        """Commit the earliest offset of a partition that was added to its topic."""
        self.source.commit({partition: held.begin})
        metrics.PARTITIONS_ADDED.labels(lane.name).inc()
        metrics.OFFSETS_LOST.labels(lane.name).inc(held.begin)
        logger.warning(
            "%s: the partition was added after the group began on the topic; it begins at its earliest offset, %d, "
            "whatever `start` says; series whose keys now go there have moved, and warm up again",
            *(partition, held.begin),
            extra=about(partition, stream=lane.name, offset=held.begin),
        )
        return held.begin

    def _begin(
        self, lane: Lane, partition: TopicPartition, start: int, topic_id: str, published_end: int = 0
    ) -> None:
        self._divide(lane, partition, topic_id)
        lane.pipeline.restore(partition, [])
        self.adopting.take_over(partition, topic_id, start, start, None, published_end)
        progress = Progress(start, start, -1, topic_id)
        self.checkpointing.write_first(partition, progress)
        self.source.start(partition, start)
        self.progress[partition] = progress
        metrics.STATE_RESTORED.labels(lane.name, "cold").inc()

    def _restore(
        self, lane: Lane, partition: TopicPartition, checkpoint: Checkpoint, committed: int, published_end: int
    ) -> None:
        self._divide(lane, partition, checkpoint.topic_id)
        reached = checkpoint.next_offset
        try:
            lane.pipeline.restore(partition, checkpoint.parts())
        except CheckpointError as error:
            lane.pipeline.drop(partition)
            checkpoint.refuse(str(error))
            said = about(partition, stream=lane.name, offset=reached)
            logger.error("%s: not restored at offset %d: %s", partition, reached, error, extra=said)
            return
        topic_id = checkpoint.topic_id
        version = checkpoint.model_version
        self.adopting.take_over(partition, topic_id, reached, committed, version, published_end)
        self.source.start(partition, reached)
        self.progress[partition] = Progress(reached, committed, reached, topic_id)
        metrics.STATE_RESTORED.labels(lane.name, "checkpoint").inc()
        said = about(partition, stream=lane.name, offset=reached, version=version)
        logger.info("%s: restored at offset %d, replays to %d", partition, reached, committed, extra=said)

    def _divide(self, lane: Lane, partition: TopicPartition, topic_id: str) -> None:
        """Give a partition its share of the series that its stream may hold.

        The number that divides them is kept in storage: with the one of today, a partition that is added would have
        series leave in a replay that stayed when their records were first read.
        """
        lane.pipeline.divide(partition, self._partitions_at_first(lane, partition, topic_id))


def _refused(lane: Lane, partition: TopicPartition, reason: str) -> ConfigError:
    return ConfigError(
        f"{partition}: {reason}, and streams.{lane.name}.start is `fail`; set it to `earliest` or `latest`, "
        "or commit an offset for the group"
    )


def _gap(committed: int | None, held: OffsetRange, checkpoint: Checkpoint | None, topic_id: str) -> _Gap | None:
    """Find out whether the records behind a partition's past are still the ones that come next."""
    if checkpoint is not None and checkpoint.topic_id != topic_id:
        earlier = f"committed offset {committed}"
        if committed is None:
            earlier = f"the checkpoint at {checkpoint.next_offset}"
        return _Gap(f"the topic was made anew, {earlier} is of the earlier one", 0)
    if committed is None and checkpoint is not None:
        return _Gap(
            f"the group has no committed offset, but its stream has a checkpoint at {checkpoint.next_offset}: the "
            "offset has expired, or another group uses the same storage, which each needs of its own",
            checkpoint.next_offset,
        )
    if committed is not None and not held.begin <= committed <= held.end:
        return _Gap(f"committed offset {committed} is not among those held, {held.begin} to {held.end}", committed)
    return None


def _why_unusable(checkpoint: Checkpoint | None, shape: str, held: OffsetRange) -> str | None:
    if checkpoint is None:
        return "there is no checkpoint at or below the committed offset"
    if checkpoint.shape != shape:
        return f"the checkpoint was made for {checkpoint.shape}, the model now has {shape}"
    if checkpoint.next_offset < held.begin:
        return f"records from the checkpoint's offset {checkpoint.next_offset} on have expired"
    return None
