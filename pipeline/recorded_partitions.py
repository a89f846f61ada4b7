"""The partitions that a recorder owns: taken over behind their last file, given up.

A partition goes on where its files end, not where the group has committed: a file is closed before its end is
committed, so a crash between the two leaves a file that the group does not know of. Where the commit is further
than the files, which were lost with a disk or a machine, what they lack is read again as far as the topic holds
it. The newest file is read at this: it tells which series were seen, and one that is damaged is removed and its
records are read again.

Without files and commit the stream's `start` decides, and for a partition that was added to its topic later it is
the earliest offset. Where the offset to go on at is not held any more, or the topic was made anew, it is a gap: it
is logged as an error, what will not be read is counted, and `start` decides. From where recording begins is written
to storage before anything else, and then committed.

Rows of a partition that is lost are dropped: whoever owns it next reads them again. Where the next offset expires
while a partition is read, its rows go into a file first, for they have expired as well.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from models.spec import ImageShape
from pipeline import metrics
from pipeline.errors import ConfigError, SnapshotDamaged, SnapshotError, TransientError
from pipeline.logs import about
from pipeline.open_rows import OpenRows, SeenSeries
from pipeline.protocols import OffsetRange, Source, TopicPartition
from pipeline.snapshots import Kept, Snapshots
from pipeline.stages.decode import Decoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordedStream:
    """One stream as the recorder sees it."""

    name: str
    topic: str
    decoder: Decoder
    features: tuple[str, ...]
    start: str
    """Where a partition begins that was never recorded: earliest, latest or fail."""
    max_series: int = 1_000_000
    """So many series are remembered of a partition, to tell which rows are late; beyond, it begins anew."""
    image: ImageShape | None = None
    """The size of images."""


@dataclass
class RecordedPartitions:
    """The assigned partitions of one recorder, with their rows that no file has yet."""

    stream_of: Mapping[str, RecordedStream]
    """By topic."""
    source: Source
    snapshots: Snapshots
    open: dict[TopicPartition, OpenRows] = field(default_factory=dict)
    """Of the partitions that are read."""
    seen: dict[TopicPartition, SeenSeries] = field(default_factory=dict)
    assigned: frozenset[TopicPartition] = frozenset()
    overtaken: set[TopicPartition] = field(default_factory=set)
    """Open ones whose next records have expired: they are read no further, and their rows have to be closed."""

    def follow_assignment(self) -> None:
        """Take over what was gained and let its records come; forget what was lost.

        Raises:
            ConfigError: a partition has no offset to begin at, and `start` is `fail`; or no right to storage.
            TransientError: something outside failed; the next call takes over the rest.
        """
        change = self.source.assignment()
        self.assigned = (self.assigned - change.lost) | change.gained
        self.forget(change.lost)
        try:
            for partition in sorted(change.gained & self.open.keys()):
                self._resume(partition)
        except TransientError:
            # They are told as gained only once.
            self.forget(change.gained)
            raise
        new: dict[str, list[TopicPartition]] = {}
        for partition in sorted(self.assigned - self.open.keys()):
            new.setdefault(partition.topic, []).append(partition)
        for topic, partitions in new.items():
            topic_id = self.source.topic_id(topic)
            kept = self.snapshots.kept(self.stream_of[topic].name, dict.fromkeys(partitions, topic_id))
            for partition in partitions:
                self._adopt(partition, topic_id, kept[partition])

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop the rows of partitions; those still assigned are taken over anew."""
        for partition in list(partitions):
            self.open.pop(partition, None)
            self.seen.pop(partition, None)
            self.overtaken.discard(partition)

    def forget_remade(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop the rows of partitions whose topic was made anew under our feet; raises as `Source.topic_id`."""
        ids = {topic: self.source.topic_id(topic) for topic in {partition.topic for partition in partitions}}
        self.forget([at for at in partitions if at in self.open and self.open[at].topic_id != ids[at.topic]])

    def seen_of(self, partition: TopicPartition) -> SeenSeries | None:
        """Return the series of a partition; None where records belong to none."""
        stream = self.stream_of[partition.topic]
        if stream.decoder.stateless:
            return None
        return self.seen.setdefault(partition, SeenSeries())

    def bound_seen(self, partition: TopicPartition) -> None:
        """Forget the series of a partition where they are too many; no rows of it may be open."""
        stream = self.stream_of[partition.topic]
        if partition in self.seen and len(self.seen[partition]) > stream.max_series:
            logger.warning(
                "%s: more than %d series since it was taken over: which of their next rows are late is not known",
                *(partition, stream.max_series),
                extra=about(partition, stream=stream.name),
            )
            del self.seen[partition]

    def _resume(self, partition: TopicPartition) -> None:
        """Keep the rows of a partition that came back at once, if nobody else committed anything meanwhile.

        It comes back, too, where what it was to read next has expired. Then its rows cannot be read again either.
        """
        rows, held = self.open[partition], self.source.offsets(partition)
        is_same = self.source.topic_id(partition.topic) == rows.topic_id
        is_ours = is_same and self.source.committed(partition) == rows.committed
        if is_ours and held.begin <= rows.position <= held.end:
            self.source.start(partition, rows.position)
        elif is_ours and rows.begin < rows.position < held.begin:
            self.overtaken.add(partition)
        else:
            self.forget([partition])

    def _adopt(self, partition: TopicPartition, topic_id: str, kept: Kept) -> None:
        stream = self.stream_of[partition.topic]
        committed, held = self.source.committed(partition), self.source.offsets(partition)
        kept = self._learned(partition, topic_id, kept, held)
        at = None if kept.topic_made_anew else _go_on(committed, kept, held)
        if kept.topic_made_anew:
            at = self._begin(stream, partition, topic_id, held, "the topic was made anew", 0)
        elif at is None and self._is_added(stream, partition, topic_id):
            metrics.PARTITIONS_ADDED.labels(stream.name).inc()
            metrics.OFFSETS_LOST.labels(stream.name).inc(held.begin)
            logger.warning(
                "%s: the partition was added after recording began; it is recorded from its earliest offset, %d",
                *(partition, held.begin),
                extra=about(partition, stream=stream.name, offset=held.begin),
            )
            at = self._mark(stream, partition, topic_id, held.begin)
        elif at is None:
            at = self._begin(stream, partition, topic_id, held)
        elif not held.begin <= at <= held.end:
            reason = f"offset {at}, the next one to record, is not among those held, {held.begin} to {held.end}"
            at = self._begin(stream, partition, topic_id, held, reason, at)
        elif not kept.ranges:
            at = self._mark(stream, partition, topic_id, at)
        if committed is not None and at < committed and kept.ranges:
            logger.warning(
                "%s: offset %d is committed, but files end before it: what they lack is read again from %d on",
                *(partition, committed, at),
                extra=about(partition, stream=stream.name, offset=at),
            )
        rows = OpenRows(partition, topic_id, stream.features, at, stream.image)
        rows.committed = at if committed is None else committed
        self.source.start(partition, at)
        self.open[partition] = rows
        said = about(partition, stream=stream.name, offset=at)
        logger.info("%s: records from offset %d on", partition, at, extra=said)

    def _learned(self, partition: TopicPartition, topic_id: str, kept: Kept, held: OffsetRange) -> Kept:
        """Learn from the newest file which series were seen; return what is kept without one that is damaged."""
        stream = self.stream_of[partition.topic]
        said = about(partition, stream=stream.name)
        while kept.last:
            seen = SeenSeries()
            try:
                # Never all at once: a file that was merged may hold many million rows.
                for rows in self.snapshots.rows_of(stream.name, kept.last):
                    seen.learn(rows)
            except SnapshotDamaged as error:
                if kept.last_range is None or kept.last_range.begin < held.begin:
                    logger.error("%s; it stays, for its records are not held any more", error, extra=said)
                    return kept
                logger.error("%s; its records are read again, and it is removed", error, extra=said)
                self.snapshots.discard(stream.name, kept.last)
                kept = self.snapshots.kept(stream.name, {partition: topic_id})[partition]
            except SnapshotError as error:
                raise ConfigError(str(error)) from error
            else:
                if not stream.decoder.stateless:
                    self.seen[partition] = seen
                return kept
        return kept

    def _begin(
        self,
        stream: RecordedStream,
        partition: TopicPartition,
        topic_id: str,
        held: OffsetRange,
        gap: str = "",
        unread_from: int = 0,
    ) -> int:
        """Begin where `start` says; a gap is reported once storage and the group know of it."""
        if stream.start == "fail":
            raise ConfigError(
                f"{partition}: {gap or 'there is neither a file nor a committed offset'}, and "
                f"streams.{stream.name}.start is `fail`; set it to `earliest` or `latest`"
            )
        at = self._mark(stream, partition, topic_id, held.begin if stream.start == "earliest" else held.end)
        if gap:
            unread = max(at - unread_from, 0)
            metrics.OFFSETS_LOST.labels(stream.name).inc(unread)
            logger.error(
                "%s: %s; recording from the %s one, %d; records that are not read: %d",
                *(partition, gap, stream.start, at, unread),
                extra=about(partition, stream=stream.name, offset=at),
            )
        return at

    def _mark(self, stream: RecordedStream, partition: TopicPartition, topic_id: str, offset: int) -> int:
        self.snapshots.mark(stream.name, partition, topic_id, offset)
        self.source.commit({partition: offset})
        return offset

    def _is_added(self, stream: RecordedStream, partition: TopicPartition, topic_id: str) -> bool:
        """Tell a partition that came after recording began on the topic from one that was there already."""

        def partitions_now() -> int:
            there = [
                TopicPartition(partition.topic, n) for n in range(self.source.partition_count(partition.topic))
            ]
            begun = [place.partition for place in there if self.source.committed(place) is not None]
            return max(begun) + 1 if begun else len(there)

        return partition.partition >= self.snapshots.partitions_at_first(stream.name, topic_id, partitions_now)


def _go_on(committed: int | None, kept: Kept, held: OffsetRange) -> int | None:
    """Return the first offset that no file covers; None: there are neither files nor a commit."""
    if committed is None:
        return kept.ranges[-1].end if kept.ranges else None
    for begin, end in kept.ranges:
        if begin <= committed <= end:
            return end
    ended = [each.end for each in kept.ranges if each.end < committed]
    return min(max(ended[-1], held.begin), committed) if ended else committed
