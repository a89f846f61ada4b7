"""Snapshots on storage: Parquet files that are only ever created, and read beside their removal.

How files are called, and which of several tells of an offset: `pipeline.connectors.snapshot_names`; what is in
them: `pipeline.connectors.snapshot_files`; how they are removed and merged: `pipeline.connectors.snapshot_tidying`.

A reader lists all names of a stream, and reads the files of the days that it is asked for. Where one of them has
gone meanwhile, it was merged or is too old: the reader lists again and goes on behind the offsets that it has told
of. To list takes time, too, in which a merged file may appear where the list has been, and what went into it
vanish where it has yet to go: what a list lacks counts as missing where the next one lacks it as well.

A range of several days is closed with its last file. Until then it is not there, unless a whole one lies behind it:
then a file of it was lost, and what is left is told with the gap.
"""

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

import numpy as np

from pipeline import metrics
from pipeline.connectors.objects import Storage
from pipeline.connectors.snapshot_files import Decoder, Encoder
from pipeline.connectors.snapshot_names import (
    DAY_MS,
    File,
    Segment,
    Topic,
    Unit,
    begun_name,
    begun_of,
    day_of,
    file_name,
    folder_of,
    missing_of,
    ranges_of,
    segments_of,
    topic_of,
    units_of,
)
from pipeline.connectors.snapshot_tidying import tidy
from pipeline.errors import ConfigError, SnapshotDamaged, SnapshotError, TransientError
from pipeline.logs import about
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.snapshots import Gap, Kept, Limits, Position, Schema, SnapshotRows, Tidied, in_order, joined
from pipeline.stages.decode import MAX_TIME_MS

logger = logging.getLogger(__name__)

_ALL = OffsetRange(0, 2**63 - 1)
_FIRST_MS, _LAST_MS = -(2**63), 2**63 - 1
_MOST_LISTS = 20
"""Each of them lacks something that the one before did not: merges do not follow each other so fast for so long."""


