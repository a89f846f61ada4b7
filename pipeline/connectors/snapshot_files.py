"""Rows of a snapshot <-> the bytes of one file, with a schema that is the same for every file of a stream.

| column | type | what |
|---|---|---|
| `partition` | int32 | of the record; it is the same in all rows of a file, for those who read many |
| `offset` | int64 | of the record |
| `row` | int32 | in the record, from 0 |
| `kafka_ms` | int64 | the record's Kafka timestamp; -1: it has none |
| `time_ms` | int64 | event time |
| `series` | text, each name once | not there for `kind: features` and `images` |
| each feature | float64 | as decoded, so that a replay scores the same to the bit; null where it was missing |
| `pixels` | binary | in place of features for `kind: images`: height x width x channels bytes, row by row |
| `late` | true or false | not later than a row of its series before it |

A feature that is called like one of the others has `_value` behind its name. The metadata say what a file holds,
under keys that begin with `offkey.`: the format's version, stream, features or the size of images, topic, its id,
partition, and the offsets.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from models.arrays import FloatArray
from models.spec import ImageShape, shortened
from pipeline.connectors.parquet import Array, Coded, Columns, ParquetError, Reader, Writer
from pipeline.connectors.snapshot_names import File, topic_of
from pipeline.errors import SnapshotDamaged, SnapshotError
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.snapshots import Schema, SnapshotRows

FORMAT = "1"
_ROWS_AT_ONCE = 2_048
PIXELS = "pixels"
_BEFORE, _SERIES, _AFTER = ("partition", "offset", "row", "kafka_ms", "time_ms"), "series", "late"
_KINDS = {
    "partition": "int32",
    "offset": "int64",
    "row": "int32",
    "kafka_ms": "int64",
    "time_ms": "int64",
    _AFTER: "bool",
}
_KINDS |= {_SERIES: "dictionary<values=string, indices=int32, ordered=0>"}


class Encoder:
    """Writes one file of a stream, portion by portion."""

    def __init__(self, stream: str, like: SnapshotRows, covered: OffsetRange) -> None:
        """`like` are any rows of its topic, features and kind."""
        self._image = like.image
        self._feature_names = _columns_of(like.features) if like.image is None else []
        what = {"features": like.features} if like.image is None else {"image": like.image._asdict()}
        self._writer = Writer(
            {
                "offkey.snapshot": FORMAT,
                "offkey.stream": stream,
                **{f"offkey.{name}": json.dumps(held) for name, held in what.items()},
                "offkey.topic": like.partition.topic,
                "offkey.partition": str(like.partition.partition),
                "offkey.topic_id": like.topic_id,
                "offkey.begin": str(covered.begin),
                "offkey.end": str(covered.end),
            }
        )

    def add(self, rows: SnapshotRows) -> None:
        """Append rows; those of a file are in the order of offset and row."""
        columns: dict[str, Array | Coded] = {
            "partition": np.full(len(rows), rows.partition.partition, np.int32),
            "offset": rows.offset_N,
            "row": rows.row_N.astype(np.int32),
            "kafka_ms": rows.kafka_ms_N,
            "time_ms": rows.time_ms_N,
        }
        if rows.series is not None:
            used, code_N = np.unique(rows.code_N, return_inverse=True)
            columns[_SERIES] = Coded([rows.series[code] for code in used.tolist()], code_N.reshape(-1))
        for number, name in enumerate(self._feature_names):
            columns[name] = np.ascontiguousarray(rows.values_NF[:, number])
        if self._image is not None:
            columns[PIXELS] = np.ascontiguousarray(rows.values_NF)
        columns[_AFTER] = rows.late_N
        self._writer.add(columns)

    def finish(self) -> memoryview:
        """Return the file's bytes."""
        return self._writer.finish()


