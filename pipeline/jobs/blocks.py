"""Rows that an offline command goes through, block by block: of a stream's snapshots, or of any Parquet files.

Both give the same rows in the same order whenever they are read, so the number of a row names it, and memory holds
a block or two, however many there are. `recut` makes blocks of a size that does not depend on how they are stored.
Reading may begin at any row, by its place: so may several processes, each at another one.

Legend: N rows, F features.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from models.arrays import BoolArray, FloatArray, IntArray
from models.dataset import usable_rows
from pipeline.connectors.parquet import Array, Coded
from pipeline.protocols import TopicPartition
from pipeline.snapshots import Gap, Position, SnapshotRows, Snapshots

Column = Array | Coded
Progress = Callable[[str, float, float | None], None]
"""Called with what is being done, how much of it is done, and of how much; None: that is not known."""

SERIES, TIME, LATE, PARTITION = "series", "time_ms", "late", "partition"
"""Columns of snapshots that more is made of than a copy."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that follow one another."""

    columns: Mapping[str, Column]
    """What names a row, and what else goes along."""
    values_NF: FloatArray
    begin: Any = None
    """Where its first row lies, in the words of the input that yields it."""

    def __len__(self) -> int:
        return len(self.values_NF)

    def cut(self, begin: int, end: int) -> "Block":
        """Return the rows from `begin` to before `end`."""
        return self.take(slice(begin, end))

    def take(self, which: Any) -> "Block":
        """Return the rows that an index or mask names."""
        return Block({name: _taken(column, which) for name, column in self.columns.items()}, self.values_NF[which])

    @property
    def usable_N(self) -> BoolArray:
        """Which rows hold numbers only that can be reckoned with."""
        # Some rows at a time: what is reckoned between stays in the cache.
        parts = [usable_rows(self.values_NF[begin : begin + 8_192]) for begin in range(0, len(self), 8_192)]
        return np.concatenate([np.zeros(0, np.bool_), *parts])


def series_of(block: Block, series: str | None) -> tuple[Sequence[str], IntArray]:
    """Return names of series, and which of them each row is of; `series` is the column, None: rows are of one."""
    if series is None:
        return [""], np.zeros(len(block), np.int64)
    column = block.columns[series]
    if not isinstance(column, Coded):
        whole, code_N = np.unique(column, return_inverse=True)
        column = Coded([str(name) for name in whole.tolist()], code_N)
    return list(column.names), column.code_N.astype(np.int64)


class Input(Protocol):
    """Rows, the same ones whenever they are read."""

    features: tuple[str, ...]
    names: Sequence[str]
    """The columns that go along."""
    series: str | None
    """The column that names a row's series; None: they belong to none."""
    time: str | None
    """The column of event times; None: there is none."""

    def blocks(self) -> Iterator[Block]:
        """Yield all rows, some 100,000 at a time."""


class Divisible(Input, Protocol):
    """An input of which each of several processes reads other rows."""

    def blocks(self, at: Any = None) -> Iterator[Block]:
        """Yield all rows, or those from a place on."""

    def place(self, block: Block, row: int) -> Any:
        """Return the place of a row of a block that was yielded; a copy of this input knows it, too."""


class SnapshotPlace(NamedTuple):
    """A row of snapshots."""

    partition: TopicPartition
    topic_id: str
    offset: int
    row: int
    """In the record."""


class SnapshotInput:
    """What a stream's snapshots hold of a range of Kafka timestamps."""

    time: str | None = TIME

    def __init__(
        self,
        snapshots: Snapshots,
        stream: str,
        features: Sequence[str],
        has_series: bool,
        range_ms: tuple[int, int],
        until: Mapping[str, int] | None = None,
    ) -> None:
        """Take rows of a range of Kafka timestamps.

        Args:
            until: as `Snapshots.ends` returns it: nothing that is kept later is read; None: all is.
        """
        self._snapshots, self._stream, self._range_ms, self._until = snapshots, stream, range_ms, until
        self.features = tuple(features)
        self.series = SERIES if has_series else None
        self.names: Sequence[str] = [PARTITION, "offset", "row", TIME, *([SERIES] if has_series else []), LATE]
        self.gaps: list[Gap] = []
        """Of the last time that it was read: offsets that no file tells of."""

    def blocks(self, at: SnapshotPlace | None = None) -> Iterator[Block]:
        self.gaps.clear()
        since = None if at is None else self._since(at)
        read = self._snapshots.read(
            self._stream, *self._range_ms, self.gaps.append, self.features, since=since, until=self._until
        )
        for rows in read:
            if at is not None and (rows.partition, rows.topic_id) == (at.partition, at.topic_id):
                # Reading begins with a whole record, of which rows may belong to the part before.
                rows = rows.take((rows.offset_N > at.offset) | (rows.row_N >= at.row))
            if len(rows):
                first = SnapshotPlace(rows.partition, rows.topic_id, int(rows.offset_N[0]), int(rows.row_N[0]))
                yield Block(_named(rows), rows.values_NF, first)

    def place(self, block: Block, row: int) -> SnapshotPlace:
        offset_N, row_N = block.columns["offset"], block.columns["row"]
        assert isinstance(offset_N, np.ndarray)
        assert isinstance(row_N, np.ndarray)
        begin: SnapshotPlace = block.begin
        return begin._replace(offset=int(offset_N[row]), row=int(row_N[row]))

    def _since(self, at: SnapshotPlace) -> dict[TopicPartition, Position | None]:
        later = [each for each in self._snapshots.partitions(self._stream) if each > at.partition]
        return {at.partition: Position(at.topic_id, at.offset), **dict.fromkeys(later)}


