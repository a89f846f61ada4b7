"""Arrow records: a value is one Arrow IPC stream, of any number of rows of any series.

A file (`new_file`, Feather) is taken too: what lies between its magic and its footer is such a stream.

Nothing of a value is trusted. The sizes that its messages claim are added up before anything is decompressed or
made: more bytes, or more cells, than a record may have are refused. Every batch is validated in full before a
buffer of it is looked at, for an offset or an index that points elsewhere would otherwise be followed. What that
costs is in `tests/benchmarks/results/README.md`.

A producer repeats its schema in each record. Which column is which is decided once for each distinct schema, told
by the bytes of its message.

Legend: N rows of one record batch.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.spec import shortened
from pipeline.errors import ConfigError
from pipeline.formats.arrow_sizes import Claim, claimed
from pipeline.formats.fields import Column, Fields, Malformed, Names, Path, Rows

try:
    import pyarrow
    import pyarrow.compute
    import pyarrow.ipc
except ModuleNotFoundError as error:
    raise ConfigError(
        "`format: arrow` needs pyarrow, which is not installed: pip install 'offkey[arrow]'"
    ) from error

_MAGIC = b"ARROW1"
_FIRST_IN_FILE = 8
"""The magic, filled up to eight bytes."""
_REMEMBERED = 256
"""Schemas, and lists of names, that are kept for the next records."""
_OPTIONS = pyarrow.ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where the columns asked for stand in a schema: numbers of fields from the outer column inwards."""

    features: Sequence[tuple[int, ...] | None]
    series: Sequence[tuple[int, ...]]
    time: tuple[int, ...] | None
    time_unit: str | None


class ArrowFormat:
    """Decodes a value to columns."""

    def __init__(self, fields: Fields, max_bytes: int) -> None:
        """`max_bytes`: what a value may hold once it is decompressed; so many cells too."""
        self._fields = fields
        self._max_bytes = max_bytes
        self._columns = max(1, len(fields.features) + len(fields.series) + (fields.time is not None))
        self._plans: OrderedDict[bytes, _Plan | Malformed] = OrderedDict()
        self._names: OrderedDict[tuple[Any, ...], tuple[str | int | None, ...]] = OrderedDict()

    def decode(self, value: bytes) -> Iterator[Rows]:
        """Return the rows of one value, a part for each record batch.

        Raises:
            Malformed: with the reason; see `REASONS` in `pipeline.stages.decode`.
        """
        schema_bytes, reader = self.opened(value)
        with _translated():
            plan = self._plans.get(schema_bytes)
            if plan is None:
                plan = _remember(self._plans, schema_bytes, self._planned(reader.schema))
        if isinstance(plan, Malformed):
            raise Malformed(plan.reason, str(plan))
        for batch in valid_batches(reader):
            with _translated():
                rows = self._rows(batch, plan)
            yield rows

    def opened(self, value: bytes) -> tuple[bytes, Any]:
        """Return (the bytes of a value's schema, a reader of its batches), if it is whole and not too large."""
        stream = _stream_of(value)
        try:
            schema_bytes = self._bounded(value, stream)
        except Malformed as error:
            if error.reason == "not_arrow" and value.lstrip().startswith(b"{"):
                raise Malformed("not_arrow", "it looks like JSON; set `format: json`") from None
            raise
        with _translated():
            return schema_bytes, pyarrow.ipc.open_stream(stream, options=_OPTIONS)

    def count(self, value: bytes) -> int:
        """Return how many rows a value says that it has, no more than may be read; 0 where that cannot be told."""
        try:
            _, claims = _messages(pyarrow.BufferReader(_stream_of(value)))
        except Malformed:
            return 0
        return min(sum(claim.rows for claim in claims), self._max_bytes)

    def row(self, value: bytes, number: int) -> bytes:
        """Return one row of a value that was decoded, as a stream of the same schema."""
        for batch in valid_batches(pyarrow.ipc.open_stream(_stream_of(value), options=_OPTIONS)):
            if number < batch.num_rows:
                alone = batch.slice(number, 1)
                columns = [_without_others(column) for column in alone.columns]
                sink = pyarrow.BufferOutputStream()
                with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
                    writer.write_batch(pyarrow.RecordBatch.from_arrays(columns, schema=batch.schema))
                return bytes(sink.getvalue().to_pybytes())
            number -= batch.num_rows
        raise IndexError(number)

    def _bounded(self, value: bytes, stream: Any) -> bytes:
        """See that a value is whole, and no larger than it may be; return the bytes of its schema."""
        source = pyarrow.BufferReader(stream)
        schema, claims = _messages(source)
        nbytes, rows, entries = (sum(each) for each in zip(*claims, strict=True))
        if max(nbytes, rows * self._columns + entries) > self._max_bytes:
            raise Malformed(
                "too_large",
                f"it unpacks to {nbytes:,} bytes and {rows:,} rows of {self._columns} columns, more bytes or more "
                f"cells than `max_record_bytes` of {self._max_bytes:,}",
            )
        _check_end(value, len(value) - stream.size + source.tell())
        return schema

    def _planned(self, schema: Any) -> "_Plan | Malformed":
        fields = self._fields
        try:
            features = [
                _place(schema, path, _is_number, "a number", optional=fields.optional_features)
                for path in fields.features
            ]
            series = [_required(schema, path, _is_name, "text or whole numbers") for path in fields.series]
            if fields.time is None:
                return _Plan(features, series, None, None)
            time = _required(schema, fields.time, _is_time, "a timestamp or a number")
            kind = _type_at(schema, time)
            return _Plan(features, series, time, kind.unit if pyarrow.types.is_timestamp(kind) else None)
        except Malformed as wrong:
            return wrong

    def _rows(self, batch: Any, plan: _Plan) -> Rows:
        return Rows(
            batch.num_rows,
            [None if place is None else _numbers(_column(batch, place)) for place in plan.features],
            [self._names_of(_column(batch, place)) for place in plan.series],
            None if plan.time is None else _numbers(_column(batch, plan.time)),
            plan.time_unit,
        )

    def _names_of(self, array: Any) -> Names:
        if pyarrow.types.is_string_view(array.type):
            array = array.cast(pyarrow.string())
        if not pyarrow.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        indices, values = array.indices, array.dictionary
        if indices.null_count:
            indices = indices.cast(pyarrow.int64()).fill_null(-1)
        code_N = indices.to_numpy().astype(np.int64)
        if len(values) > len(code_N):
            # A dictionary may hold many more names than are used here.
            used, code_N = np.unique(code_N, return_inverse=True)
            code_N = code_N - int(len(used) > 0 and used[0] < 0)
            values = values.take(pyarrow.array(used[used >= 0]))
        return Names(self._listed(values), code_N)

    def _listed(self, values: Any) -> tuple[str | int | None, ...]:
        """Return names as Python's; those of a dictionary that a producer repeats are made once."""
        buffers = [None if buffer is None else buffer.to_pybytes() for buffer in values.buffers()]
        key = (str(values.type), values.offset, len(values), *buffers)
        found = self._names.get(key)
        return _remember(self._names, key, tuple(values.to_pylist())) if found is None else found


