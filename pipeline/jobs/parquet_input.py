"""Any Parquet files as the rows that an offline command goes through.

Of a row goes along what names it: those of the columns `NAMING` that there are, the stream's own fields of time and
series, and what is asked for besides. Where none of them tells an offset, `file` and `file_row` say where it stood.

Legend: N rows, F features.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.arrays import FloatArray
from models.spec import shortened
from pipeline.connectors.parquet import Coded, Columns, Reader, of_user
from pipeline.errors import ConfigError
from pipeline.jobs.blocks import LATE, SERIES, TIME, Block, Column
from pipeline.jobs.parts import complete

NAMING = ("partition", "offset", "row", TIME, "timestamp", SERIES, LATE)
_NO_FEATURES = {*NAMING, "kafka_ms", "file", "file_row", "label", "train", "scored", "warming", "day"}
_ROWS = 131_072
_REMEDY = "leave it out, or write it again"


class ParquetInput:
    """Rows of Parquet files, in the order of their names."""

    def __init__(
        self,
        paths: Sequence[Path],
        features: Sequence[str] | None,
        *,
        kept: Sequence[str] = (),
        shown: str | None = None,
        series: str | None = None,
        time: str | None = None,
    ) -> None:
        """Look at what each file says of itself.

        Args:
            paths: files, or folders of them.
            features: None for every number that names nothing.
            kept: columns that go along besides.
            shown: one that goes along unless it is a feature, if it is there.
            series: another column than `series` that names a row's series.
            time: another column than `time_ms` or `timestamp` that holds event times.

        Raises:
            ConfigError: there are none, one cannot be read, lacks a column, or holds another kind of it.
        """
        self._files = _files(paths)
        with of_user(self._files[0], _REMEDY):
            first = Reader(self._files[0])
        own = [name for name in (series, time) if name is not None and name in first.names]
        naming = [name for name in NAMING if name in first.names]
        self.features = tuple(features or _numbers(first, [*own, *kept]))
        if not self.features:
            raise ConfigError(f"{self._files[0]}: no column holds numbers; name some in the stream's `features`")
        also = [shown] if shown in first.names else []
        self._kept = [
            name
            for name in dict.fromkeys([*naming, *own, *kept, *also])
            if name not in self.features or name in kept
        ]
        self.series = _first([series, SERIES], self._kept)
        self.time = _first([time, TIME, "timestamp"], self._kept)
        self._where = "offset" not in self._kept
        self.names: Sequence[str] = [*self._kept, *(["file", "file_row"] if self._where else [])]
        self._kinds = _kinds(self._files[0], first, [*self._kept, *self.features])
        self.rows = first.rows
        for path in self._files[1:]:
            with of_user(path, _REMEDY):
                other = Reader(path)
            kinds = _kinds(path, other, list(self._kinds))
            if differing := [name for name, kind in kinds.items() if _sort(kind) != _sort(self._kinds[name])]:
                name = differing[0]
                raise ConfigError(
                    f"{path}: column {name!r} holds {kinds[name]}, where {self._files[0]} holds "
                    f"{self._kinds[name]}; give files of one schema"
                )
            self.rows += other.rows

    def blocks(self, at: "FilePlace | None" = None) -> Iterator[Block]:
        begin = at or FilePlace(0, 0)
        for number, path in enumerate(self._files[begin.file :], begin.file):
            done = begin.row if number == begin.file else 0
            with of_user(path, _REMEDY):
                for columns in Reader(path).batches(list(self._kinds), _ROWS, done):
                    yield self._block(path, columns, FilePlace(number, done))
                    done += columns.rows

    def place(self, block: Block, row: int) -> "FilePlace":
        begin: FilePlace = block.begin
        return begin._replace(row=begin.row + row)

    def _block(self, path: Path, columns: Columns, begin: "FilePlace") -> Block:
        kept: dict[str, Column] = {}
        for name in self._kept:
            kept[name] = _column(path, columns, name, self._kinds[name])
        if self._where:
            kept["file"] = Coded([path.name], np.zeros(columns.rows, np.int64))
            kept["file_row"] = np.arange(begin.row, begin.row + columns.rows)
        values_NF = np.empty((columns.rows, len(self.features)))
        for place, name in enumerate(self.features):
            values_NF[:, place] = _floats(path, columns, name)
        return Block(kept, values_NF, begin)


class FilePlace(NamedTuple):
    """A row of files: which of them, and which of its rows."""

    file: int
    row: int


def codes_input(folder: Path) -> ParquetInput:
    """Return the codes that `offkey reduce` has written as rows, with all other columns beside them.

    Raises:
        ConfigError: it has written none there, or not all.
    """
    said = complete(folder)
    if said is not None and not said:
        raise ConfigError(f"{folder}: it is not complete; finish it with the command that began it and --resume")
    path = _files([folder])[0]
    with of_user(path, _REMEDY):
        names = Reader(path).names
    codes = [name for name in names if re.fullmatch(r"code_\d+", name)]
    if not codes:
        raise ConfigError(f"{path}: it has no column code_0; name the output of `offkey reduce`")
    return ParquetInput([folder], codes, kept=[name for name in names if name not in codes])


def _files(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")
        inside = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        # A part that a stopped command has left unfinished is none.
        inside = [one for one in inside if not one.name.startswith(".")]
        if not inside:
            raise ConfigError(f"{path}: there is no .parquet file in this folder")
        found |= {one.resolve(): one for one in inside}
    return list(found.values())


def _numbers(reader: Reader, others: Sequence[str]) -> list[str]:
    """Return the columns of numbers that name nothing."""
    taken = {*_NO_FEATURES, *others}
    return [name for name, kind in reader.kinds.items() if name not in taken and _sort(kind) in ("whole", "float")]


def _kinds(path: Path, reader: Reader, names: Sequence[str]) -> dict[str, str]:
    lacking = [name for name in names if name not in reader.names]
    if lacking:
        raise ConfigError(
            f"{path}: it has no column {shortened(lacking)}; it has {shortened(reader.names)}: name those that are "
            "there, or give other files"
        )
    return {name: reader.kinds[name] for name in names}


def _sort(kind: str) -> str:
    """Return what a column is written as."""
    if kind.startswith(("int", "uint")):
        return "whole"
    if kind in ("float", "double", "halffloat"):
        return "float"
    if kind.startswith("timestamp") or kind == "bool":
        return kind
    return "text" if "string" in kind else kind


def _column(path: Path, columns: Columns, name: str, kind: str) -> Column:
    sort = _sort(kind)
    if sort == "text":
        return columns.coded(name)
    if sort.startswith("timestamp"):
        column: Any = columns.whole_ms(name)
    elif sort == "whole":
        column = columns.array(name)
        column = column.astype(np.int64) if column.dtype.kind in "iu" else None
    elif sort == "bool":
        column = _floats(path, columns, name) == 1
    elif sort == "float":
        column = columns.floats(name)
    else:
        raise ConfigError(f"{path}: column {name!r} holds {kind}, which cannot go along; leave it out")
    if column is None:
        raise ConfigError(f"{path}: column {name!r} holds empty values, and names rows; fill them, or leave it out")
    kept: Column = column
    return kept


def _floats(path: Path, columns: Columns, name: str) -> FloatArray:
    x_N = columns.floats(name)
    if x_N is None:
        raise ConfigError(
            f"{path}: column {name!r} holds {columns.kind(name)}, not numbers; name others in the stream's "
            "`features`"
        )
    return x_N


def _first(names: Sequence[str | None], there: Sequence[str]) -> str | None:
    return next((name for name in names if name in there), None)
