"""Arrow records for tests."""

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow

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