def number_fields(value: bytes, max_bytes: int) -> list[Path]:
    """Return the path of every column of numbers that holds one, in the schema's order.

    Some rows may lack it: the schema says all the same that it is a number.

    Raises:
        Malformed: not an Arrow stream.
    """
    stream = _stream_of(value)
    ArrowFormat(Fields(()), max_bytes)._bounded(value, stream)
    with _translated():
        reader = pyarrow.ipc.open_stream(stream, options=_OPTIONS)
        places = list(_leaves(reader.schema, (), ()))
        numbers = [(path, place) for path, place, kind in places if _is_number(kind)]
    there = dict.fromkeys((path for path, _ in numbers), False)
    for batch in valid_batches(reader):
        for path, place in numbers:
            column = _column(batch, place)
            there[path] |= column.null_count < len(column)
    return [path for path, some in there.items() if some]


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what pyarrow says of bytes that are no Arrow stream into a reject."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise Malformed("not_utf8", f"a name in the schema: {error}") from None
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise Malformed("not_utf8" if "UTF8" in text else "not_arrow", text) from None


def _messages(source: Any) -> tuple[bytes, list[Claim]]:
    """Return (the bytes of the first message, which is the schema, what all of them claim)."""
    schema, claims = b"", [Claim(0, 0, 0)]
    with _translated():
        for message in pyarrow.ipc.MessageReader.open_stream(source):
            schema = schema or message.metadata.to_pybytes()
            claims.append(claimed(message.metadata, message.body))
    return schema, claims


def _stream_of(value: bytes) -> Any:
    """Return the stream of a value as a buffer; nothing is copied."""
    whole = pyarrow.py_buffer(value)
    return whole.slice(min(_FIRST_IN_FILE, len(value))) if value.startswith(_MAGIC) else whole


def _check_end(value: bytes, end: int) -> None:
    """See that nothing follows a stream but the footer of a file: what does would be lost in silence."""
    rest = len(value) - end
    if value.startswith(_MAGIC):
        tail = 4 + len(_MAGIC)
        footer = int.from_bytes(value[-tail : -len(_MAGIC)], "little")
        if value.endswith(_MAGIC) and rest == footer + tail:
            return
        raise Malformed("not_arrow", "it begins as an Arrow file, and does not end as one")
    if rest:
        raise Malformed("not_arrow", f"{rest:,} bytes follow the end of the stream; a record takes one stream")


def valid_batches(reader: Any) -> Iterator[Any]:
    """Yield the batches of a stream, each after all of it was validated."""
    while True:
        with _translated():
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            batch.validate(full=True)
        yield batch


def _remember(kept: "OrderedDict[Any, Any]", key: object, value: Any) -> Any:
    """Keep what was found for the next records; the oldest goes where there are too many."""
    kept[key] = value
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)
    return value


