"""Names of snapshots' files, and what follows from names alone: ranges, gaps, and which file tells of an offset.

    snapshots/STREAM/day=2026-01-31/TOPIC-PARTITION-BEGIN-END-TOPICID-RUN-1of2.parquet
    snapshots/STREAM/_begun/TOPIC-PARTITION-BEGIN-TOPICID

A file covers the offsets from BEGIN to before END, those of rejected records too. TOPICID is a hash of the topic's
id: one that was made anew begins at low offsets again. RUN is drawn at random by who writes, so that two that both
believe to own a partition never write one file. A range whose records came in on several days is as many files,
each in its day's folder; it is whole when all of them are there, and covers nothing before. A name in `begun` says
from where on offsets are recorded.

Files may overlap: those of one that lost the partition without knowing, a larger one and what it was merged of.
Each offset is one file's: of whole ranges that of the one that begins first, and the longest of those.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from typing import NamedTuple

from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.stages.decode import MAX_TIME_MS

DAY_MS = 86_400_000
_EPOCH = date(1970, 1, 1)
_FILE = re.compile(
    r"day=(\d{4}-\d\d-\d\d)/(.+)-(\d+)-(\d+)-(\d+)-([0-9a-f]{8})-([0-9a-f]{8})-(\d+)of(\d+)\.parquet"
)
_BEGUN = re.compile(r"_begun/(.+)-(\d+)-(\d+)-([0-9a-f]{8})")


class Topic(NamedTuple):
    """One partition of a topic, while that is not made anew."""

    partition: TopicPartition
    id_hash: str


@dataclass(frozen=True, slots=True)
class File:
    """What a file's name tells."""

    name: str
    topic: Topic
    covered: OffsetRange
    run: str
    day: int
    """Days since 1970, by Kafka timestamp."""
    parts: int
    """Files that cover the range together."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The files that cover one range together."""

    files: tuple[File, ...]

    @property
    def covered(self) -> OffsetRange:
        return self.files[0].covered

    @property
    def topic(self) -> Topic:
        return self.files[0].topic

    @property
    def is_whole(self) -> bool:
        return len(self.files) == self.files[0].parts

    @property
    def newest_day(self) -> int:
        return max(file.day for file in self.files)

    @property
    def oldest_day(self) -> int:
        return min(file.day for file in self.files)


class Segment(NamedTuple):
    """Offsets that are one unit's to tell of."""

    begin: int
    end: int
    unit: Unit


def topic_of(partition: TopicPartition, topic_id: str) -> Topic:
    return Topic(partition, hashlib.sha256(topic_id.encode()).hexdigest()[:8])


def day_of(kafka_ms: int) -> int:
    """Return the day of a Kafka timestamp; one out of all sense is of the first or last day that there is."""
    return min(max(kafka_ms, 0), MAX_TIME_MS) // DAY_MS


def file_name(stream: str, topic: Topic, covered: OffsetRange, run: str, day: int, part: int, parts: int) -> str:
    place = f"{topic.partition.topic}-{topic.partition.partition}-{covered.begin:012d}-{covered.end:012d}"
    folder = f"{folder_of(stream)}/day={_EPOCH + timedelta(day)}"
    return f"{folder}/{place}-{topic.id_hash}-{run}-{part}of{parts}.parquet"


def begun_name(stream: str, topic: Topic, offset: int) -> str:
    place = f"{topic.partition.topic}-{topic.partition.partition}-{offset:012d}"
    return f"{folder_of(stream)}/_begun/{place}-{topic.id_hash}"


def folder_of(stream: str) -> str:
    return f"snapshots/{stream}"


def units_of(stream: str, names: Iterable[str]) -> list[Unit]:
    """Return all units that these names make, by topic, range and run."""
    files = [file for name in names if (file := _file(stream, name)) is not None]
    files.sort(key=lambda file: (*_key(file), file.day))
    return [Unit(tuple(group)) for _, group in groupby(files, key=_key)]


def begun_of(stream: str, names: Iterable[str]) -> list[tuple[Topic, int]]:
    """Return where recording began, of all topics."""
    found = [_BEGUN.fullmatch(name.removeprefix(f"{folder_of(stream)}/")) for name in names]
    return [(Topic(TopicPartition(it[1], int(it[2])), it[4]), int(it[3])) for it in found if it is not None]


def ranges_of(covered: Iterable[OffsetRange]) -> list[OffsetRange]:
    """Return the same offsets as as few ranges as can be, ascending."""
    joined: list[OffsetRange] = []
    for begin, end in sorted(covered):
        if joined and begin <= joined[-1].end:
            joined[-1] = OffsetRange(joined[-1].begin, max(end, joined[-1].end))
        else:
            joined.append(OffsetRange(begin, end))
    return joined


def missing_of(units: Iterable[Unit]) -> set[tuple[Topic, OffsetRange]]:
    """Return what no whole unit covers of all that units cover or lie around; they stand in the order of topics."""
    missing = set()
    for topic, group in groupby(units, key=lambda unit: unit.topic):
        there = list(group)
        whole = ranges_of(unit.covered for unit in there if unit.is_whole)
        at, end = min(unit.covered.begin for unit in there), max(unit.covered.end for unit in there)
        for covered in (*whole, OffsetRange(end, end)):
            if at < covered.begin:
                missing.add((topic, OffsetRange(at, covered.begin)))
            at = max(at, covered.end)
    return missing


def segments_of(units: Iterable[Unit]) -> list[Segment]:
    """Give each offset that units of one topic cover to one of them; ascending.

    A unit that is not whole has those that no whole one covers: the rows that it has, with others missing.
    """
    whole: list[Unit] = []
    torn: list[Unit] = []
    for unit in sorted(units, key=lambda unit: (unit.covered.begin, -unit.covered.end, unit.files[0].run)):
        (whole if unit.is_whole else torn).append(unit)
    taken = ranges_of(unit.covered for unit in whole)
    return sorted([*_by_turns(whole, []), *_by_turns(torn, taken)])


def _by_turns(units: Iterable[Unit], taken: Sequence[OffsetRange]) -> Iterator[Segment]:
    """Give each unit, in the order of where they begin, what lies neither in those before it nor in `taken`.

    A stream has many thousand files, so each is looked at once.
    """
    at = 0
    for unit in units:
        at = max(at, unit.covered.begin)
        for begin, end in taken[bisect_right(taken, at, key=lambda each: each.end) :]:
            if begin >= unit.covered.end:
                break
            if at < begin:
                yield Segment(at, begin, unit)
            at = max(at, end)
        if at < unit.covered.end:
            yield Segment(at, unit.covered.end, unit)
            at = unit.covered.end


def _file(stream: str, name: str) -> File | None:
    found = _FILE.fullmatch(name.removeprefix(f"{folder_of(stream)}/"))
    if found is None:
        return None
    day, topic, partition, begin, end, id_hash, run, _, parts = found.groups()
    try:
        days = (date.fromisoformat(day) - _EPOCH).days
    except ValueError:
        # There is no such day, so it is none of ours.
        return None
    place = Topic(TopicPartition(topic, int(partition)), id_hash)
    return File(name, place, OffsetRange(int(begin), int(end)), run, days, int(parts))


def _key(file: File) -> tuple[Topic, OffsetRange, str, int]:
    return file.topic, file.covered, file.run, file.parts
