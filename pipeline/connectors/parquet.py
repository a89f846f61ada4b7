"""Parquet files <-> columns of numpy: the one place that knows pyarrow's files.

A column is an array of numbers or truth values, or `Coded` names; NaN is stored as null. One of two axes holds
bytes, of each row so many, and is stored as binary of a fixed size; one of objects holds `bytes`, and `Tensors`
hold arrays. What the columns mean is told by those who write them: `pipeline.connectors.labelled` and
`pipeline.connectors.snapshot_files`.

Integers that mostly rise, such as offsets and times, are stored as differences; of names each once. Pages have
checksums, which are checked as they are read.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray, IntArray
from pipeline.errors import ConfigError

try:
    import pyarrow
    import pyarrow.parquet
except ModuleNotFoundError as error:
    raise ConfigError(
        "Parquet files need pyarrow, which is not installed: pip install 'offkey[evaluate]', or 'offkey[arrow]' "
        "where nothing is evaluated"
    ) from error

Array = npt.NDArray[Any]

_GROUP_BYTES = 2**23
"""Of rows that hold bytes."""
ROWS_A_GROUP = 131_072
"""Rows that are read at once, and that statistics let a reader pass over."""


class ParquetError(ValueError):
    """What was read is no whole Parquet file."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of names, each held once."""

    names: Sequence[str]
    code_N: npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Tensors:
    """A column of arrays of one shape, the first axis of which are rows: `arrow.fixed_shape_tensor`."""

    of_N: Array