def _required(schema: Any, path: Path, fits: Callable[[Any], bool], wanted: str) -> tuple[int, ...]:
    place = _place(schema, path, fits, wanted, optional=False)
    assert place is not None
    return place


def _place(
    schema: Any, path: Path, fits: Callable[[Any], bool], wanted: str, *, optional: bool
) -> tuple[int, ...] | None:
    """Return where a field stands in a schema; None where it is not there and need not be.

    Raises:
        Malformed: it is not there, there twice, or of another type.
    """
    name, place, inside = ".".join(path), (), schema  # type: tuple[str, tuple[int, ...], Any]
    for depth, part in enumerate(path):
        if depth and not pyarrow.types.is_struct(inside):
            outer = ".".join(path[:depth])
            raise Malformed("wrong_type", f"column {outer!r} holds {inside}, not a struct with a field {part!r}")
        there = [inside[number].name for number in range(_width(inside))]
        if part not in there:
            if optional:
                return None
            raise Malformed(
                "missing_field",
                f"column {name!r} is not in the schema, which has {shortened(there) or 'none'}; add it, or change "
                "the stream's fields",
            )
        if there.count(part) > 1:
            raise Malformed(
                "wrong_type",
                f"column {name!r} is in the schema {there.count(part)} times; keep one",
            )
        place = (*place, there.index(part))
        inside = inside[place[-1]].type
    if not fits(inside):
        raise Malformed("wrong_type", f"column {name!r} holds {inside}, not {wanted}; cast it in the producer")
    return place


def encode(columns: Mapping[Path, Sequence[Any]]) -> bytes:
    """Return rows as one value: texts and numbers by the path of their field, as many of each."""
    sink = pyarrow.BufferOutputStream()
    table = _struct_of(columns).flatten()
    names = list(dict.fromkeys(path[0] for path in columns))
    batch = pyarrow.record_batch(dict(zip(names, table, strict=True)))
    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def _struct_of(columns: Mapping[Path, Sequence[Any]]) -> Any:
    inside: dict[str, dict[Path, Sequence[Any]]] = {}
    for path, column in columns.items():
        inside.setdefault(path[0], {})[path[1:]] = column
    parts = [pyarrow.array(each[()]) if () in each else _struct_of(each) for each in inside.values()]
    return pyarrow.StructArray.from_arrays(parts, names=list(inside))


def _width(inside: Any) -> int:
    return len(inside) if isinstance(inside, pyarrow.Schema) else int(inside.num_fields)


def _type_at(schema: Any, place: Sequence[int]) -> Any:
    inside = schema
    for number in place:
        inside = inside[number].type
    return inside


def _leaves(inside: Any, path: Path, place: tuple[int, ...]) -> Iterator[tuple[Path, tuple[int, ...], Any]]:
    """Yield (path, place, type) of every field that is no struct and whose name is not there twice."""
    names = [inside[number].name for number in range(_width(inside))]
    for number, name in enumerate(names):
        kind = inside[number].type
        if names.count(name) > 1:
            continue
        if pyarrow.types.is_struct(kind):
            yield from _leaves(kind, (*path, name), (*place, number))
        else:
            yield (*path, name), (*place, number), kind


def _is_number(kind: Any) -> bool:
    """Nulls alone have a type of their own: every value is missing."""
    types = pyarrow.types
    return any(fits(kind) for fits in (types.is_integer, types.is_floating, types.is_decimal, types.is_null))


def _is_name(kind: Any) -> bool:
    types = pyarrow.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    fitting = (types.is_integer, types.is_string, types.is_large_string, types.is_string_view)
    return any(fits(kind) for fits in fitting)


def _is_time(kind: Any) -> bool:
    return bool(pyarrow.types.is_timestamp(kind)) or _is_number(kind)


def _column(batch: Any, place: Sequence[int]) -> Any:
    """Return a column or a field of one; what stands in a null struct is null."""
    array = batch.column(place[0])
    for number in place[1:]:
        array = pyarrow.compute.struct_field(array, [number])
    return array


def _numbers(array: Any) -> Column:
    if pyarrow.types.is_timestamp(array.type):
        array = array.view(pyarrow.int64())
    elif not pyarrow.types.is_integer(array.type) and not pyarrow.types.is_floating(array.type):
        array = array.cast(pyarrow.float64())
    if not array.null_count:
        return Column(array.to_numpy())
    return Column(array.to_numpy(zero_copy_only=False), array.is_null().to_numpy(zero_copy_only=False))


def _without_others(column: Any) -> Any:
    """Return a column of one row whose dictionary, if it has one, holds no value of other rows."""
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        value = column.dictionary.take(column.indices.cast(pyarrow.int64()).drop_null())
        index = pyarrow.array([0 if len(value) else None], kind.index_type)
        return pyarrow.DictionaryArray.from_arrays(index, value, ordered=kind.ordered)
    if pyarrow.types.is_struct(kind) and column.null_count == 0:
        inner = [_without_others(pyarrow.compute.struct_field(column, [n])) for n in range(kind.num_fields)]
        return pyarrow.StructArray.from_arrays(inner, fields=list(kind))
    return column