class Decoder:
    """Reads one file, group by group."""

    def __init__(self, content: bytes, stream: str, file: File, url: str) -> None:
        """Read what the file says that it holds.

        Raises:
            SnapshotError: it is damaged, or of another schema or place than its name says.
        """
        self._name = f"{url}/{file.name}"
        try:
            self._reader = Reader(content)
            facts = self._reader.facts
        except ParquetError as error:
            raise self._damaged(error) from error
        if facts.get("offkey.snapshot") != FORMAT:
            raise self._refused(
                f"it is no snapshot of format {FORMAT}; move it out of the folder, or use the offkey that wrote it"
            )
        try:
            image = json.loads(facts.get("offkey.image", "null"))
            self.image = None if image is None else ImageShape(**image)
            named = json.loads(facts["offkey.features"]) if self.image is None else self.image.names
            self.features: tuple[str, ...] = tuple(named)
            self._partition = TopicPartition(facts["offkey.topic"], int(facts["offkey.partition"]))
            self._topic_id = facts["offkey.topic_id"]
            covered = OffsetRange(int(facts["offkey.begin"]), int(facts["offkey.end"]))
            of_stream = facts["offkey.stream"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._refused(f"it tells wrongly what it is ({error!r}); move it out of the folder") from error
        if (of_stream, topic_of(self._partition, self._topic_id), covered) != (stream, file.topic, file.covered):
            raise self._refused(
                "it was written under another name; give it that one again, or move it out of the folder"
            )
        self.has_series = _SERIES in self._reader.names
        held = _columns_of(self.features) if self.image is None else [PIXELS]
        names = [*_BEFORE, *([_SERIES] if self.has_series else []), *held, _AFTER]
        of_values = "double" if self.image is None else f"fixed_size_binary[{self.image.values}]"
        kinds = [_KINDS.get(name, of_values) for name in names]
        found = self._reader.kinds
        asked = dict(zip(names, kinds, strict=True))
        if list(found.items()) != list(asked.items()):
            raise self._refused(
                f"it has the columns {_told(found)}, where snapshots have {_told(asked)}; move it out of the folder"
            )

    @property
    def schema(self) -> Schema:
        return Schema(self.features, self.has_series, self.image)

    def require(self, asked: Schema) -> None:
        """See that the file holds these features, and series or none, or images.

        Raises:
            SnapshotError: it holds others.
        """
        if self.schema.rows_are != asked.rows_are:
            raise self._refused(
                f"it holds {self.schema.rows_are}, and {asked.rows_are} are asked for; read a range of time of one "
                "`kind`, or move the files of the other out of the folder"
            )
        if self.features != asked.features:
            raise self._refused(
                f"it holds the features {shortened(self.features)}, and {shortened(asked.features)} are asked for; "
                "read a range of time in which they are the same, or move the files of others out of the folder"
            )

    def read(self, offsets: OffsetRange, from_ms: int, to_ms: int) -> Iterator[SnapshotRows]:
        """Yield the rows with these offsets and Kafka timestamps; groups that have none are passed over.

        Raises:
            SnapshotError: the file is damaged.
        """
        for group in range(self._reader.groups):
            if self._within(group, "offset", *offsets) and self._within(group, "kafka_ms", from_ms, to_ms):
                try:
                    rows = self._rows(self._reader.read(group))
                except ParquetError as error:
                    raise self._damaged(error) from error
                asked_N = (rows.offset_N >= offsets.begin) & (rows.offset_N < offsets.end)
                asked_N &= (rows.kafka_ms_N >= from_ms) & (rows.kafka_ms_N < to_ms)
                if asked_N.any():
                    yield rows if asked_N.all() else rows.take(asked_N)

    def empty(self) -> SnapshotRows:
        """Return no rows, of the file's topic, features and kind."""
        none_N = np.zeros(0, np.int64)
        values_NF = np.zeros((0, len(self.features)), np.float64 if self.image is None else np.uint8)
        return SnapshotRows(
            self._partition,
            self._topic_id,
            self.features,
            offset_N=none_N,
            row_N=none_N,
            kafka_ms_N=none_N,
            time_ms_N=none_N,
            series=[] if self.has_series else None,
            code_N=none_N,
            values_NF=cast(FloatArray, values_NF),
            late_N=np.zeros(0, np.bool_),
            image=self.image,
        )

    def _within(self, group: int, name: str, begin: int, end: int) -> bool:
        bounds = self._reader.bounds(group, name)
        return bounds is None or (bounds[0] < end and bounds[1] >= begin)

    def _rows(self, columns: Columns) -> SnapshotRows:
        series = columns.coded(_SERIES) if self.has_series else None
        if self.image is None:
            values_NF = _rows_of([columns.array(name) for name in _columns_of(self.features)], columns.rows)
        else:
            values_NF = cast(FloatArray, columns.bytes_of_rows(PIXELS, self.image.values))
        return SnapshotRows(
            self._partition,
            self._topic_id,
            self.features,
            columns.array("offset"),
            columns.array("row").astype(np.int64),
            columns.array("kafka_ms"),
            columns.array("time_ms"),
            None if series is None else series.names,
            np.zeros(columns.rows, np.int64) if series is None else series.code_N.astype(np.int64),
            values_NF,
            columns.array(_AFTER),
            self.image,
        )

    def _damaged(self, error: ParquetError) -> SnapshotError:
        return SnapshotDamaged(
            f"snapshot {self._name}: it is damaged or cut off ({error}); put it back from a copy, or remove it: "
            "its offsets are a gap then"
        )

    def _refused(self, why: str) -> SnapshotError:
        return SnapshotError(f"snapshot {self._name}: {why}")


def _rows_of(columns: Sequence[Array], rows: int) -> FloatArray:
    """Return columns side by side; some rows at a time, for what is written across has to stay in the cache."""
    values_NF = np.empty((rows, len(columns)))
    for begin in range(0, rows, _ROWS_AT_ONCE):
        for place, column in enumerate(columns):
            values_NF[begin : begin + _ROWS_AT_ONCE, place] = column[begin : begin + _ROWS_AT_ONCE]
    return values_NF


def _columns_of(features: Sequence[str]) -> list[str]:
    taken = {*_BEFORE, _SERIES, _AFTER}
    names: list[str] = []
    for name in features:
        while name in taken:
            name += "_value"
        names.append(name)
        taken.add(name)
    return names


def _told(kinds: Mapping[str, str]) -> str:
    return shortened([f"{name} {kind}" for name, kind in kinds.items()], 12)
