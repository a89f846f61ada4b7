"""Records of many rows: the same rules as for single ones, row by row, and rejects that carry their row."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.formats.arrow import ArrowFormat
from pipeline.formats.fields import Fields
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages import dead_letters, tables
from pipeline.stages.decode import Batch, Reject, RowDecoder
from pipeline.stages.tables import TableDecoder
from tests.arrows import rows_of, stream_of
from tests.records import NOW_MS, Record, arrived, record

PATHS = [("cpu",), ("disk", "used")]


def decoder(**options: Any) -> TableDecoder:
    fields = Fields(PATHS, series=[("host",)], time=("ts",), **options.pop("fields", {}))
    rules = {"stateless": False, "max_record_bytes": 100_000} | options
    return TableDecoder(fields, ArrowFormat(fields, rules["max_record_bytes"]), **rules)


def table(rows: Sequence[dict[str, Any]], **types: Any) -> bytes:
    """Return rows of host, ts, cpu and disk.used; what a row lacks is null."""
    kinds = {"host": pa.string(), "ts": pa.timestamp("ms", "UTC"), "cpu": pa.float64(), "used": pa.int64()} | types
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()}
    columns["disk"] = pa.StructArray.from_arrays([columns.pop("used")], names=["used"])
    return stream_of(pa.record_batch(columns))


def good(host: str | None, cpu: float | None = 0.5, **more: Any) -> dict[str, Any]:
    return {"host": host, "ts": NOW_MS, "cpu": cpu, "used": 7} | more


def seen(batch: Batch) -> list[tuple[str, float, int, int]]:
    return list(
        zip(
            batch.series_of_rows,
            batch.values_NF[:, 0].tolist(),
            batch.offset_N.tolist(),
            batch.place_in_record_N.tolist(),
            strict=True,
        )
    )


def why(rejects: Sequence[Reject]) -> list[tuple[int, int | None, str]]:
    return [(reject.row, reject.inner, reject.reason) for reject in rejects]


def test_rows_of_many_records_become_one_batch() -> None:
    records = [
        record(table([good("a"), good("b", 1.5)])),
        record(table([])),
        record(b"nonsense"),
        record(table([good("b", 2.5)], host=pa.dictionary(pa.int16(), pa.string()))),
    ]
    batch, rejects = decoder().decode(arrived(records))
    assert seen(batch) == [("a", 0.5, 0, 0), ("b", 1.5, 0, 1), ("b", 2.5, 3, 0)]
    assert batch.values_NF[:, 1].tolist() == [7, 7, 7]
    assert batch.row_N.tolist() == [0, 0, 3]
    assert why(rejects) == [(2, None, "not_arrow")]
    assert sorted(batch.series) == ["a", "b"]


BAD: list[tuple[str, dict[str, Any]]] = [
    ("missing_field", good("x", ts=None)),
    ("missing_field", good("x", cpu=None)),
    ("missing_field", good("x", used=None)),
    ("missing_field", good(None)),
    ("not_finite", good("x", cpu=float("nan"))),
    ("not_finite", good("x", cpu=float("-inf"))),
    ("not_finite", good("x", cpu=1e39)),
    ("bad_time", good("x", ts=-5)),
    ("bad_time", good("x", ts=NOW_MS * 100)),
    ("time_ahead", good("x", ts=NOW_MS + 3_600_001)),
]


@pytest.mark.parametrize(("reason", "bad"), BAD, ids=[f"{i}-{reason}" for i, (reason, _) in enumerate(BAD)])
def test_a_bad_row_is_rejected_alone_and_carried_by_its_dead_letter(reason: str, bad: dict[str, Any]) -> None:
    value = table([good("a"), bad, good("b")])
    source = Record(0, NOW_MS, b"key", value, [("trace", b"abc")])
    batch, rejects = decoder().decode(arrived([source]))
    assert [row[0] for row in seen(batch)] == ["a", "b"]
    assert why(rejects) == [(0, 1, reason)]

    letter = dead_letters.message(rejects[0], "dead")
    headers = dict(letter.headers)
    assert (headers["__connect.errors.row"], headers["__connect.errors.offset"]) == (b"1", b"0")
    assert (headers["trace"], letter.key) == (b"abc", b"key")
    assert headers["__connect.errors.exception.class.name"] == f"offkey.{reason}".encode()
    # What it carries is a record again: rejected for the same reason, alone in it.
    assert letter.value is not None
    assert pa.ipc.open_stream(letter.value).schema == pa.ipc.open_stream(value).schema
    again, repeated = decoder().decode(arrived([record(letter.value)]))
    assert (len(again), why(repeated)) == (0, [(0, None, reason)])


def test_a_thousand_rows_of_which_three_are_bad() -> None:
    rows = [good(f"host-{number % 50}", number) for number in range(1000)]
    for number in (17, 500, 999):
        rows[number]["cpu"] = None
    batch, rejects = decoder().decode(arrived([record(table(rows))]))
    assert len(batch) == 997
    letters = [rows_of(dead_letters.message(reject, "dead").value or b"") for reject in rejects]
    assert [row["host"] for (row,) in letters] == ["host-17", "host-0", "host-49"]
    assert sorted([*batch.place_in_record_N.tolist(), 17, 500, 999]) == list(range(1000))


def test_a_record_without_a_good_row_is_rejected_whole() -> None:
    value = table([good("a", cpu=None), good("b", ts=-1)])
    batch, rejects = decoder().decode(arrived([record(value), record(table([good("c")]))]))
    assert seen(batch) == [("c", 0.5, 1, 0)]
    assert why(rejects) == [(0, None, "missing_field")]
    assert rejects[0].value is value
    assert "all 2 rows" in rejects[0].text
    assert "__connect.errors.row" not in dict(dead_letters.message(rejects[0], "dead").headers)


def test_the_same_reasons_as_for_a_record_of_one_row() -> None:
    too_large = record(table([good("a" * 200_000)]))
    cases = [record(None), record(b""), too_large, record(b"\xff"), record(table([good("a")]))]
    batch, rejects = decoder().decode(arrived(cases))
    assert [reject.reason for reject in rejects] == ["tombstone", "empty", "too_large", "not_arrow"]
    assert [reject.record.value for reject in rejects] == [each.value for each in cases[:4]]
    assert len(batch) == 1


def test_a_key_names_the_series_of_all_rows() -> None:
    fields = Fields([("cpu",)])
    by_key = TableDecoder(fields, ArrowFormat(fields, 10_000), stateless=False)
    value = table([good("a"), good("b")])
    batch, rejects = by_key.decode(
        arrived([record(value, key=b"k"), record(value, key=None), record(value, key=b"\xff")])
    )
    assert batch.series_of_rows == ["k", "k"]
    assert [reject.reason for reject in rejects] == ["no_series", "no_series"]
    assert batch.time_ms_N.tolist() == [NOW_MS, NOW_MS]


def test_several_fields_name_a_series() -> None:
    fields = Fields([("cpu",)], series=[("host",), ("disk", "used")])
    joined = TableDecoder(fields, ArrowFormat(fields, 10_000), stateless=False)
    rows = [good("a/b", used=1), good("a", used=2), good("a/b", used=1), good("a", used=None)]
    batch, rejects = joined.decode(arrived([record(table(rows))]))
    assert batch.series_of_rows == ["a\\/b/1", "a/2", "a\\/b/1"]
    assert why(rejects) == [(0, 3, "missing_field")]


def test_records_of_features_belong_to_no_series() -> None:
    fields = Fields([("cpu",)])
    plain = TableDecoder(fields, ArrowFormat(fields, 10_000), stateless=True)
    batch, rejects = plain.decode(arrived([record(table([good("a"), good("b")]), key=None)]))
    assert (batch.series_of_rows, rejects) == (["", ""], [])


@pytest.mark.parametrize(
    ("unit", "kind", "value"),
    [
        ("ms", pa.int64(), 1_500_000_000_123),
        ("s", pa.float64(), 1_500_000_000.123),
        ("us", pa.uint64(), 1_500_000_000_123_000),
        ("ns", pa.int64(), 1_500_000_000_123_000_000),
        ("s", pa.timestamp("ms"), 1_500_000_000_123),
        ("s", pa.timestamp("us", "Asia/Tokyo"), 1_500_000_000_123_000),
        ("s", pa.timestamp("ns", "UTC"), 1_500_000_000_123_000_000),
        ("s", pa.decimal128(20, 3), 1_500_000_000.123),
    ],
)
def test_time_units(unit: Any, kind: Any, value: Any) -> None:
    if pa.types.is_decimal(kind):
        from decimal import Decimal

        value = Decimal(str(value))
    batch, rejects = decoder(time_unit=unit).decode(arrived([record(table([good("a", ts=value)], ts=kind))]))
    assert not rejects
    assert batch.time_ms_N.tolist() == [1_500_000_000_123]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300, 1e300])
def test_an_absurd_time_is_rejected(value: float) -> None:
    rows = [good("a", ts=value), good("b", ts=0.0)]
    batch, rejects = decoder().decode(arrived([record(table(rows, ts=pa.float64()))]))
    assert (why(rejects), batch.time_ms_N.tolist()) == ([(0, 0, "bad_time")], [0])


def test_missing_features_may_be_left_open() -> None:
    holding = decoder(fields={"optional_features": True})
    rows = [good("a", cpu=None), good("b", used=None), good("c", cpu=float("nan"))]
    batch, rejects = holding.decode(arrived([record(table(rows))]))
    np.testing.assert_array_equal(batch.values_NF, [[np.nan, 7], [0.5, np.nan]])
    assert why(rejects) == [(0, 2, "not_finite")]


HOSTS = st.sampled_from(["a", "b", "", "é/\\"]) | st.none()
NUMBERS = st.none() | st.sampled_from([0.0, -1.5, 3.5e38, 1e39, 2.0**53])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "host": HOSTS,
            "ts": st.none() | st.sampled_from([NOW_MS, NOW_MS + 1, -1, NOW_MS + 10**8, 10**15]),
            "cpu": NUMBERS,
            "used": st.none() | st.integers(-(2**60), 2**60),
        }
    ),
    max_size=12,
)


@settings(deadline=None)
@given(ROWS, st.lists(st.integers(0, 12), max_size=4), st.booleans(), st.booleans())
def test_the_same_rows_as_json_give_the_same_batch_and_rejects(
    rows: list[dict[str, Any]], cuts: list[int], optional: bool, encoded: bool
) -> None:
    fields = Fields(PATHS, series=[("host",)], time=("ts",), optional_features=optional)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [rows[low:high] for low, high in pairwise(edges)]
    kind = {"host": pa.dictionary(pa.int32(), pa.string())} if encoded else {}
    batch, rejects = decoder(fields={"optional_features": optional}).decode(
        arrived([record(table(part, **kind)) for part in parts])
    )
    single, refused = RowDecoder(fields, stateless=False).decode(
        arrived([record({**row, "disk": {"used": row["used"]}}) for row in rows])
    )
    first = np.cumsum([0, *(len(part) for part in parts)])
    assert list(batch.series_of_rows) == list(single.series)
    assert (first[batch.row_N] + batch.place_in_record_N).tolist() == single.offset_N.tolist()
    np.testing.assert_array_equal(batch.values_NF, single.values_NF)
    assert batch.time_ms_N.tolist() == single.time_ms_N.tolist()
    by_row = {int(first[each.row]) + each.inner: each.reason for each in rejects if each.inner is not None}
    whole = [each for each in rejects if each.inner is None]
    # A record rejected whole says the reason of its first row.
    assert by_row.keys() <= {each.row for each in refused}
    for reject in refused:
        holder = int(np.searchsorted(first, reject.row, side="right")) - 1
        expected = by_row.get(reject.row)
        if expected is None:
            (one,) = (each for each in whole if each.row == holder)
            expected = one.reason if first[holder] == reject.row else reject.reason
        assert expected == reject.reason


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
def test_a_poll_is_cut_into_parts_of_bounded_rows(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is lost or doubled, their order stays, and no part has more rows unless it is one record."""
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", most)
    sizes = [[1, 0, 4, 1], [2, 2], [3]]
    places = [TopicPartition("metrics", number) for number in range(3)]
    polled = [
        arrived([record(table([good("a")] * size)) if size else record(b"x") for size in each], place)
        for each, place in zip(sizes, places, strict=True)
    ]
    parts = list(decoder().split(polled))
    for each, place in zip(polled, places, strict=True):
        assert [one for part in parts for at in part if at.partition == place for one in at.records] == each.records
    for part in parts:
        assert all(at.records for at in part)
        rows = [decoder().decode(PartitionRecords(at.partition, [one]))[0] for at in part for one in at.records]
        assert sum(map(len, rows)) <= most or sum(map(bool, map(len, rows))) == 1


def test_what_cannot_be_read_counts_for_nothing_until_it_is_decoded() -> None:
    nothing = stream_of(pa.record_batch({"cpu": pa.nulls(10**7)}))
    (part,) = decoder().split([arrived([record(b"x"), record(None), record(nothing)])])
    assert [reject.reason for reject in decoder().decode(part[0])[1]] == ["not_arrow", "tombstone", "too_large"]