class StoredSnapshots:
    """Snapshots of all streams on a `Storage`; see `pipeline.snapshots.Snapshots`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._run = secrets.token_hex(4)

    def kept(self, stream: str, topic_ids: Mapping[TopicPartition, str]) -> Mapping[TopicPartition, Kept]:
        names = self._storage.list(folder_of(stream))
        units, begun = units_of(stream, names), begun_of(stream, names)
        found = {}
        for partition, topic_id in topic_ids.items():
            topic = topic_of(partition, topic_id)
            whole = [unit for unit in units if unit.topic == topic and unit.is_whole]
            marks = [OffsetRange(offset, offset) for each, offset in begun if each == topic]
            ranges = ranges_of([*(unit.covered for unit in whole), *marks])
            last = max(whole, key=lambda unit: unit.covered.end, default=None)
            before = any(
                each.partition == partition for each in [*(u.topic for u in units), *(t for t, _ in begun)]
            )
            kept = Kept(tuple(ranges), topic_made_anew=before and not ranges)
            if last is not None:
                kept = replace(kept, last=tuple(file.name for file in last.files), last_range=last.covered)
            found[partition] = kept
        return found

    def mark(self, stream: str, partition: TopicPartition, topic_id: str, offset: int) -> None:
        content = json.dumps({"topic_id": topic_id, "offset": offset}).encode()
        self._storage.create(begun_name(stream, topic_of(partition, topic_id), offset), content)

    def partitions_at_first(self, stream: str, topic_id: str, partitions_now: Callable[[], int]) -> int:
        name = f"{folder_of(stream)}/_begun/partitions-{topic_id}.json"
        if self._storage.get(name) is None:
            # Where another recorder is first, its answer is the one that is there.
            self._storage.create(name, json.dumps({"partitions": partitions_now()}).encode())
        try:
            return int(json.loads(self._storage.get(name) or b"")["partitions"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"storage {self._storage.url}: {name} is damaged ({error!r}); remove it: partitions without a "
                "committed offset then begin where the stream's `start` says"
            ) from error

    def partitions(self, stream: str) -> Sequence[TopicPartition]:
        names = self._storage.list(folder_of(stream))
        topics = [
            *(unit.topic for unit in units_of(stream, names)),
            *(topic for topic, _ in begun_of(stream, names)),
        ]
        return sorted({topic.partition for topic in topics})

    def ends(self, stream: str) -> Mapping[str, int]:
        groups = _by_topic([unit for unit in self.units(stream) if unit.is_whole])
        return {_called(topic): max(unit.covered.end for unit in group) for topic, group in groups.items()}

    def schema(self, stream: str) -> Schema | None:
        units = sorted(self.units(stream), key=lambda unit: (unit.newest_day, unit.covered.end), reverse=True)
        for unit in units:
            try:
                with _counted(stream):
                    return self.decoder(stream, unit.files[-1].name).schema
            except SnapshotDamaged as error:
                logger.error("%s", error, extra=about(stream=stream))
        return None

    def write(self, stream: str, rows: SnapshotRows, covered: OffsetRange, newest_ms: int) -> int:
        topic = topic_of(rows.partition, rows.topic_id)
        day_N = np.clip(rows.kafka_ms_N, 0, MAX_TIME_MS) // DAY_MS
        days = np.unique(day_N).tolist() or [day_of(newest_ms)]
        written = 0
        for number, day in enumerate(days, 1):
            encoder = Encoder(stream, rows, covered)
            encoder.add(rows if len(days) == 1 else rows.take(day_N == day))
            content = encoder.finish()
            # One that is there is this very file: storage took it before, and did not say so.
            self._storage.create(file_name(stream, topic, covered, self._run, day, number, len(days)), content)
            written += len(content)
        return written

    def rows_of(self, stream: str, names: Sequence[str]) -> Iterator[SnapshotRows]:
        with _counted(stream):
            for name in names:
                yield from self.decoder(stream, name).read(_ALL, _FIRST_MS, _LAST_MS)

    def discard(self, stream: str, names: Sequence[str]) -> None:
        for name in names:
            self._storage.delete(name)
        metrics.SNAPSHOT_FILES_REMOVED.labels(stream, "damaged").inc(len(names))

    def read(
        self,
        stream: str,
        from_ms: int,
        to_ms: int,
        gap: Callable[[Gap], None],
        features: Sequence[str] | None = None,
        since: Mapping[TopicPartition, Position | None] | None = None,
        until: Mapping[str, int] | None = None,
    ) -> Iterator[SnapshotRows]:
        reading = _Reading(self, stream, from_ms, to_ms, gap, features)
        units = self.settled_units(stream)
        # A topic that was made anew comes behind the earlier one.
        first_day = {topic: min(unit.oldest_day for unit in group) for topic, group in _by_topic(units).items()}
        topics = sorted(first_day, key=lambda topic: (topic.partition, first_day[topic], topic))
        for topic, offset in _asked(topics, since):
            rows = reading.topic(topic, units, offset)
            yield from rows if until is None else _before(rows, until.get(_called(topic), 0))

    def tidy(self, stream: str, now_ms: int, limits: Limits, mine: Callable[[TopicPartition], bool]) -> Tidied:
        return tidy(self._storage, stream, now_ms, limits, mine)

    def units(self, stream: str) -> list[Unit]:
        return units_of(stream, self._storage.list(folder_of(stream)))

    def settled_units(self, stream: str) -> list[Unit]:
        """Return all units, of a list that lacks nothing by chance.

        Raises:
            TransientError: each list lacks something else.
        """
        missing: set[tuple[Topic, OffsetRange]] | None = None
        for _ in range(_MOST_LISTS):
            units = self.units(stream)
            missing_now = missing_of(units)
            if not missing_now or (missing is not None and missing_now <= missing):
                return units
            missing = missing_now
        raise TransientError(f"snapshots of {stream}: their files change while they are listed; try again")

    def content(self, name: str) -> bytes | None:
        return self._storage.get(name)

    def decoder(self, stream: str, name: str, content: bytes | None = None) -> Decoder:
        content = self._storage.get(name) if content is None else content
        if content is None:
            raise SnapshotDamaged(f"snapshot {self._storage.url}/{name}: it is gone; list again")
        (unit,) = units_of(stream, [name])
        return Decoder(content, stream, unit.files[0], self._storage.url)


class _Reading:
    """One reading of a stream's range of time."""

    def __init__(
        self,
        snapshots: StoredSnapshots,
        stream: str,
        from_ms: int,
        to_ms: int,
        gap: Callable[[Gap], None],
        features: Sequence[str] | None,
    ) -> None:
        self._snapshots, self._stream = snapshots, stream
        self._from_ms, self._to_ms = from_ms, to_ms
        self._days = range(day_of(from_ms), day_of(to_ms - 1) + 1 if to_ms > from_ms else day_of(from_ms))
        self._gap, self._features = gap, features
        self._schema: Schema | None = None
        """Of the first file; those of all others have to be the same."""
        self._told: int | None = None
        """Before this offset nothing is left to tell; None: nothing was told yet."""
        self._gaps: set[OffsetRange] = set()

    def topic(self, topic: Topic, units: Sequence[Unit], begin: int | None = None) -> Iterator[SnapshotRows]:
        """Yield the rows of one topic's partition from an offset on; lists again where a file has gone."""
        self._told = begin
        self._gaps.clear()
        missed: set[str] = set()
        while True:
            segments = segments_of(unit for unit in units if unit.topic == topic)
            while segments and not segments[-1].unit.is_whole:
                segments.pop()
            gone: list[str] = []
            for segment, contents in self._contents(topic, segments):
                gone = [file.name for file, content in contents if content is None]
                if gone:
                    break
                yield from self._rows(
                    segment, [(file, content) for file, content in contents if content is not None]
                )
                self._told = segment.end
            if not gone:
                return
            if missed.intersection(gone):
                raise TransientError(f"snapshot {gone[0]} is listed and cannot be read; try again")
            missed.update(gone)
            units = self._snapshots.settled_units(self._stream)

    def _contents(
        self, topic: Topic, segments: Sequence[Segment]
    ) -> Iterator[tuple[Segment, list[tuple[File, bytes | None]]]]:
        """Yield the segments that were not told of, with their files of the days asked for; tell of gaps."""
        oldest_day = self._days.start
        for segment in segments:
            unit = segment.unit
            if self._told is None or segment.end > self._told:
                if self._told is not None and segment.begin > self._told:
                    self._tell(topic, OffsetRange(self._told, segment.begin), oldest_day, unit.newest_day)
                if not unit.is_whole:
                    self._tell(topic, OffsetRange(segment.begin, segment.end), unit.oldest_day, unit.newest_day)
                asked = [file for file in unit.files if file.day in self._days]
                if asked:
                    # A larger file, in which those were merged that were told of, begins before them.
                    left = segment._replace(begin=max(segment.begin, self._told or 0))
                    yield left, [(file, self._snapshots.content(file.name)) for file in asked]
                self._told = segment.end
            oldest_day = unit.oldest_day

    def _tell(self, topic: Topic, missing: OffsetRange, oldest_day: int, newest_day: int) -> None:
        """Tell once of a gap, where its days are asked for; it lies between these."""
        if oldest_day < self._days.stop and newest_day >= self._days.start and missing not in self._gaps:
            self._gaps.add(missing)
            self._gap(Gap(self._stream, topic.partition, *missing))

    def _rows(self, segment: Segment, contents: Sequence[tuple[File, bytes]]) -> Iterator[SnapshotRows]:
        offsets = OffsetRange(segment.begin, segment.end)
        parts = [self._file(file, content, offsets) for file, content in contents]
        if len(parts) == 1:
            yield from parts[0]
        elif rows := [rows for part in parts for rows in part]:
            yield in_order(joined(rows))

    def _file(self, file: File, content: bytes, offsets: OffsetRange) -> Iterator[SnapshotRows]:
        with _counted(self._stream):
            decoder = self._snapshots.decoder(self._stream, file.name, content)
            if self._schema is None:
                held = decoder.schema
                self._schema = held if self._features is None else held._replace(features=tuple(self._features))
            decoder.require(self._schema)
            yield from decoder.read(offsets, self._from_ms, self._to_ms)