class Columns:
    """Rows of a file."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.names: list[str] = list(table.column_names)
        self.rows: int = table.num_rows

    def kind(self, name: str) -> str:
        """Return what a column holds, in words."""
        return str(self._table[name].type)

    def array(self, name: str) -> Array:
        """Return a column of numbers as it is; null is NaN."""
        found: Array = self._table[name].to_numpy()
        return found

    def bytes_of_rows(self, name: str, width: int) -> npt.NDArray[np.uint8]:
        """Return a column of so many bytes a row, of two axes."""
        parts = [np.zeros((0, width), np.uint8)]
        for chunk in self._table[name].chunks:
            held = np.frombuffer(chunk.buffers()[1] or b"", np.uint8)
            parts.append(held[chunk.offset * width :][: len(chunk) * width].reshape(-1, width))
        return np.concatenate(parts)

    def floats(self, name: str) -> FloatArray | None:
        """Return a column of numbers or truth values, NaN where it is empty; None: it holds neither."""
        column, types = self._table[name], pyarrow.types
        kind = column.type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            return None
        found: FloatArray = column.cast(pyarrow.float64(), safe=False).to_numpy()
        return found

    def whole_ms(self, name: str) -> IntArray | None:
        """Return a column of times, in ms; None: it holds others than whole numbers or times, or one is empty."""
        column = self._table[name]
        if pyarrow.types.is_timestamp(column.type):
            column = column.cast(pyarrow.timestamp("ms", tz=column.type.tz), safe=False).cast(pyarrow.int64())
        if not pyarrow.types.is_integer(column.type) or column.null_count:
            return None
        found: IntArray = column.cast(pyarrow.int64()).to_numpy()
        return found

    def coded(self, name: str) -> Coded:
        """Return a column of names, "" where it is empty."""
        column = self._table[name]
        if not pyarrow.types.is_dictionary(column.type):
            column = column.cast(pyarrow.string()).fill_null("").dictionary_encode()
        column = column.combine_chunks()
        parts = column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column]
        if not parts:
            return Coded((), np.zeros(0, np.int64))
        whole = pyarrow.chunked_array(parts).unify_dictionaries()
        codes = [part.indices.to_numpy() for part in whole.chunks]
        return Coded(whole.chunk(0).dictionary.to_pylist(), np.concatenate(codes))


class Reader:
    """A Parquet file, by its path or as its bytes, that is read whole or group by group."""

    def __init__(self, source: Path | bytes) -> None:
        """Read what the file tells of itself.

        Raises:
            ParquetError: it is no whole Parquet file.
            OSError: the path cannot be read.
        """
        self._is_path = isinstance(source, Path)
        with self._translated():
            self._file = pyarrow.parquet.ParquetFile(
                source if self._is_path else pyarrow.BufferReader(source), page_checksum_verification=True
            )
            self._schema = self._file.schema_arrow
        self.names: list[str] = list(self._schema.names)
        self.rows: int = self._file.metadata.num_rows
        self.groups: int = self._file.metadata.num_row_groups

    @property
    def kinds(self) -> dict[str, str]:
        """What each column holds, in words."""
        return {field.name: str(field.type) for field in self._schema}

    @property
    def facts(self) -> dict[str, str]:
        """What was written beside the columns."""
        kept = {key.decode(): text.decode() for key, text in (self._schema.metadata or {}).items()}
        return {key: text for key, text in kept.items() if key.startswith("offkey.")}

    def bounds(self, group: int, name: str) -> tuple[Any, Any] | None:
        """Return the least and the largest value of a group of rows; None: the file does not tell."""
        column = self._file.metadata.row_group(group).column(self.names.index(name))
        found = column.statistics
        return (found.min, found.max) if found is not None and found.has_min_max else None

    def read(self, group: int | None = None) -> Columns:
        """Return all rows, or those of one group; raises as the file itself does."""
        with self._translated():
            if group is None:
                return Columns(self._file.read(use_threads=False))
            return Columns(self._file.read_row_group(group, use_threads=False))

    def batches(self, names: Sequence[str], rows: int, first: int = 0) -> Iterator[Columns]:
        """Yield some columns from row `first` on, so many rows at a time at most, however large a group is.

        Raises as `read` does.
        """
        with self._translated():
            groups, first = self._groups_from(first)
            if not groups:
                return
            for batch in self._file.iter_batches(rows, groups, list(names), use_threads=False):
                passed = min(first, batch.num_rows)
                first -= passed
                if passed < batch.num_rows:
                    yield Columns(pyarrow.Table.from_batches([batch.slice(passed)]))

    def _groups_from(self, row: int) -> tuple[list[int], int]:
        """Return the groups that have a row or later ones, and how many rows of the first one come before."""
        for group in range(self.groups):
            if row < (held := self._file.metadata.row_group(group).num_rows):
                return list(range(group, self.groups)), row
            row -= held
        return [], 0

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
            raise ParquetError(_first_line(error)) from error
        except OSError as error:
            if self._is_path and error.errno is not None:
                raise
            # So the library calls damage inside of a file.
            raise ParquetError(_first_line(error)) from error


@contextlib.contextmanager
def of_user(path: Path, remedy: str) -> Iterator[None]:
    """Have what is wrong with a file that a user has named be the user's mistake.

    Raises:
        ConfigError: it is no whole Parquet file, which has this remedy, or it cannot be read.
    """
    try:
        yield
    except ParquetError as error:
        raise ConfigError(f"{path}: is not a whole Parquet file ({error}); {remedy}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error


class Writer:
    """Writes the rows of one file, portion by portion, into memory or, by its path, as they come."""

    def __init__(self, facts: Mapping[str, str], path: Path | None = None) -> None:
        """Raises OSError where the path cannot be written; so do `add` and `close`, as where the disk is full."""
        self._facts = facts
        self._sink = pyarrow.BufferOutputStream() if path is None else pyarrow.OSFile(str(path), "wb")
        self._writer: Any = None

    def add(self, columns: Mapping[str, Array | Coded | Tensors]) -> None:
        """Append rows; each portion has the same columns, of the same types."""
        arrays = {name: _arrow(column) for name, column in columns.items()}
        table = pyarrow.table(arrays).replace_schema_metadata(dict(self._facts))
        if self._writer is None:
            kinds = {field.name: field.type for field in table.schema}
            differences = [name for name, kind in kinds.items() if pyarrow.types.is_integer(kind)]
            self._writer = pyarrow.parquet.ParquetWriter(
                self._sink,
                table.schema,
                compression="zstd",
                use_dictionary=[name for name, column in columns.items() if isinstance(column, Coded)],
                column_encoding=dict.fromkeys(differences, "DELTA_BINARY_PACKED"),
                write_page_checksum=True,
            )
        widest = max((_width(column) for column in columns.values()), default=1)
        self._writer.write_table(table, row_group_size=max(1, min(ROWS_A_GROUP, _GROUP_BYTES // widest)))

    def close(self) -> None:
        """End the file, which is at its path."""
        assert self._writer is not None, "a file has columns"
        self._writer.close()
        self._sink.close()

    def finish(self) -> memoryview:
        """Return the file's bytes."""
        assert self._writer is not None, "a file has columns"
        self._writer.close()
        # Its own format is of signed bytes.
        return memoryview(self._sink.getvalue()).cast("B")


def encode(columns: Mapping[str, Array | Coded], facts: Mapping[str, str]) -> memoryview:
    """Return the bytes of a file of these columns."""
    writer = Writer(facts)
    writer.add(columns)
    return writer.finish()


def _width(column: Array | Coded | Tensors) -> int:
    if isinstance(column, Tensors):
        return int(np.prod(column.of_N.shape[1:]))
    return 1 if isinstance(column, Coded) or column.ndim == 1 else int(column.shape[1])


def _arrow(column: Array | Coded | Tensors) -> Any:
    if isinstance(column, Tensors):
        return pyarrow.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(column.of_N))
    if isinstance(column, Coded):
        codes = pyarrow.array(column.code_N.astype(np.int32))
        return pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array(column.names, pyarrow.string()))
    if column.ndim == 2:
        kind = pyarrow.binary(column.shape[1])
        return pyarrow.FixedSizeBinaryArray.from_buffers(kind, len(column), [None, pyarrow.py_buffer(column)])
    if column.dtype.kind == "O":
        return pyarrow.array(column, pyarrow.binary())
    if column.dtype.kind == "f" and np.isnan(column).any():
        return pyarrow.array(column, from_pandas=True)
    return pyarrow.array(column)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
