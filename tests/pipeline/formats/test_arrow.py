"""Arrow values: what is read from which types and what is refused with which reason."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.formats.arrow import ArrowFormat, number_fields
from pipeline.formats.fields import Fields, Malformed, Path, Rows
from pipeline.formats.json import JsonFormat
from pipeline.stages.decode import REASONS
from tests.arrows import FIELDS, MAX_BYTES, WIDE, batch, file_of, rows_of, stream_of


def decode(value: bytes, fields: Fields = FIELDS, max_bytes: int = MAX_BYTES) -> list[Rows]:
    return list(ArrowFormat(fields, max_bytes).decode(value))


def refused(value: bytes, fields: Fields = FIELDS, max_bytes: int = MAX_BYTES) -> Malformed:
    with pytest.raises(Malformed) as caught:
        decode(value, fields, max_bytes)
    assert caught.value.reason in REASONS
    return caught.value


def values(rows: Sequence[Rows]) -> list[float | None]:
    found: list[float | None] = []
    for part in rows:
        column = part.features[0]
        assert column is not None
        missing_N = np.zeros(part.count, bool) if column.missing_N is None else column.missing_N
        found += [None if missing else float(each) for each, missing in zip(column.value_N, missing_N, strict=True)]
    return found


def names(rows: Rows) -> list[str | int | None]:
    field = rows.series[0]
    return [None if code < 0 else field.names[code] for code in field.code_N.tolist()]


WHOLE = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
FRACTIONS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal32(5, 2), pa.decimal64(10, 2), pa.decimal128(20, 2), pa.decimal256(50, 2)]


@pytest.mark.parametrize("kind", [*WHOLE, *FRACTIONS, *DECIMALS], ids=str)
def test_features_are_numbers_of_any_type(kind: Any) -> None:
    assert values(decode(stream_of(batch(v=pa.array([3, 7], kind))))) == [3.0, 7.0]
    assert values(decode(stream_of(batch(v=pa.array([None, 7], kind))))) == [None, 7.0]


def test_a_column_of_nothing_but_nulls_is_missing() -> None:
    assert values(decode(stream_of(batch(v=pa.nulls(2))))) == [None, None]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, False]),
        pa.array(["1", "2"]),
        pa.array([1, 2], pa.date32()),
        pa.array([1, 2], pa.duration("s")),
        pa.array([1, 2], pa.timestamp("s")),
        pa.array([[1.0], [2.0]]),
        pa.array([1.0, 2.0]).dictionary_encode(),
        pa.array([{"v": 1}, {"v": 2}]),
        pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([1.0])),
        pa.array([{1: 2.0}, {}], pa.map_(pa.int64(), pa.float64())),
        pa.array([b"1", b"2"]),
    ],
    ids=lambda column: str(column.type),
)
def test_other_types_of_a_feature_are_refused_by_name(column: Any) -> None:
    error = refused(stream_of(batch(v=column)))
    assert error.reason == "wrong_type"
    assert "'v'" in str(error)
    assert "cast it in the producer" in str(error)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None]), ["a", None]),
        (pa.array(["a", "a"], pa.large_string()), ["a", "a"]),
        (pa.array(["a", "a long name of a series"], pa.string_view()), ["a", "a long name of a series"]),
        (pa.array([7, -1], pa.int16()), [7, -1]),
        (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
        (pa.array([None, "a"]).dictionary_encode(), [None, "a"]),
        (pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.uint8()), pa.array(["x", None])), [None, "x"]),
        (pa.DictionaryArray.from_arrays(pa.array([1, 1]), pa.array([5, 9])), [9, 9]),
        # Of a dictionary much longer than the rows only what is used is looked at.
        (
            pa.DictionaryArray.from_arrays(pa.array([None, 400]), pa.array([f"h{i}" for i in range(500)])),
            [None, "h400"],
        ),
    ],
    ids=lambda column: str(getattr(column, "type", "")),
)
def test_series_are_named_by_text_or_whole_numbers(column: Any, expected: list[str | int | None]) -> None:
    (rows,) = decode(stream_of(batch(host=column)))
    assert names(rows) == expected


@pytest.mark.parametrize("column", [pa.array([1.0, 2.0]), pa.array([True, False]), pa.array([b"a", b"b"])])
def test_a_series_is_not_named_by_anything_else(column: Any) -> None:
    error = refused(stream_of(batch(host=column)))
    assert (error.reason, "'host'" in str(error)) == ("wrong_type", True)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_a_timestamp_says_its_unit(unit: str, zone: str | None) -> None:
    (rows,) = decode(stream_of(batch(ts=pa.array([5, None], pa.timestamp(unit, zone)))))
    assert rows.time is not None
    assert rows.time.missing_N is not None
    assert (rows.time_unit, rows.time.value_N[0], rows.time.missing_N.tolist()) == (unit, 5, [False, True])


def test_a_number_as_time_has_no_unit() -> None:
    (rows,) = decode(stream_of(batch(ts=pa.array([5, 6]))))
    assert rows.time_unit is None
    assert refused(stream_of(batch(ts=pa.array(["2024-01-01", "2024-01-02"])))).reason == "wrong_type"


def test_fields_of_structs_have_dotted_paths() -> None:
    inner = [{"disk": {"used": 3}}, {"disk": None}]
    fields = Fields([("machine", "disk", "used")], [("host",)], ("ts",))
    value = stream_of(batch(machine=pa.array(inner)))
    assert values(decode(value, fields)) == [3.0, None]
    assert values(decode(stream_of(pa.record_batch({"a.b": pa.array([1])})), Fields([("a.b",)]))) == [1.0]
    error = refused(value, Fields([("machine", "disk", "free")], [("host",)], ("ts",)))
    assert error.reason == "missing_field"
    assert "'machine.disk.free' is not in the schema, which has used" in str(error)
    error = refused(value, Fields([("v", "used")], [("host",)], ("ts",)))
    assert "'v' holds double, not a struct" in str(error)


@pytest.mark.parametrize("name", ["v", "host", "ts"])
def test_an_absent_column_is_named(name: str) -> None:
    error = refused(stream_of(batch(**{name: None})))
    assert error.reason == "missing_field"
    assert f"column {name!r} is not in the schema" in str(error)


def test_a_feature_may_be_absent_where_it_is_held() -> None:
    (rows,) = decode(stream_of(batch(v=None)), Fields([("v",)], [("host",)], ("ts",), optional_features=True))
    assert rows.features == [None]


def test_a_name_that_is_there_twice_is_refused_only_where_it_is_read() -> None:
    columns = [pa.array(["a"]), pa.array([1]), pa.array([2.0]), pa.array([3.0]), pa.array([4.0]), pa.array([5.0])]
    doubled = pa.RecordBatch.from_arrays(columns, names=["host", "ts", "v", "v", "x", "x"])
    error = refused(stream_of(doubled))
    assert (error.reason, "'v' is in the schema 2 times" in str(error)) == ("wrong_type", True)
    once = doubled.select([0, 1, 2, 4, 5])
    assert values(decode(stream_of(once))) == [2.0]


def test_a_stream_of_several_batches_and_one_of_none() -> None:
    assert values(decode(stream_of(batch(), batch(v=pa.array([2.5, 3.5]))))) == [0.5, 1.5, 2.5, 3.5]
    assert decode(stream_of(schema=batch().schema)) == []
    assert [rows.count for rows in decode(stream_of(batch().slice(0, 0)))] == [0]
    # A dictionary that is replaced and one that grows.
    first, second = (batch(host=pa.array(each).dictionary_encode()) for each in (["a", "b"], ["b", "c"]))
    assert [names(rows) for rows in decode(stream_of(first, second))] == [["a", "b"], ["b", "c"]]
    grown = batch(host=pa.DictionaryArray.from_arrays(pa.array([0, 2], pa.int32()), pa.array(["a", "b", "c"])))
    deltas = stream_of(first, grown, emit_dictionary_deltas=True)
    assert [names(rows) for rows in decode(deltas)] == [["a", "b"], ["a", "c"]]


def test_a_stream_whose_writer_was_not_closed_is_whole() -> None:
    value = stream_of(batch())
    assert value.endswith(b"\xff\xff\xff\xff\0\0\0\0")
    assert values(decode(value[:-8])) == [0.5, 1.5]


def test_a_file_is_read_like_a_stream() -> None:
    value = file_of(batch(), batch())
    assert values(decode(value)) == [0.5, 1.5, 0.5, 1.5]
    assert rows_of(ArrowFormat(FIELDS, MAX_BYTES).row(value, 2)) == batch().slice(0, 1).to_pylist()
    assert "does not end as one" in str(refused(value[:-10]))
    assert refused(value[:20]).reason == "not_arrow"


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_streams(codec: str) -> None:
    many = batch(host=pa.array(["a"] * 2), v=pa.array([1.0, 2.0]))
    assert values(decode(stream_of(many, compression=codec))) == [1.0, 2.0]
    bomb = pa.record_batch({"host": [""] * 10**6, "ts": np.zeros(10**6), "v": np.zeros(10**6)})
    value = stream_of(bomb, compression=codec)
    assert len(value) < MAX_BYTES
    error = refused(value)
    assert error.reason == "too_large"
    assert "1,000,000 rows" in str(error)


def test_a_claimed_size_is_refused_before_anything_is_unpacked() -> None:
    """The first eight bytes of a compressed buffer may claim anything."""
    honest = pa.record_batch({"host": ["a"] * 512, "ts": np.arange(512), "v": np.zeros(512)})
    value = stream_of(honest, compression="zstd")
    forged = value.replace(struct.pack("<q", 512 * 8), struct.pack("<q", 1 << 50), 1)
    assert forged != value
    assert refused(forged).reason == "too_large"
    negative = value.replace(struct.pack("<q", 512 * 8), struct.pack("<q", -2), 1)
    assert refused(negative).reason == "not_arrow"


def test_rows_without_bytes_are_bounded() -> None:
    """Columns of nulls take no space, so a few bytes may claim as many rows as they like."""
    nothing = pa.record_batch({"v": pa.nulls(10**7), "w": pa.nulls(10**7)})
    fields = Fields([("v",), ("w",)], optional_features=True)
    assert refused(stream_of(nothing), fields).reason == "too_large"
    assert decode(stream_of(nothing.slice(0, MAX_BYTES // 2)), fields)[0].count == MAX_BYTES // 2
    assert refused(stream_of(nothing.slice(0, MAX_BYTES // 2 + 1)), fields).reason == "too_large"


def test_a_record_without_columns() -> None:
    value = stream_of(schema=pa.schema([]))
    assert "'v' is not in the schema, which has none" in str(refused(value))
    assert number_fields(value, MAX_BYTES) == []


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'{"v": 1}',
        b"ARROW1",
        b"ARROW1\0\0",
        b"\xff" * 64,
        b"\xff\xff\xff\xff\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 50,
        b"\0" * 100,
        b"PAR1" + b"\0" * 40 + b"PAR1",
    ],
)
def test_what_is_no_arrow_is_refused(value: bytes) -> None:
    assert refused(value).reason == "not_arrow"


def test_json_and_arrow_are_told_from_each_other() -> None:
    assert "set `format: json`" in str(refused(b' {"v": 1}'))
    for value in (stream_of(batch(v=pa.array([-1.5, 0.1]))), file_of(batch(v=pa.array([-1.5, 0.1])))):
        with pytest.raises(Malformed, match="set `format: arrow`"):
            JsonFormat(FIELDS).decode(value)


def test_what_follows_a_stream_is_not_lost_in_silence() -> None:
    error = refused(stream_of(batch()) * 2)
    assert (error.reason, "follow the end of the stream" in str(error)) == ("not_arrow", True)


def test_text_that_is_not_utf8() -> None:
    good = stream_of(batch(host=pa.array(["ab", "cd"])))
    assert good.count(b"abcd") == 1
    assert refused(good.replace(b"abcd", b"a\xff\xfed")).reason == "not_utf8"
    named = stream_of(batch(extra=pa.array([1, 2])))
    assert refused(named.replace(b"extra", b"\xff\xfe\xfd\xfc\xfb")).reason == "not_utf8"


def test_offsets_and_indices_that_point_elsewhere() -> None:
    """Followed, they would read foreign memory."""
    good = stream_of(batch(host=pa.array(["ab", "cd"])))
    offsets = struct.pack("<iii", 0, 2, 4)
    assert good.count(offsets) == 1
    for wrong in ((0, 2, 1 << 30), (0, 1 << 30, 4), (0, -5, 4), (4, 2, 0)):
        assert refused(good.replace(offsets, struct.pack("<iii", *wrong))).reason == "not_arrow"
    encoded = pa.DictionaryArray.from_arrays(pa.array([0x1235, 0x1234], pa.int32()), pa.array(["x"] * 0x1236))
    good = stream_of(batch(host=encoded))
    indices = struct.pack("<ii", 0x1235, 0x1234)
    assert good.count(indices) == 1
    for other in ((0x1236, 0), (-1, 0), (1 << 30, 0)):
        assert refused(good.replace(indices, struct.pack("<ii", *other))).reason == "not_arrow"


def test_a_schema_is_looked_into_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer repeats its schema; a wrong one is not looked into again either."""
    looked: list[Any] = []
    reading = ArrowFormat(FIELDS, MAX_BYTES)
    planned = reading._planned

    def counted(schema: Any) -> Any:
        looked.append(schema)
        return planned(schema)

    monkeypatch.setattr(reading, "_planned", counted)
    right, wrong = stream_of(batch()), stream_of(batch(v=pa.array(["1", "2"])))
    for _ in range(3):
        assert [rows.count for rows in reading.decode(right)] == [2]
        with pytest.raises(Malformed, match="'v' holds string"):
            list(reading.decode(wrong))
    assert len(looked) == 2