def _named(rows: SnapshotRows) -> dict[str, Column]:
    """Return what names each row."""
    columns: dict[str, Column] = {
        PARTITION: np.full(len(rows), rows.partition.partition, np.int32),
        "offset": rows.offset_N,
        "row": rows.row_N.astype(np.int32),
        TIME: rows.time_ms_N,
    }
    if rows.series is not None:
        columns[SERIES] = Coded(rows.series, rows.code_N)
    return {**columns, LATE: rows.late_N}


def recut(blocks: Iterable[Block], rows: int) -> Generator[Block, None, None]:
    """Yield the same rows in blocks of so many; the last one may be shorter."""
    cutting = Cutting(rows)
    for block in blocks:
        yield from cutting.add(block)
    yield from cutting.rest()


class Cutting:
    """Makes blocks of so many rows of others as they come; the same ones, however the others are cut."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._waiting: list[Block] = []
        self._held = 0

    def add(self, block: Block) -> Iterator[Block]:
        """Yield the blocks that are whole with these rows."""
        while self._held + len(block) >= self._rows:
            missing = self._rows - self._held
            whole = [*self._waiting, block.cut(0, missing)]
            block, self._waiting, self._held = block.cut(missing, len(block)), [], 0
            yield _alike(joined(whole))
        if len(block):
            self._waiting.append(block)
            self._held += len(block)

    def rest(self) -> Iterator[Block]:
        """Yield what is left."""
        if self._waiting:
            yield _alike(joined(self._waiting))


def _alike(block: Block) -> Block:
    """Return a block whose names stand in the order in which they come first, and no others."""
    columns = {
        name: _in_order(column) if isinstance(column, Coded) else column for name, column in block.columns.items()
    }
    return Block(columns, block.values_NF)


def _in_order(column: Coded) -> Coded:
    count = len(column.code_N)
    first = np.full(len(column.names), count)
    # Of several writes to one place the last one stays: from behind, that of the first row.
    first[column.code_N[::-1]] = np.arange(count)[::-1]
    order = np.argsort(first, kind="stable")[: int((first < count).sum())]
    new = np.empty(len(column.names), np.int64)
    new[order] = np.arange(len(order))
    return Coded([column.names[code] for code in order.tolist()], new[column.code_N])


def joined(blocks: Sequence[Block]) -> Block:
    """Return the rows of blocks, one behind the other; there is one at least."""
    if len(blocks) == 1:
        return blocks[0]
    columns = {name: _joined([block.columns[name] for block in blocks]) for name in blocks[0].columns}
    return Block(columns, np.concatenate([block.values_NF for block in blocks]))


def named_apart(columns: Mapping[str, Column], taken: Iterable[str]) -> dict[str, Column]:
    """Return columns under names that are not taken: those that are get `_value` behind them."""
    apart, others = dict[str, Column](), set(taken)
    for name, column in columns.items():
        while name in others:
            name += "_value"
        apart[name] = column
        others.add(name)
    return apart


def _taken(column: Column, which: Any) -> Column:
    return Coded(column.names, column.code_N[which]) if isinstance(column, Coded) else column[which]


def _joined(columns: Sequence[Any]) -> Column:
    if not isinstance(columns[0], Coded):
        return np.concatenate(columns)
    place: dict[str, int] = {}
    codes = []
    for column in columns:
        own = np.array([place.setdefault(name, len(place)) for name in column.names], np.int64)
        codes.append(own[column.code_N])
    return Coded(list(place), np.concatenate(codes))
