"""Raw records -> one columnar `Batch` and a list of rejects.

A record is one row here; those of many rows are decoded by `pipeline.stages.tables`, and images by
`pipeline.stages.images`, to the same batch.

Each record is judged alone: a bad one never harms its neighbours, and its bytes stay untouched so that it
can be dead-lettered as it came.

A record whose event time is too far ahead would make every later one of its series late. It is measured by
the record's Kafka timestamp and not by a clock of ours, so that a replay decides the same. Where that timestamp
is the broker's (`message.timestamp.type=LogAppendTime`), no producer's clock gets past the limit. Where it is
the producer's own (`CreateTime`, Kafka's default), a clock that is wrong as a whole moves both, and it is the
broker that refuses: by default more than an hour ahead from Kafka 4 on (`message.timestamp.after.max.ms`), never
before. Without a `time` field there is nothing else to compare, and without a Kafka timestamp nothing at all.
What gets through shows as late records of the series until time has caught up.

Legend: N records, F features.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from models.arrays import BoolArray, FloatArray, IntArray
from pipeline.formats.fields import Fields, Malformed
from pipeline.formats.json import JsonFormat
from pipeline.protocols import PartitionRecords, RawRecord, TopicPartition

REASONS = {
    "tombstone": "the record has no value",
    "empty": "the value has no bytes",
    "too_large": "the value is larger than `max_record_bytes`",
    "not_utf8": "the value is not UTF-8",
    "not_json": "the value is not JSON",
    "not_arrow": "the value is not one whole Arrow IPC stream",
    "not_image": "the value is no image of the stream's `format`",
    "bad_image": "the image is cut off or damaged",
    "wrong_size": "the image is of another height or width than the stream's `image`",
    "wrong_mode": "the image has other channels than the stream's `image`, or not 8 bits of each",
    "too_deep": "objects or arrays are nested too deep",
    "not_object": "the value is JSON, but not an object",
    "missing_field": "a feature, the time or a series field is absent or null",
    "wrong_type": "a field holds something else than asked for, such as text in place of a number",
    "not_finite": "a number is NaN, infinite or too large for 32-bit floats",
    "no_series": "nothing names the series: the key is absent or not UTF-8",
    "bad_time": "the event time is absent, before 1970 or after 2100",
    "time_ahead": "the event time is further ahead of the record's Kafka timestamp than `max_ahead`",
    "held_too_long": "a feature was missing for longer than `hold_points` points",
}
"""Why a record goes to the dead-letter topic: the values of the metric's label `reason`."""

MAX_TIME_MS = 4_102_444_800_000
"""2100-01-01: later event times are taken for mistakes in the unit."""

TimeUnit = Literal["ms", "s", "us", "ns", "iso8601"]
_MS_PER_UNIT = {"ms": 1.0, "s": 1e3, "us": 1e-3, "ns": 1e-6, "iso8601": 1.0}
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is not scored, or one row of it, and why."""

    partition: TopicPartition
    record: RawRecord
    row: int
    """Index of the record in the `PartitionRecords` it came from."""
    reason: str
    text: str
    inner: int | None = None
    """Row in the record; None: it is rejected whole."""
    inner_value: Callable[[], bytes] | None = None
    """Gives that row alone; asked for when it is published, which a replay does not do."""

    @property
    def value(self) -> bytes | None:
        """What to dead-letter: the record's own bytes, or its one row."""
        return self.record.value if self.inner_value is None else self.inner_value()


@dataclass(frozen=True, slots=True)
class Batch:
    """Accepted rows of one partition, as columns, in the order of offset and row in the record."""

    partition: TopicPartition
    series: Sequence[str]
    """Names of series; "" for features. One a row, or with `code_N` each once."""
    time_ms_N: IntArray
    values_NF: FloatArray
    """NaN where a feature was missing and may be held. Of images values of one byte (uint8)."""
    row_N: IntArray
    """Index of each row's record in the `PartitionRecords` it came from."""
    offset_N: IntArray
    published_ms_N: IntArray
    """Kafka timestamps of the rows' records; -1: there is none."""
    inner_N: IntArray | None = None
    """Row in the record; None: a record is one row."""
    code_N: IntArray | None = None
    """Index in `series` of each row's name."""

    def __len__(self) -> int:
        return len(self.offset_N)

    @property
    def place_in_record_N(self) -> IntArray:
        """Return the row in the record of each row."""
        return np.zeros(len(self), np.int64) if self.inner_N is None else self.inner_N

    @property
    def series_of_rows(self) -> Sequence[str]:
        """Return one name a row."""
        return self.series if self.code_N is None else [self.series[code] for code in self.code_N.tolist()]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows as they were read, before their numbers are judged."""

    row_N: IntArray
    values_NF: FloatArray
    """NaN where a feature is missing, or not a number."""
    missing_NF: BoolArray
    time_ms_N: IntArray | None
    """None: the records' Kafka timestamps."""
    incomplete_N: BoolArray | None = None
    """Where the time or the series is missing; None: nowhere."""