def test_a_repeated_dictionary_gives_the_same_names() -> None:
    reading = ArrowFormat(FIELDS, MAX_BYTES)
    value = stream_of(batch(host=pa.array(["a", "b"]).dictionary_encode()))
    (first,), (second,) = reading.decode(value), reading.decode(value)
    assert first.series[0].names is second.series[0].names


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}])
def test_a_row_alone_has_the_same_columns(options: dict[str, Any]) -> None:
    both = batch(**WIDE)
    value = stream_of(both, both, **options)
    reading = ArrowFormat(FIELDS, MAX_BYTES)
    for number in range(4):
        alone = reading.row(value, number)
        assert rows_of(alone) == both.slice(number % 2, 1).to_pylist()
        assert pa.ipc.open_stream(alone).schema.equals(both.schema, check_metadata=True)
        assert [rows.count for rows in reading.decode(alone)] == [1]
    with pytest.raises(IndexError):
        reading.row(value, 4)


def test_a_row_alone_takes_no_dictionary_of_others_along() -> None:
    many = [f"host-{number}" for number in range(3000)]
    value = stream_of(
        pa.record_batch({"host": pa.array(many).dictionary_encode(), "ts": range(3000), "v": range(3000)})
    )
    alone = ArrowFormat(FIELDS, 10**6).row(value, 2999)
    assert rows_of(alone) == [{"host": "host-2999", "ts": 2999, "v": 2999}]
    assert len(alone) < len(value) / 50


def test_numbers_for_a_stream_that_names_no_features() -> None:
    inner = pa.array([{"used": 1, "path": "/"}, {"used": 2, "path": "/"}])
    some = batch(disk=inner, flag=pa.array([True, False]), gaps=pa.array([None, 1]), none=pa.nulls(2, pa.int8()))
    expected: list[Path] = [("v",), ("disk", "used"), ("gaps",)]
    assert number_fields(stream_of(some), MAX_BYTES) == expected
    assert number_fields(stream_of(some.slice(0, 1), some), MAX_BYTES) == expected
    assert number_fields(stream_of(some.slice(0, 1)), MAX_BYTES) == expected[:2]
    with pytest.raises(Malformed):
        number_fields(b"{}", MAX_BYTES)
