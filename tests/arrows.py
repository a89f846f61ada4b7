"""Arrow records for tests."""

from typing import Any

import pyarrow


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
