"""Rows of snapshots -> what the stages take, for a replay.

A snapshot holds what the decoder has made of each record, so a replay enters the stages right behind it:
`RowRecords` stand in the place of records, and `ReplayDecoder` gives the rows that they stand for. All that asks
records for their offsets, to cut them where another model is adopted, works as on a topic's. What a record's bytes
were is not known any more: a row that a missing feature makes unusable is a reject without a value, which a replay
does not publish.

Legend: N rows.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self, overload

import numpy as np

from pipeline.formats.fields import Fields
from pipeline.protocols import PartitionRecords, RawRecord
from pipeline.snapshots import SnapshotRows
from pipeline.stages.decode import Batch, Decoder, Reject


class RowRecord(NamedTuple):
    """What is left of a record."""

    offset: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class RowRecords(Sequence[RawRecord]):
    """Rows of one partition, each as a record: of several rows, so many records with one offset."""

    def __init__(self, rows: SnapshotRows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> RowRecord: ...
    @overload
    def __getitem__(self, at: slice) -> Self: ...
    def __getitem__(self, at: int | slice) -> RowRecord | Self:
        if isinstance(at, slice):
            return type(self)(self.rows.take(at))
        return RowRecord(int(self.rows.offset_N[at]), int(self.rows.kafka_ms_N[at]))


class ReplayDecoder(Decoder):
    """Takes the rows out of what stands for records."""

    def __init__(self, *, stateless: bool) -> None:
        super().__init__(Fields(()), stateless=stateless)

    def decode(self, arrived: PartitionRecords) -> tuple[Batch, list[Reject]]:
        """Return the rows of one partition; nothing is rejected any more."""
        assert isinstance(arrived.records, RowRecords), "a replay is of rows"
        rows = arrived.records.rows
        names, code_N = [""] if self.stateless or rows.series is None else rows.series, rows.code_N
        if len(names) > len(rows):
            # A file may name a million series, of which some rows have few: each name is looked up.
            used, code_N = np.unique(code_N, return_inverse=True)
            names = [names[code] for code in used.tolist()]
        return Batch(
            arrived.partition,
            names,
            rows.time_ms_N,
            rows.values_NF,
            np.arange(len(rows)),
            rows.offset_N,
            rows.kafka_ms_N,
            rows.row_N,
            code_N.reshape(-1).astype(np.int64, copy=False),
        ), []


def records_of(rows: SnapshotRows) -> PartitionRecords:
    """Return rows as records; there is one at least."""
    return PartitionRecords(rows.partition, RowRecords(rows))