class Decoder(ABC):
    """Turns the records of a stream into columns."""

    def __init__(
        self,
        fields: Fields,
        *,
        stateless: bool,
        time_unit: TimeUnit = "ms",
        max_ahead_ms: int = 3_600_000,
        max_record_bytes: int = 1_048_576,
    ) -> None:
        """`stateless` records, all but those of series, belong to none, need no key and are never late."""
        self.stateless = stateless
        self._fields = fields
        self._time_unit = time_unit
        self._max_ahead_ms = max_ahead_ms
        self._max_record_bytes = max_record_bytes

    @abstractmethod
    def decode(self, arrived: PartitionRecords) -> tuple[Batch, list[Reject]]:
        """Decode consecutive records of one partition."""

    def split(self, arrived: Sequence[PartitionRecords]) -> Iterator[Sequence[PartitionRecords]]:
        """Cut a poll into parts that are decoded at once: memory is bounded however many rows a record has."""
        yield arrived

    def reject(self, partition: TopicPartition, record: RawRecord, row: int, inner: int, reason: str) -> Reject:
        """Return the reject of a decoded row that cannot be used after all."""
        return Reject(partition, record, row, reason, REASONS[reason])

    def _judge(self, arrived: PartitionRecords, read: Candidates) -> tuple[dict[str, BoolArray], IntArray]:
        """Return (which rows cannot be used, by reason, the first of a row's counts; the times)."""
        published_ms_N = np.array([record.timestamp for record in arrived.records], np.int64)[read.row_N]
        time_ms_N = published_ms_N if read.time_ms_N is None else read.time_ms_N
        unusable: dict[str, BoolArray] = {}
        unusable["missing_field"] = self._lacking(read)
        largest = np.abs(read.values_NF).max(initial=0.0)
        # Not a number is not smaller either, and mostly there is none.
        if not largest <= _LARGEST:
            usable_NF = (np.abs(read.values_NF) <= _LARGEST) | read.missing_NF
            unusable["not_finite"] = np.logical_not(usable_NF.all(axis=1))
        unusable["bad_time"] = (time_ms_N < 0) | (time_ms_N > MAX_TIME_MS)
        unusable["time_ahead"] = (published_ms_N >= 0) & (time_ms_N - published_ms_N > self._max_ahead_ms)
        return unusable, time_ms_N

    def _lacking(self, read: Candidates) -> BoolArray:
        lacking_N: BoolArray = np.zeros(len(read.row_N), np.bool_)
        if read.incomplete_N is not None:
            lacking_N = read.incomplete_N
        if self._fields.optional_features or not read.missing_NF.any():
            return lacking_N
        return np.asarray(lacking_N | read.missing_NF.any(axis=1), np.bool_)

    def _times(self, time_N: FloatArray, unit: str) -> IntArray:
        """Return times in ms; what is out of all bounds, or not a number, becomes -1 or absurdly late."""
        # Whole numbers stay exact in float64 up to 2**53; beyond a sensible time they only have to look absurd.
        with np.errstate(over="ignore"):
            scaled_N = np.rint(time_N * _MS_PER_UNIT[unit])
        bounded_N: FloatArray = np.clip(scaled_N, -1, 2.0**53)
        return np.where(np.isnan(bounded_N), -1.0, bounded_N).astype(np.int64)


