"""The partitions that a worker owns: taken over with their state, given up, checkpointed.

A partition is taken over at the group's committed offset. The newest checkpoint at or below it is restored, and
the records between the two are replayed without publishing. Where there is none that fits, the partition begins
there without state, and its series warm up again.

Without a usable committed offset the stream's `start` decides. That is a first start where the stream has no
checkpoint of the partition. Where it has one, or where the committed offset is not held, it is a gap: it is
logged as an error, and what will not be read is counted. A checkpoint alone is no place to go on at, for it does
not tell which group wrote it: a second group on the same storage would skip what it never read, while reading
twice only repeats alerts with equal ids.

Where a partition begins anew, the offset is committed and its empty state is checkpointed before its first
record is read, so there is always a checkpoint to come back to. State in memory outlives a rebalance only if the
group's committed offset is the one that it stands before.
"""

import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline import metrics
from pipeline.errors import ConfigError, TransientError
from pipeline.protocols import Checkpoint, Checkpoints, OffsetRange, Source, TopicPartition
from pipeline.stream import Lane

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far one partition has come."""

    next_offset: int
    """Offset that the state in memory stands before."""
    publish_from: int
    """Alerts and dead letters of earlier offsets were published before the restart."""
    checkpointed: int
    topic_id: str
    rejects_in_a_row: int = 0

    def is_new(self, offset: int) -> bool:
        """Tell a record that is read for the first time from a replayed one."""
        return offset >= self.publish_from


@dataclass(frozen=True, slots=True)
class _Gap:
    """Why a group cannot go on where it was."""

    reason: str
    unread: int
    """The first offset that was never read, as far as is known."""


@dataclass
class Partitions:
    """The assigned partitions of one worker, with their state in the lanes' pipelines."""

    lane_of: Mapping[str, Lane]
    """By topic."""
    source: Source
    checkpoints: Checkpoints
    progress: dict[TopicPartition, Progress] = field(default_factory=dict)
    """Of the partitions whose state is in place."""
    _assigned: frozenset[TopicPartition] = frozenset()

    def follow_assignment(self) -> None:
        """Take over what was gained and let its records come; forget what was lost.

        Raises:
            ConfigError: a partition has no usable committed offset, and `start` is `fail`.
            TransientError: something outside failed; the next call takes over the rest.
        """
        change = self.source.assignment()
        self._assigned = (self._assigned - change.lost) | change.gained
        self.forget(change.lost)
        try:
            for partition in sorted(change.gained & self.progress.keys()):
                self._resume(partition)
        except TransientError:
            # They are told as gained only once: without state, the next call adopts them.
            self.forget(change.gained)
            raise
        for partition in sorted(self._assigned - self.progress.keys()):
            self._adopt(partition)

    def checkpoint(self) -> None:
        """Write the state of every partition that has moved since its last checkpoint.

        State of a topic that was made anew under our feet is thrown away instead.

        Raises:
            ConfigError: a topic is not there any more. The group takes its partitions away as if others had them.
            TransientError: broker or storage does not answer.
        """
        ids = {topic: self.source.topic_id(topic) for topic in self.lane_of}
        self.forget([place for place, at in self.progress.items() if at.topic_id != ids[place.topic]])
        for partition, progress in self.progress.items():
            if progress.checkpointed < progress.next_offset and progress.next_offset >= progress.publish_from:
                self._write(partition, progress)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Throw state away; of those still assigned, the next `follow_assignment` restores it."""
        for partition in list(partitions):
            lane = self.lane_of[partition.topic]
            lane.pipeline.drop(partition)
            if self.progress.pop(partition, None) is not None and partition in self._assigned:
                metrics.STATE_RESET.labels(lane.name).inc()

    def forget_all(self) -> None:
        """Throw all state away."""
        self.forget(self._assigned)

    def _resume(self, partition: TopicPartition) -> None:
        """Keep the state of a partition that came back at once, if nobody else worked on it meanwhile."""
        next_offset, held = self.progress[partition].next_offset, self.source.offsets(partition)
        if self.source.committed(partition) == next_offset and held.begin <= next_offset <= held.end:
            self.source.start(partition, next_offset)
        else:
            self.forget([partition])

    def _adopt(self, partition: TopicPartition) -> None:
        """Restore a partition's state, or begin a new one, and let its records come."""
        lane = self.lane_of[partition.topic]
        committed, held = self.source.committed(partition), self.source.offsets(partition)
        topic_id = self.source.topic_id(partition.topic)
        at_or_below = sys.maxsize if committed is None else committed
        checkpoint = self.checkpoints.newest(lane.name, partition, at_or_below)
        gap = _gap(committed, held, checkpoint, topic_id)
        if committed is None or gap is not None:
            start = self._commit_start(lane, partition, gap, held)
            self._begin(lane, partition, start, topic_id)
            return
        unusable = _why_unusable(checkpoint, lane.pipeline.shape, held)
        if checkpoint is not None and unusable is None:
            self._restore(lane, partition, checkpoint, committed)
        else:
            logger.warning("%s: begins at offset %d without state: %s", _name(partition), committed, unusable)
            self._begin(lane, partition, committed, topic_id)

    def _commit_start(self, lane: Lane, partition: TopicPartition, gap: _Gap | None, held: OffsetRange) -> int:
        """Commit the offset that `start` says; a gap is reported once that has succeeded."""
        place = _name(partition)
        if lane.start == "fail":
            raise ConfigError(
                f"{place}: {gap.reason if gap else 'the group has no committed offset'}, and "
                f"streams.{lane.name}.start is `fail`; set it to `earliest` or `latest`, or commit an offset for "
                "the group"
            )
        start = held.begin if lane.start == "earliest" else held.end
        self.source.commit({partition: start})
        if gap is None:
            logger.info("%s: begins at offset %d, nothing to restore", place, start)
        else:
            unread = max(start - gap.unread, 0)
            metrics.OFFSETS_LOST.labels(lane.name).inc(unread)
            logger.error(
                "%s: %s; beginning at the %s one, %d; records that are not read: %d",
                *(place, gap.reason, lane.start, start, unread),
            )
        return start

    def _begin(self, lane: Lane, partition: TopicPartition, start: int, topic_id: str) -> None:
        lane.pipeline.restore(partition, {})
        progress = Progress(start, start, start, topic_id)
        self._write(partition, progress)
        self.source.start(partition, start)
        self.progress[partition] = progress
        metrics.STATE_RESTORED.labels(lane.name, "cold").inc()

    def _restore(self, lane: Lane, partition: TopicPartition, checkpoint: Checkpoint, committed: int) -> None:
        lane.pipeline.restore(partition, checkpoint.arrays)
        reached = checkpoint.next_offset
        self.source.start(partition, reached)
        self.progress[partition] = Progress(reached, committed, reached, checkpoint.topic_id)
        metrics.STATE_RESTORED.labels(lane.name, "checkpoint").inc()
        logger.info("%s: restored at offset %d, replays to %d", _name(partition), reached, committed)
        if checkpoint.model_version != lane.model_version:
            logger.info(
                "%s: the state was left by model %s and goes on with %s",
                *(_name(partition), checkpoint.model_version, lane.model_version),
            )

    def _write(self, partition: TopicPartition, progress: Progress) -> None:
        lane = self.lane_of[partition.topic]
        self.checkpoints.write(
            Checkpoint(
                stream=lane.name,
                partition=partition,
                topic_id=progress.topic_id,
                next_offset=progress.next_offset,
                model_version=lane.model_version,
                shape=lane.pipeline.shape,
                arrays=lane.pipeline.snapshot(partition),
            )
        )
        progress.checkpointed = progress.next_offset


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


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}/{partition.partition}"
