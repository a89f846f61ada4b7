"""Whatever the bytes of an Arrow value are: it is read or refused, and does no harm."""

from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.formats.arrow import ArrowFormat
from pipeline.formats.arrow_sizes import claimed
from pipeline.formats.fields import Fields, Malformed
from pipeline.stages.decode import REASONS
from tests.arrows import MAX_BYTES, WIDE, batch, file_of, stream_of


def mutants() -> list[bytes]:
    encoded = pa.array(["a", "b"]).dictionary_encode()
    kinds = [batch(), batch(host=encoded), batch(**WIDE)]
    ways: list[dict[str, Any]] = [{}, {"compression": "lz4"}, {"compression": "zstd"}]
    return [file_of(batch()), *(stream_of(each, **how) for each in kinds for how in ways)]


SPELLS = [b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\1\0\0\0"]
CHANGE = st.tuples(st.floats(0, 1), st.sampled_from(SPELLS) | st.binary(max_size=8), st.booleans())


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(mutants()), st.lists(CHANGE, max_size=6), st.floats(0, 1) | st.just(1.0))
@example(mutants()[0], [], 1.0)
def test_no_bytes_do_harm(value: bytes, changes: list[tuple[float, bytes, bool]], end: float) -> None:
    """Every value is read or refused, and what was read can be taken apart."""
    changed = bytearray(value)
    for where, bytes_, aligned in changes:
        at = int(where * len(changed)) & (~3 if aligned else ~0)
        changed[at : at + len(bytes_)] = bytes_
    changed = changed[: int(end * len(changed)) + 1]
    reading = ArrowFormat(Fields([("v",)], [("host",)], ("ts",), optional_features=True), MAX_BYTES)
    reasons: set[str] = set()
    count = 0
    try:
        count = sum(rows.count for rows in reading.decode(bytes(changed)))
    except Malformed as error:
        reasons = {error.reason}
    assert reasons <= set(REASONS)
    assert count <= MAX_BYTES
    for number in range(min(count, 3)):
        alone = pa.ipc.open_stream(reading.row(bytes(changed), number)).read_all()
        alone.validate(full=True)
        assert alone.num_rows == 1


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_sizes_of_any_metadata(metadata: bytes, body: bytes) -> None:
    """They are found, or refused in words that are known here."""
    said = "a length is negative"
    try:
        assert min(claimed(metadata, body)) >= 0
    except ValueError as error:
        said = str(error)
    assert any(words in said for words in ("length is negative", "points outside", "has no size"))
