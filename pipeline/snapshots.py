"""Snapshots of a stream: every accepted row of its records, kept as columns; and what is asked of their storage.

The recorder writes them; retraining, backtests and people read them. `pipeline.connectors.snapshots` keeps them as
Parquet files, and tells how.

A range of time is one of Kafka timestamps: they say when a record came in, and by them files are laid into days.
Event times are a column like others, for a record may come days after what it tells of.

Legend: N rows, F features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray
from models.spec import ImageShape, Kind
from pipeline.protocols import OffsetRange, TopicPartition

CodeArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class SnapshotRows:
    """Rows of one partition, in the order of offset and row in the record."""

    partition: TopicPartition
    topic_id: str
    """Tells the topic from a later one of the same name, whose offsets begin anew."""
    features: tuple[str, ...]
    offset_N: IntArray
    row_N: IntArray
    """Row in the record."""
    kafka_ms_N: IntArray
    """The record's Kafka timestamp; -1: it has none."""
    time_ms_N: IntArray
    """Event time."""
    series: Sequence[str] | None
    """Names of series, each once; None where records belong to none (`kind: features` and `images`)."""
    code_N: CodeArray
    """Index in `series` of each row's name."""
    values_NF: FloatArray
    """As they were decoded; NaN where one was missing and may be held. Of images values of one byte (uint8)."""
    late_N: BoolArray
    """Rows not later than one before them of their series, which the worker leaves out. As far as the recorder
    knew: at its start it knows of its newest file."""
    image: ImageShape | None = None
    """The size of images, of whose pixels the features are the values."""

    def __len__(self) -> int:
        return len(self.offset_N)

    def take(self, which: Any) -> Self:
        """Return the rows that an index or mask names; names of series stay."""
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})

    @property
    def size_bytes(self) -> int:
        return sum(int(getattr(self, name).nbytes) for name in COLUMNS)


COLUMNS = [each.name for each in fields(SnapshotRows) if each.name.endswith(("_N", "_NF"))]
"""The arrays, one entry a row each."""


def stacked(parts: Sequence[SnapshotRows], series: Sequence[str] | None) -> SnapshotRows:
    """Return the rows of parts of one partition whose codes all name the same `series`; there is one part at
    least."""
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    return replace(parts[0], series=series, **whole)


