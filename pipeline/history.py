"""A stream's history -> columns of each series, to learn from: records of a topic, or rows of its snapshots.

Both come to the same: the recorder's decoder is the one that reads a topic here. Late records and points with a
missing feature are left out.

Legend: N rows, T rows of one series, F features.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray
from pipeline.protocols import PartitionRecords
from pipeline.snapshots import SnapshotRows
from pipeline.stages.decode import Decoder


@dataclass(frozen=True, slots=True)
class Read:
    """A stream's history as columns, and what became of the rest of it."""

    columns: Mapping[str, tuple[IntArray, FloatArray]]
    """Of each series."""
    records: int
    """Rows, where a record holds many."""
    rejected: int
    """Snapshots hold none of these."""
    late: int
    """Not later than an earlier record of their series, and left out."""
    absent: Sequence[int]
    """Numbers of the features that no record had; with `missing: hold` a record may lack some."""
    offsets: dict[int, tuple[int, int]]
    """Of each partition: its first offset, and the one after its last."""


def read_columns(history: Iterable[PartitionRecords], decoder: Decoder) -> Read:
    """Decode records, and sort them by series."""
    series, offsets = _Series(), dict[int, tuple[int, int]]()
    records = rejected = 0
    noted = _noted(history, offsets)
    for arrived in (records for each in noted for part in decoder.split([each]) for records in part):
        batch, rejects = decoder.decode(arrived)
        records, rejected = records + len(batch) + len(rejects), rejected + len(rejects)
        if batch.code_N is None:
            names, code_N = np.unique(np.array(batch.series, object), return_inverse=True)
            series.add(names.tolist(), code_N, batch.time_ms_N, batch.values_NF)
        else:
            series.add(batch.series, batch.code_N, batch.time_ms_N, batch.values_NF)
    return series.read(records, rejected, offsets, ordered=not decoder.stateless)


def read_rows(snapshots: Iterable[SnapshotRows]) -> Read:
    """Sort rows of snapshots by series; they come partition by partition, in the order of their offsets."""
    series, offsets, records, ordered = _Series(), dict[int, tuple[int, int]](), 0, False
    for rows in snapshots:
        number, ordered = rows.partition.partition, rows.series is not None
        first, _ = offsets.get(number, (int(rows.offset_N[0]), 0))
        offsets[number] = first, int(rows.offset_N[-1]) + 1
        records += len(rows)
        series.add([""] if rows.series is None else rows.series, rows.code_N, rows.time_ms_N, rows.values_NF)
    return series.read(records, 0, offsets, ordered=ordered)


class _Series:
    """Rows of each series, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[IntArray, FloatArray]]] = {}
        self._there_F: BoolArray = np.zeros(0, np.bool_)

    def add(
        self,
        names: Sequence[str],
        code_N: npt.NDArray[np.integer[Any]],
        time_ms_N: IntArray,
        values_NF: FloatArray,
    ) -> None:
        """Take rows, each of the series that its code is an index to."""
        missing_NF = np.isnan(values_NF)
        there_F = np.asarray(~missing_NF.all(axis=0), np.bool_)
        self._there_F = self._there_F | there_F if len(self._there_F) else there_F
        whole_N = np.flatnonzero(~missing_NF.any(axis=1))
        order_N = whole_N[np.argsort(code_N[whole_N], kind="stable")]
        first = np.searchsorted(code_N[order_N], np.arange(1, len(names)))
        for name, rows in zip(names, np.split(order_N, first), strict=False):
            if len(rows):
                self._parts.setdefault(name, []).append((time_ms_N[rows], values_NF[rows]))

    def read(self, records: int, rejected: int, offsets: dict[int, tuple[int, int]], *, ordered: bool) -> Read:
        """Return all of it, where `ordered` without the rows that are not later than one before them."""
        columns, late = {}, 0
        for series in list(self._parts):
            # Handed over series by series: all of them twice would be twice the memory.
            chunks = self._parts.pop(series)
            time_ms_T = np.concatenate([chunk[0] for chunk in chunks])
            values_TF = np.concatenate([chunk[1] for chunk in chunks])
            if ordered:
                newest_T = np.maximum.accumulate(time_ms_T)
                on_time_T = np.append(True, time_ms_T[1:] > newest_T[:-1])
                late += int((~on_time_T).sum())
                time_ms_T, values_TF = time_ms_T[on_time_T], values_TF[on_time_T]
            columns[series] = (time_ms_T, values_TF)
        return Read(columns, records, rejected, late, np.flatnonzero(~self._there_F).tolist(), offsets)


def _noted(history: Iterable[PartitionRecords], offsets: dict[int, tuple[int, int]]) -> Iterator[PartitionRecords]:
    """Pass records on, and note which offsets of each partition they are."""
    for arrived in history:
        _, number = arrived.partition
        first, _ = offsets.get(number, (arrived.records[0].offset, 0))
        offsets[number] = (first, arrived.next_offset)
        yield arrived
