"""What keeps snapshots within their limits: files too old or too many are removed, small ones of past days merged.

Safe beside readers, the recorder, another one that does the same, and an end between any two lines: a file goes
only when it is too old, or when another one that is there tells of all its offsets. That other one covers more of
them, or as many and comes first by name, so of two at work none removes what the other rests on. A merged file is
created whole before those that went into it are removed; where it takes several files, for its days, they count
only together. What a crash leaves behind are files that overlap, which readers take for what they are, and the next
round removes.

Age is counted to the newest day that the stream has, or to the clock where that is earlier: neither a clock nor a
producer's timestamp that is far ahead removes anything. The file that ends last of each partition always stays, for
by it the recorder knows where to go on.
"""

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from pipeline import metrics
from pipeline.connectors.objects import Storage
from pipeline.connectors.parquet import ROWS_A_GROUP
from pipeline.connectors.snapshot_files import Decoder, Encoder
from pipeline.connectors.snapshot_names import (
    DAY_MS,
    Segment,
    Unit,
    day_of,
    file_name,
    folder_of,
    segments_of,
    units_of,
)
from pipeline.errors import SnapshotError
from pipeline.logs import about
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.snapshots import Limits, Schema, SnapshotRows, Tidied, joined

logger = logging.getLogger(__name__)

_ALL_MS = -(2**63), 2**63 - 1
_MERGED_AT_ONCE = 2**28
"""Most bytes of rows in memory, unpacked."""


def tidy(
    storage: Storage, stream: str, now_ms: int, limits: Limits, mine: Callable[[TopicPartition], bool]
) -> Tidied:
    """Remove what is beyond the limits, and merge one group of small files; see `pipeline.snapshots.Snapshots`."""
    sizes = storage.sizes(folder_of(stream))
    units = units_of(stream, sizes)

    def size_of(unit: Unit) -> int:
        return sum(sizes[file.name] for file in unit.files)

    def remove(chosen: Sequence[Unit], why: str) -> int:
        names = [file.name for unit in chosen for file in unit.files]
        for name in names:
            storage.delete(name)
            del sizes[name]
        metrics.SNAPSHOT_FILES_REMOVED.labels(stream, why).inc(len(names))
        if names:
            said = about(stream=stream)
            logger.info("stream %s: removed %d snapshot files (%s)", stream, len(names), why, extra=said)
        gone = set(chosen)
        units[:] = [unit for unit in units if unit not in gone]
        return len(names)

    old = remove(_too_old(units, now_ms, limits.keep_ms), "age")
    many = remove(_too_many(units, size_of, limits.keep_bytes), "size")
    remove(_needless(units, mine), "merged")
    groups = _small_groups(units, size_of, limits.merged_bytes, mine)
    merged, more = 0, False
    for group in groups:
        if merged:
            more = True
            break
        inside = _Merging(storage, stream, group).run()
        merged = remove([unit for unit in units if unit in inside], "merged")
    stored = storage.sizes(folder_of(stream)) if merged else sizes
    return Tidied(len(units_of(stream, stored)), sum(stored.values()), old, many, merged, more)


def _too_old(units: Sequence[Unit], now_ms: int, keep_ms: float | None) -> list[Unit]:
    if keep_ms is None or not units:
        return []
    newest_ms = (max(unit.newest_day for unit in units) + 1) * DAY_MS
    oldest_day = day_of(int(min(now_ms, newest_ms) - keep_ms))
    last = _last(units)
    return [unit for unit in units if unit.newest_day < oldest_day and unit not in last]


def _too_many(units: Sequence[Unit], size_of: Callable[[Unit], int], keep_bytes: int | None) -> list[Unit]:
    held = sum(map(size_of, units))
    last, chosen = _last(units), []
    for unit in sorted(units, key=lambda unit: (unit.newest_day, unit.covered.begin, unit.topic)):
        if keep_bytes is None or held <= keep_bytes:
            break
        if unit not in last:
            chosen.append(unit)
            held -= size_of(unit)
    return chosen


def _last(units: Sequence[Unit]) -> set[Unit]:
    """Return the whole unit that ends last of each partition, of the topic that has the newest day."""
    whole = sorted((unit for unit in units if unit.is_whole), key=lambda unit: (unit.newest_day, unit.covered.end))
    topics = {unit.topic.partition: unit.topic for unit in whole}
    ascending = sorted(whole, key=lambda unit: unit.covered.end)
    return set({unit.topic: unit for unit in ascending if topics[unit.topic.partition] == unit.topic}.values())