def joined(parts: Sequence[SnapshotRows]) -> SnapshotRows:
    """Return the rows of parts of one partition, one behind the other; there is one part at least."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].series is None:
        return stacked(parts, None)
    place: dict[str, int] = {}
    recoded = []
    for part in parts:
        own = np.array([place.setdefault(name, len(place)) for name in part.series or ()], np.int64)
        recoded.append(replace(part, code_N=own[part.code_N]))
    return stacked(recoded, list(place))


def in_order(rows: SnapshotRows) -> SnapshotRows:
    """Return rows by offset and row in the record."""
    return rows.take(np.lexsort((rows.row_N, rows.offset_N)))


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets from `begin` to before `end` of which no file tells: expired unread, or a file is missing."""

    stream: str
    partition: TopicPartition
    begin: int
    end: int

    def __str__(self) -> str:
        return f"stream {self.stream}: snapshots lack offsets {self.begin} to {self.end - 1} of {self.partition}"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one partition."""

    ranges: Sequence[OffsetRange] = ()
    """Offsets that whole files cover, as few ranges as can be, ascending; an empty one is where recording began."""
    last: Sequence[str] = ()
    """Names of the files that end last: several, where the rows of their range are of several days."""
    last_range: OffsetRange | None = None
    topic_made_anew: bool = False
    """Whether there is nothing of this topic, but something of an earlier one of its name."""


class Position(NamedTuple):
    """A record of a partition, of the topic with this id."""

    topic_id: str
    offset: int


class Schema(NamedTuple):
    """What tells the columns of one file from those of another."""

    features: tuple[str, ...]
    has_series: bool
    """For `kind: series` only."""
    image: ImageShape | None = None
    """For `kind: images` only."""

    @property
    def rows_are(self) -> str:
        """What the rows are, in words."""
        return rows_are("series" if self.has_series else "features", self.image)


def rows_are(kind: Kind, image: ImageShape | None) -> str:
    """Return what rows of a stream are, in words: where they differ, neither can stand for the other."""
    if image is not None:
        return f"images of {image}"
    return "series" if kind == "series" else "records of no series"


def mismatch(held: Schema | None, kind: Kind, image: ImageShape | None) -> str | None:
    """Return for an error how rows that are held differ from those of a configuration, and the key to set back;
    None: they do not, or none are held."""
    asked = rows_are(kind, image)
    if held is None or held.rows_are == asked:
        return None
    key = "image" if held.image and image else "kind"
    return f"its snapshots hold {held.rows_are}, and {asked} are asked for; set `{key}` back"


@dataclass(frozen=True, slots=True)
class Limits:
    """What storage may hold of a stream."""

    keep_ms: float | None = None
    """Files whose records all came in longer ago are removed; None: none for its age."""
    keep_bytes: int | None = None
    """Beyond, the oldest files are removed; None: none for their size."""
    merged_bytes: int = 64 << 20
    """Small files of past days are merged up to this size."""


@dataclass(frozen=True, slots=True)
class Tidied:
    """What one round of tidying came to."""

    files: int = 0
    stored_bytes: int = 0
    """What is held after it."""
    removed_for_age: int = 0
    removed_for_size: int = 0
    merged: int = 0
    """Files that went into larger ones."""
    more: bool = False
    """Whether the next round would find something to do at once."""


class Snapshots(Protocol):
    """Snapshots of all streams. A file is seen whole or not at all, and never changes.

    All methods raise TransientError where storage does not answer or is full, and ConfigError without the right to
    it.
    """

    def kept(self, stream: str, topic_ids: Mapping[TopicPartition, str]) -> Mapping[TopicPartition, Kept]:
        """Return what is kept of partitions, of a topic with this id."""

    def mark(self, stream: str, partition: TopicPartition, topic_id: str, offset: int) -> None:
        """Note where recording of a partition begins, before there is a file."""

    def partitions_at_first(self, stream: str, topic_id: str, partitions_now: Callable[[], int]) -> int:
        """Return how many partitions a topic had when its recording began; the first answer is kept for ever."""

    def partitions(self, stream: str) -> Sequence[TopicPartition]:
        """Return the partitions of which anything is kept, or of which recording has begun."""

    def ends(self, stream: str) -> Mapping[str, int]:
        """Return up to before which offset each partition of each topic is kept, under a name that `read` knows."""

    def schema(self, stream: str) -> Schema | None:
        """Return what the stream's newest file holds; None: there is no file that can be read.

        Raises:
            SnapshotError: it is none of ours.
        """

    def write(self, stream: str, rows: SnapshotRows, covered: OffsetRange, newest_ms: int) -> int:
        """Keep the rows of a range of offsets, be they none; return the bytes that they take.

        `newest_ms` is the Kafka timestamp of the range's last record, rejected or not.
        """

    def rows_of(self, stream: str, names: Sequence[str]) -> Iterator[SnapshotRows]:
        """Yield all rows of the files of one range, file by file, some 100,000 rows at a time.

        Raises:
            SnapshotError: one is damaged or gone.
        """

    def discard(self, stream: str, names: Sequence[str]) -> None:
        """Remove files that are damaged, whose records can be read again."""

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
        """Yield all rows with Kafka timestamps from `from_ms` to before `to_ms`, each row once.

        They come partition by partition, each in the order of its offsets, some 100,000 rows at a time. `gap` is
        told of offsets that are missing before the rows behind them come. Files are removed and merged beside it.

        `features` that are not those of the files are refused; None: all files have the same, whichever. All hold
        series, or none does. With `since` only these partitions are read, each from a record on: neither what comes
        before it of its topic, nor an earlier topic of that name. None: from its first record. With `until`, as
        `ends` returned it, nothing is read that was recorded after that.

        Raises:
            SnapshotError: a file is damaged, or has another schema.
        """

    def tidy(self, stream: str, now_ms: int, limits: Limits, mine: Callable[[TopicPartition], bool]) -> Tidied:
        """Remove what is beyond the limits, and merge small files of partitions that are `mine`; a bounded step."""
