"""Raw records of many rows each -> one columnar `Batch` and a list of rejects.

No step is taken for each row: a record's columns are read as arrays, and each name of a series is looked up once.

A row is judged alone, by the same rules as a record of one row. A record that cannot be read, and one none of
whose rows can be used, is rejected whole, its bytes untouched; of any other the rows that cannot be used are
rejected one by one, each as a record of its own that can be mended and sent again.

Legend: N rows, F features.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from models.arrays import BoolArray, FloatArray, IntArray
from pipeline.formats.fields import Column, Fields, Malformed, Names, Rows, TableFormat
from pipeline.protocols import PartitionRecords, RawRecord, TopicPartition
from pipeline.stages.decode import (
    REASONS,
    Batch,
    Candidates,
    Decoder,
    Reject,
    cut_up,
    key_of,
    places,
    series_name,
    unreadable,
)

ROWS_AT_ONCE = 131_072
"""Most rows of a poll that are in memory as columns together."""


class TableDecoder(Decoder):
    """Decodes records of many rows each."""

    def __init__(self, fields: Fields, table: TableFormat, **rules: Any) -> None:
        """`rules` are those of `Decoder`."""
        super().__init__(fields, **rules)
        self._table = table

    def decode(self, arrived: PartitionRecords) -> tuple[Batch, list[Reject]]:
        """Decode consecutive records of one partition."""
        rejects: list[Reject] = []
        names = _Names()
        parts: list[Rows] = []
        codes: list[IntArray] = []
        row, first = [], []
        for index, record in enumerate(arrived.records):
            try:
                read, coded = self._read(record, names)
            except Malformed as error:
                rejects.append(Reject(arrived.partition, record, index, error.reason, str(error)))
                continue
            begin = 0
            for rows in read:
                row.append(index)
                first.append(begin)
                begin += rows.count
            parts += read
            codes += coded
        count_P = np.array([rows.count for rows in parts], np.int64)
        row_N = np.repeat(np.array(row, np.int64), count_P)
        before_P = np.cumsum(count_P) - count_P
        inner_N = np.arange(len(row_N)) - np.repeat(before_P - np.array(first, np.int64), count_P)
        code_N = np.concatenate([np.zeros(0, np.int64), *codes])
        values_NF, missing_NF = self._values(parts, len(row_N))
        time_ms_N, untimed_N = self._times_of(parts)
        candidates = Candidates(row_N, values_NF, missing_NF, time_ms_N, (code_N < 0) | untimed_N)
        return self._accepted(arrived, candidates, inner_N, names.known, code_N, rejects)

    def split(self, arrived: Sequence[PartitionRecords]) -> Iterator[Sequence[PartitionRecords]]:
        """Cut a poll into parts of `ROWS_AT_ONCE` rows or one record: a small fetch may unpack to very many."""
        return cut_up(arrived, self._table.count, ROWS_AT_ONCE)

    def reject(self, partition: TopicPartition, record: RawRecord, row: int, inner: int, reason: str) -> Reject:
        """Return the reject of one row of a record."""
        assert record.value is not None
        alone = partial(self._table.row, record.value, inner)
        return Reject(partition, record, row, reason, f"row {inner}: {REASONS[reason]}", inner, alone)

    def _read(self, record: RawRecord, names: "_Names") -> tuple[list[Rows], list[IntArray]]:
        value, limit = record.value, self._max_record_bytes
        if not value or len(value) > limit:
            raise unreadable(value, limit)
        key = key_of(record) if not self.stateless and not self._fields.series else ""
        read = list(self._table.decode(value))
        if self.stateless or not self._fields.series:
            return read, [np.full(rows.count, names.code(key)) for rows in read]
        return read, [names.codes(rows.series) for rows in read]

    def _values(self, parts: Sequence[Rows], count: int) -> tuple[FloatArray, BoolArray]:
        features = len(self._fields.features)
        values_NF, missing_NF = np.empty((count, features)), np.zeros((count, features), np.bool_)
        for number in range(features):
            columns = [_column(rows.features[number], rows.count) for rows in parts]
            if columns:
                np.concatenate([column.value_N for column in columns], out=values_NF[:, number], casting="unsafe")
            _mark(columns, missing_NF[:, number])
        values_NF[missing_NF] = np.nan
        return values_NF, missing_NF

    def _times_of(self, parts: Sequence[Rows]) -> tuple[IntArray | None, BoolArray | bool]:
        """Return (times in ms, where there is none)."""
        if self._fields.time is None:
            return None, False
        columns = [rows.time for rows in parts if rows.time is not None]
        time_ms = [
            self._times(column.value_N.astype(np.float64), rows.time_unit or self._time_unit)
            for column, rows in zip(columns, parts, strict=True)
        ]
        time_ms_N = np.concatenate([np.zeros(0, np.int64), *time_ms])
        untimed_N = np.zeros(len(time_ms_N), np.bool_)
        _mark(columns, untimed_N)
        return time_ms_N, untimed_N

    def _accepted(
        self,
        arrived: PartitionRecords,
        read: Candidates,
        inner_N: IntArray,
        names: Sequence[str],
        code_N: IntArray,
        rejects: list[Reject],
    ) -> tuple[Batch, list[Reject]]:
        """Leave out what cannot be used; the rejects come out in the order of record and row."""
        unusable, time_ms_N = self._judge(arrived, read)
        bad_N = np.zeros(len(read.row_N), np.bool_)
        reason_of: dict[int, str] = {}
        for reason, which_N in unusable.items():
            reason_of |= dict.fromkeys(np.flatnonzero(which_N & ~bad_N).tolist(), reason)
            bad_N |= which_N
        values_NF, row_N = read.values_NF, read.row_N
        if reason_of:
            rejects += self._row_rejects(arrived, row_N, inner_N, reason_of)
            good_N = ~bad_N
            values_NF, time_ms_N, code_N = values_NF[good_N], time_ms_N[good_N], code_N[good_N]
            row_N, inner_N = row_N[good_N], inner_N[good_N]
        rejects.sort(key=lambda reject: (reject.row, reject.inner or 0))
        place_N = places(arrived.records, row_N)
        return Batch(arrived.partition, names, time_ms_N, values_NF, row_N, *place_N, inner_N, code_N), rejects

    def _row_rejects(
        self, arrived: PartitionRecords, row_N: IntArray, inner_N: IntArray, reason_of: dict[int, str]
    ) -> list[Reject]:
        """Return a reject for each bad row, or one for a record that has no other."""
        size_R = np.bincount(row_N, minlength=len(arrived.records))
        bad_R = np.bincount(row_N[list(reason_of)], minlength=len(arrived.records))
        rejects: list[Reject] = []
        for position, reason in reason_of.items():
            row, inner = int(row_N[position]), int(inner_N[position])
            record = arrived.records[row]
            if bad_R[row] < size_R[row]:
                rejects.append(self.reject(arrived.partition, record, row, inner, reason))
            elif inner == 0:
                text = f"so all {size_R[row]:,} rows; the first: {REASONS[reason]}"
                rejects.append(Reject(arrived.partition, record, row, reason, text))
        return rejects


class _Names:
    """Names of the series of a poll, each with a code."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._codes_of: dict[int, tuple[tuple[str | int | None, ...], IntArray]] = {}
        """The codes of lists of names, by the list's id; it is kept with them, so that no other takes its id."""

    @property
    def known(self) -> Sequence[str]:
        return list(self._codes)

    def code(self, name: str) -> int:
        return self._codes.setdefault(name, len(self._codes))

    def codes(self, fields: Sequence[Names]) -> IntArray:
        """Return the code of each row's series; -1 where a field that names it is null."""
        if len(fields) == 1:
            names, code_N = fields[0].names, fields[0].code_N
            return self._listed(names)[code_N]
        place_NS = np.stack([field.code_N for field in fields], axis=1)
        distinct_DS, of_N = np.unique(place_NS, axis=0, return_inverse=True)
        codes = [
            self._joined([None if at < 0 else field.names[at] for field, at in zip(fields, places, strict=True)])
            for places in distinct_DS.tolist()
        ]
        return np.array(codes, np.int64)[of_N.reshape(-1)]

    def _listed(self, names: tuple[str | int | None, ...]) -> IntArray:
        """Return the code of each name, and behind them, where -1 finds it, that of none."""
        found = self._codes_of.get(id(names))
        if found is None:
            codes = [-1 if name is None else self.code(str(name)) for name in names]
            found = self._codes_of[id(names)] = (names, np.array([*codes, -1], np.int64))
        return found[1]

    def _joined(self, parts: Sequence[str | int | None]) -> int:
        values = [part for part in parts if part is not None]
        return self.code(series_name(values)) if len(values) == len(parts) else -1


def _column(column: Column | None, count: int) -> Column:
    return column or Column(np.zeros(count), np.ones(count, np.bool_))


def _mark(columns: Sequence[Column], missing_N: BoolArray) -> None:
    """Set where values are missing in columns that stand one behind the other."""
    begin = 0
    for column in columns:
        end = begin + len(column.value_N)
        if column.missing_N is not None:
            missing_N[begin:end] = column.missing_N
        begin = end