@contextmanager
def _counted(stream: str) -> Iterator[None]:
    try:
        yield
    except SnapshotError:
        metrics.SNAPSHOT_FILES_REFUSED.labels(stream).inc()
        raise


def _asked(
    topics: Sequence[Topic], since: Mapping[TopicPartition, Position | None] | None
) -> Iterator[tuple[Topic, int | None]]:
    """Yield the topics that are to be read, which stand in their order, each with its first offset; None: all."""
    if since is None:
        yield from ((topic, None) for topic in topics)
        return
    for place, at in sorted(since.items()):
        later = [topic for topic in topics if topic.partition == place]
        if at is not None:
            first = topic_of(place, at.topic_id)
            if first not in later:
                continue
            yield first, at.offset
            later = later[later.index(first) + 1 :]
        yield from ((topic, None) for topic in later)


def _before(parts: Iterator[SnapshotRows], end: int) -> Iterator[SnapshotRows]:
    """Yield the rows with offsets before one; a file may have been merged with what came after it."""
    for rows in parts:
        if len(rows) and rows.offset_N[-1] >= end:
            yield rows.take(rows.offset_N < end)
            return
        yield rows


def _called(topic: Topic) -> str:
    return f"{topic.partition.topic}-{topic.partition.partition}-{topic.id_hash}"


def _by_topic(units: Sequence[Unit]) -> dict[Topic, list[Unit]]:
    return {topic: list(group) for topic, group in groupby(units, key=lambda unit: unit.topic)}