class RowDecoder(Decoder):
    """Decodes records of one row each."""

    def __init__(self, fields: Fields, **rules: Any) -> None:
        """`rules` are those of `Decoder`."""
        super().__init__(fields, **rules)
        self._format = JsonFormat(fields)
        self._name_of = self._naming()
        self._rows_hold_text = bool(fields.series) or fields.time_is_text

    def decode(self, arrived: PartitionRecords) -> tuple[Batch, list[Reject]]:
        """Decode consecutive records of one partition."""
        partition, records = arrived.partition, arrived.records
        rejects: list[Reject] = []
        kept: list[int] = []
        rows: list[tuple[Any, ...]] = []
        series: list[str] = []
        decode, limit, name_of = self._format.decode, self._max_record_bytes, self._name_of
        for index, record in enumerate(records):
            value = record.value
            try:
                if not value or len(value) > limit:
                    raise unreadable(value, limit)
                row = decode(value)
                name = name_of(record, row)
            except Malformed as error:
                rejects.append(Reject(partition, record, index, error.reason, str(error)))
                continue
            series.append(name)
            kept.append(index)
            rows.append(row)
        return self._columns(arrived, kept, rows, series, rejects)

    def _naming(self) -> Callable[[RawRecord, tuple[Any, ...]], str]:
        """Choose once how a record's series is named."""
        first, count = len(self._fields.features), len(self._fields.series)
        if self.stateless:
            return lambda record, row: ""
        if count == 1:
            return lambda record, row: str(row[first])
        if count:
            return lambda record, row: series_name(row[first : first + count])
        return lambda record, row: key_of(record)

    def _columns(
        self,
        arrived: PartitionRecords,
        kept: list[int],
        rows: list[tuple[Any, ...]],
        series: list[str],
        rejects: list[Reject],
    ) -> tuple[Batch, list[Reject]]:
        records, count = arrived.records, len(self._fields.features)
        row_N = np.array(kept, np.int64)
        numbers = [row[:count] for row in rows] if self._rows_hold_text else rows
        width = count if self._rows_hold_text or self._fields.time is None else count + 1
        values_NF = np.array(numbers, np.float64).reshape(len(rows), width)[:, :count]
        read_ms_N = None if self._fields.time is None else self._times_of(rows)
        read = Candidates(row_N, values_NF, np.isnan(values_NF), read_ms_N)
        unusable, time_ms_N = self._judge(arrived, read)
        bad_N = np.zeros(len(rows), bool)
        for reason, which_N in unusable.items():
            for position in np.flatnonzero(which_N & ~bad_N):
                row = kept[position]
                rejects.append(Reject(arrived.partition, records[row], row, reason, REASONS[reason]))
            bad_N |= which_N
        if bad_N.any():
            series = [name for name, bad in zip(series, bad_N, strict=True) if not bad]
            good_N = ~bad_N
            row_N, time_ms_N, values_NF = row_N[good_N], time_ms_N[good_N], values_NF[good_N]
        rejects.sort(key=lambda reject: reject.row)
        return Batch(arrived.partition, series, time_ms_N, values_NF, row_N, *places(records, row_N)), rejects

    def _times_of(self, rows: list[tuple[Any, ...]]) -> IntArray:
        if self._time_unit == "iso8601":
            return np.array([_epoch_ms(row[-1]) for row in rows], np.int64)
        return self._times(np.array([row[-1] for row in rows], np.float64), self._time_unit)


def cut_up(
    arrived: Sequence[PartitionRecords], count: Callable[[bytes], int], most: int
) -> Iterator[Sequence[PartitionRecords]]:
    """Cut a poll into parts of one record, or of so many rows at most, which `count` tells of a value."""
    part: list[PartitionRecords] = []
    held = 0
    for records in arrived:
        begin = 0
        for index, record in enumerate(records.records):
            rows = count(record.value or b"")
            if held + rows > most and (part or index > begin):
                if index > begin:
                    part.append(PartitionRecords(records.partition, records.records[begin:index]))
                yield part
                part, begin, held = [], index, 0
            held += rows
        part.append(PartitionRecords(records.partition, records.records[begin:]))
    yield part


def places(records: Sequence[RawRecord], row_N: IntArray) -> tuple[IntArray, IntArray]:
    """Return (offset, Kafka timestamp) of each row's record."""
    offset_R = np.array([record.offset for record in records], np.int64)
    published_ms_R = np.array([record.timestamp for record in records], np.int64)
    return offset_R[row_N], published_ms_R[row_N]


def key_of(record: RawRecord) -> str:
    """Return the name of the series that a record's key names.

    Raises:
        Malformed: the key names none.
    """
    try:
        return record.key.decode()  # type: ignore[union-attr]
    except AttributeError:
        raise Malformed("no_series", "the record has no key, and `series` names no fields") from None
    except UnicodeDecodeError as error:
        raise Malformed("no_series", f"the record's key is not UTF-8: {error}") from None


def series_name(values: Sequence[str | int]) -> str:
    """Join the fields that name a series; one field is taken as it is, several are joined by "/"."""
    if len(values) == 1:
        return str(values[0])
    return "/".join(str(value).replace("\\", "\\\\").replace("/", "\\/") for value in values)


def split_series_name(name: str, fields: int) -> list[str]:
    """Return the values that `series_name` joined."""
    if fields == 1:
        return [name]
    return [re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"((?:\\.|[^/\\])*)(?:/|$)", name)[:fields]]


def unreadable(value: bytes | None, limit: int) -> Malformed:
    """Return what is wrong with a value that is absent, empty or larger than the limit."""
    if value is None:
        return Malformed("tombstone", REASONS["tombstone"])
    if not value:
        return Malformed("empty", REASONS["empty"])
    return Malformed("too_large", f"{len(value)} bytes, more than `max_record_bytes` of {limit}")


def _epoch_ms(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