def _needless(units: Sequence[Unit], mine: Callable[[TopicPartition], bool]) -> list[Unit]:
    """Return units all of whose offsets one other whole unit covers."""
    needless = []
    for topic, group in groupby(units, key=lambda unit: unit.topic):
        widest: Unit | None = None
        whole = [unit for unit in group if unit.is_whole and mine(topic.partition)]
        for unit in sorted(whole, key=lambda it: (it.covered.begin, -it.covered.end, it.files[0].run)):
            if widest is not None and unit.covered.end <= widest.covered.end:
                needless.append(unit)
            else:
                widest = unit
    return needless


def _small_groups(
    units: Sequence[Unit], size_of: Callable[[Unit], int], most_bytes: int, mine: Callable[[TopicPartition], bool]
) -> Iterator[list[Segment]]:
    """Yield neighbouring segments whose newest records are of one past day, and that fit into one file."""
    today = max((unit.newest_day for unit in units), default=0)
    for topic, group in groupby(units, key=lambda unit: unit.topic):
        if not mine(topic.partition):
            continue
        chain: list[Segment] = []
        size = 0
        for segment in segments_of(group):
            joins = bool(chain) and chain[-1].end == segment.begin and segment.unit.is_whole
            joins = joins and chain[-1].unit.newest_day == segment.unit.newest_day
            if not joins or size + size_of(segment.unit) > most_bytes:
                if len(chain) > 1:
                    yield chain
                chain, size = [], 0
            if segment.unit.is_whole and segment.unit.newest_day < today:
                chain.append(segment)
                size += size_of(segment.unit)
        if len(chain) > 1:
            yield chain


class _Merging:
    """One range of offsets, on its way from many files into few."""

    def __init__(self, storage: Storage, stream: str, segments: Sequence[Segment]) -> None:
        self._storage, self._stream, self._segments = storage, stream, segments
        self._covered = OffsetRange(segments[0].begin, segments[-1].end)

    def run(self) -> list[Unit]:
        """Write the merged files; return the units that they are there for now, none where one could not be
        read."""
        topic, run = self._segments[0].unit.topic, secrets.token_hex(4)
        days = sorted({file.day for segment in self._segments for file in segment.unit.files})
        try:
            contents = {day: self._merged(day) for day in days}
        except SnapshotError as error:
            metrics.SNAPSHOT_FILES_REFUSED.labels(self._stream).inc()
            logger.error("%s; files beside it are not merged", error, extra=about(stream=self._stream))
            return []
        if None in contents.values():
            return []
        for number, (day, content) in enumerate(contents.items(), 1):
            name = file_name(self._stream, topic, self._covered, run, day, number, len(days))
            assert content is not None
            if not self._storage.create(name, content):
                return []
        metrics.SNAPSHOT_FILES_MERGED.labels(self._stream).inc(sum(len(it.unit.files) for it in self._segments))
        return [each.unit for each in self._segments if self._holds(each.unit.covered)]

    def _holds(self, covered: OffsetRange) -> bool:
        return self._covered.begin <= covered.begin and covered.end <= self._covered.end

    def _merged(self, day: int) -> memoryview | None:
        """Return the bytes of one day's file; None: a file that it is made of has gone."""
        encoder: Encoder | None = None
        waiting: list[SnapshotRows] = []
        schema: Schema | None = None
        for segment in self._segments:
            for file in segment.unit.files:
                if file.day != day:
                    continue
                content = self._storage.get(file.name)
                if content is None:
                    return None
                decoder = Decoder(content, self._stream, file, self._storage.url)
                schema = schema or decoder.schema
                decoder.require(schema)
                encoder = encoder or Encoder(self._stream, decoder.empty(), self._covered)
                for rows in decoder.read(OffsetRange(segment.begin, segment.end), *_ALL_MS):
                    waiting.append(rows)
                    # Not once a file: what is packed small may be very many rows.
                    held = sum(map(len, waiting)), sum(rows.size_bytes for rows in waiting)
                    if held[0] >= ROWS_A_GROUP or held[1] >= _MERGED_AT_ONCE:
                        encoder.add(joined(waiting))
                        waiting = []
        assert encoder is not None, "a day has files"
        encoder.add(joined(waiting) if waiting else decoder.empty())
        return encoder.finish()
