"""Arrow records for tests."""

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow

from pipeline.formats.fields import Fields
from tests.streams import Payload


def stream_of(*batches: Any, schema: Any = None, **options: Any) -> bytes:
    """Return these record batches as one stream; `options` are those of pyarrow's writer.

    `schema` is asked for where there is no batch.
    """
    sink = pyarrow.BufferOutputStream()
    written = pyarrow.ipc.IpcWriteOptions(**options)
    with pyarrow.ipc.new_stream(sink, batches[0].schema if batches else schema, options=written) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def file_of(*batches: Any) -> bytes:
    """Return these record batches as the bytes of an Arrow file."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def rows_of(stream: bytes) -> list[dict[str, Any]]:
    """Return the rows of a stream."""
    rows: list[dict[str, Any]] = pyarrow.ipc.open_stream(stream).read_all().to_pylist()
    return rows


def arrow_of(payloads: Sequence[Payload], cuts: Collection[int] = (), **options: Any) -> list[Payload]:
    """Return records of many rows: these payloads of series, cut at these places; the key becomes a column."""
    rows = [{"host": (key or b"").decode(), **json.loads(value or b"")} for key, value in payloads]
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    return [(None, stream_of(_table(rows[low:high]), **options)) for low, high in pairwise(edges)]


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    columns = {name: pyarrow.array([row[name] for row in rows]) for name in rows[0]}
    columns["host"] = columns["host"].dictionary_encode()
    columns["ts"] = columns["ts"].cast(pyarrow.timestamp("ms", "UTC"))
    return pyarrow.record_batch(columns)


MAX_BYTES = 100_000
FIELDS = Fields([("v",)], [("host",)], ("ts",))


def batch(**columns: Any) -> Any:
    """Two rows that are read, with these columns in place of or beside the usual ones."""
    usual = {
        "host": pyarrow.array(["a", "b"]),
        "ts": pyarrow.array([1, 2], pyarrow.timestamp("ms", "UTC")),
        "v": pyarrow.array([0.5, 1.5]),
    }
    return pyarrow.record_batch({name: each for name, each in (usual | columns).items() if each is not None})


CODED = pyarrow.dictionary(pyarrow.int8(), pyarrow.string())
WIDE = {
    "host": pyarrow.array(["a", "b"]).dictionary_encode(),
    "struct": pyarrow.array(
        [{"d": "x", "n": 1}, {"d": "y", "n": 2}], pyarrow.struct([("d", CODED), ("n", pyarrow.int8())])
    ),
    "half_there": pyarrow.array([None, {"n": 2}]),
    "list": pyarrow.array([[1, 2], []]),
    "deep": pyarrow.array([[{"d": "x"}], []], pyarrow.list_(pyarrow.struct([("d", CODED)]))),
    "view": pyarrow.array(["x", "a text that stands elsewhere"], pyarrow.string_view()),
    "runs": pyarrow.RunEndEncodedArray.from_arrays(
        pyarrow.array([1, 2], pyarrow.int32()), pyarrow.array(["p", "q"])
    ),
    "map": pyarrow.array([{1: 2.0}, {}], pyarrow.map_(pyarrow.int64(), pyarrow.float64())),
    "null": pyarrow.nulls(2),
    "flag": pyarrow.array([True, None]),
    "none": pyarrow.array([None, "z"]).dictionary_encode(),
}
