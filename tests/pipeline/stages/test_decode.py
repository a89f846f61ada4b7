"""Every kind of bad record is rejected alone, with its reason, and its neighbours are decoded."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.fields import Fields
from pipeline.formats.json import JsonFormat
from pipeline.stages import dead_letters
from pipeline.stages.decode import REASONS, Decoder, RowDecoder, series_name, split_series_name
from tests.records import NOW_MS, Record, arrived, record

GOOD = {"cpu": 0.5, "disk": {"used": 7}, "ts": NOW_MS}


def decoder(**options: Any) -> Decoder:
    fields = Fields(features=[("cpu",), ("disk", "used")], time=("ts",), **options.pop("fields", {}))
    return RowDecoder(fields, stateless=options.pop("stateless", False), max_record_bytes=100_000, **options)


BAD: list[tuple[str, Record]] = [
    ("tombstone", record(None)),
    ("empty", record(b"")),
    ("too_large", record(json.dumps(GOOD | {"note": "x" * 5_000_000}).encode())),
    ("not_utf8", record(b'{"cpu": 1, "disk": {"used": 1}, "ts": 1, "note": "\xff\xfe"}')),
    ("not_utf8", record(b"\xff\xfe\x00")),
    ("not_json", record(b"hello")),
    ("not_json", record(b'{"cpu": 1')),
    ("not_json", record(b'{"cpu": 1, "disk": {"used": 1}, "ts": 1} {}')),
    ("not_object", record(b"[1, 2]")),
    ("not_object", record(b"null")),
    ("not_object", record(b"3")),
    (
        "too_deep",
        record(b'{"cpu": 1, "disk": {"used": 1}, "ts": 1, "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    ),
    ("missing_field", record({"disk": {"used": 1}, "ts": NOW_MS})),
    ("missing_field", record({"CPU": 1, "disk": {"used": 1}, "ts": NOW_MS})),
    ("missing_field", record({"cpu": 1, "ts": NOW_MS})),
    ("missing_field", record({"cpu": 1, "disk": None, "ts": NOW_MS})),
    ("missing_field", record(GOOD | {"cpu": None})),
    ("missing_field", record({"cpu": 1, "disk": {"used": 1}})),
    ("wrong_type", record(GOOD | {"cpu": "0.5"})),
    ("wrong_type", record(GOOD | {"cpu": True})),
    ("wrong_type", record(GOOD | {"disk": 3})),
    ("wrong_type", record(GOOD | {"ts": "2024-01-01"})),
    ("not_finite", record(b'{"cpu": NaN, "disk": {"used": 1}, "ts": 1}')),
    ("not_finite", record(b'{"cpu": Infinity, "disk": {"used": 1}, "ts": 1}')),
    *[
        ("not_finite", record(b'{"cpu": %s, "disk": {"used": 1}, "ts": 1}' % spelling))
        for spelling in (b"1e999", b"-1E+400", b"1" + b"0" * 400, b"-Infinity", b"3.5e38", b"-3.5e38")
    ],
    *[
        ("not_json", record(b'{"cpu": %s, "disk": {"used": 1}, "ts": 1}' % spelling))
        for spelling in (b"nan", b"-NaN", b"NAN", b"inf", b"-inf", b"+Infinity", b"infinity", b"1.#INF", b"")
    ],
    *[("wrong_type", record(GOOD | {"cpu": text})) for text in ("NaN", "nan", "Infinity", "-inf", "1e999", "")],
    ("wrong_type", record(GOOD | {"cpu": []})),
    ("wrong_type", record(GOOD | {"cpu": {}})),
    ("not_finite", record(GOOD | {"cpu": 1e39})),
    ("bad_time", record(GOOD | {"ts": -5})),
    ("bad_time", record(GOOD | {"ts": NOW_MS * 1000})),
    ("bad_time", record(GOOD | {"ts": 1e300})),
    ("bad_time", record(GOOD | {"ts": 10**25})),
    ("not_finite", record(GOOD | {"ts": 10**400})),
    ("time_ahead", record(GOOD | {"ts": NOW_MS + 3_600_001})),
    ("no_series", record(GOOD, key=None)),
    ("no_series", record(GOOD, key=b"\xff")),
]


@pytest.mark.parametrize(("reason", "bad"), BAD, ids=[f"{i}-{reason}" for i, (reason, _) in enumerate(BAD)])
def test_a_bad_record_is_rejected_alone(reason: str, bad: Record) -> None:
    batch, rejects = decoder().decode(arrived([record(GOOD), bad, record(GOOD | {"cpu": 2})]))
    assert [(reject.reason, reject.row, reject.record.offset) for reject in rejects] == [(reason, 1, 1)]
    assert rejects[0].record.value == bad.value
    assert batch.values_NF.tolist() == [[0.5, 7.0], [2.0, 7.0]]
    assert batch.offset_N.tolist() == [0, 2]


def test_every_reason_but_those_of_other_stages_and_formats_can_happen() -> None:
    others = {"held_too_long", "not_arrow", "not_image", "bad_image", "wrong_size", "wrong_mode"}
    assert {reason for reason, _ in BAD} | others == set(REASONS)


@pytest.mark.parametrize(
    ("ahead_ms", "published_ms", "expected"),
    [
        (0, NOW_MS, []),
        (60_000, NOW_MS, []),
        (60_001, NOW_MS, ["time_ahead"]),
        (10**9, NOW_MS, ["time_ahead"]),
        (-(10**9), NOW_MS, []),
        # The producer's clock as a whole is ahead, and it stamped the record: only the broker can tell.
        (10**9, NOW_MS + 10**9, []),
        # The topic has no timestamps.
        (10**9, -1, []),
    ],
)
def test_a_time_is_ahead_of_the_kafka_timestamp(ahead_ms: int, published_ms: int, expected: list[str]) -> None:
    one = record(GOOD | {"ts": NOW_MS + ahead_ms}, timestamp=published_ms)
    _, rejects = decoder(max_ahead_ms=60_000).decode(arrived([one]))
    assert [reject.reason for reject in rejects] == expected


@pytest.mark.parametrize("unit", ["ms", "s", "us", "ns"])
@pytest.mark.parametrize("value", [1e308, -1e308, 10**300, -(10**10)])
def test_an_absurd_time_is_rejected_in_any_unit(unit: Any, value: float) -> None:
    fields = Fields(features=[("v",)], time=("at",))
    batch, rejects = RowDecoder(fields, stateless=True, time_unit=unit).decode(
        arrived([record({"v": 1, "at": value}), record({"v": 1, "at": 0})])
    )
    assert [(reject.reason, reject.row) for reject in rejects] == [("bad_time", 0)]
    assert batch.time_ms_N.tolist() == [0]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("\ud800")
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.builds(lambda value: {"used": value}, SCALARS)


@given(
    st.lists(
        st.binary(max_size=20)
        | st.none()
        | st.dictionaries(st.sampled_from(["cpu", "disk", "ts", "host", "note"]), VALUES).map(
            lambda row: json.dumps(GOOD | {"host": "a"} | row).encode()
        ),
        max_size=4,
    ),
    st.booleans(),
    st.booleans(),
)
def test_every_record_is_decoded_or_rejected_whatever_it_holds(
    values: list[bytes | None], optional: bool, by_field: bool
) -> None:
    fields = {"optional_features": optional, "series": [("host",)] if by_field else []}
    batch, rejects = decoder(fields=fields).decode(arrived([record(value) for value in values]))
    assert sorted([*batch.offset_N, *(reject.record.offset for reject in rejects)]) == list(range(len(values)))
    assert (np.abs(batch.values_NF[~np.isnan(batch.values_NF)]) < 4e38).all()
    assert optional or not np.isnan(batch.values_NF).any()
    for name in batch.series:
        assert name.encode().decode() == name
    for reject in rejects:
        letter = dead_letters.message(reject, "dead")
        assert letter.value == values[reject.row]


def test_nothing_but_bad_records_gives_an_empty_batch() -> None:
    batch, rejects = decoder().decode(arrived([bad for _, bad in BAD]))
    assert len(batch) == 0
    assert batch.values_NF.shape == (0, 2)
    assert [reject.record.offset for reject in rejects] == list(range(len(BAD)))


def test_a_dead_letter_keeps_the_bytes_and_says_why() -> None:
    bad = Record(3, NOW_MS, None, b"\xff\x00", [("trace", b"abc")])
    _, rejects = decoder().decode(arrived([bad]))
    letter = dead_letters.message(rejects[0], "dead")
    assert (letter.topic, letter.key, letter.value) == ("dead", None, b"\xff\x00")
    headers = dict(letter.headers)
    assert headers["trace"] == b"abc"
    assert headers["__connect.errors.topic"] == b"metrics"
    assert headers["__connect.errors.offset"] == b"0"
    assert headers["__connect.errors.exception.class.name"] == b"offkey.not_utf8"


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, b"the record has no value"), (b"{", b"the value is not JSON: Input data was truncated")],
)
def test_a_dead_letter_says_why_once(value: bytes | None, said: bytes) -> None:
    _, rejects = decoder().decode(arrived([Record(3, NOW_MS, None, value)]))
    assert dict(dead_letters.message(rejects[0], "dead").headers)["__connect.errors.exception.message"] == said


def test_missing_features_may_be_left_open() -> None:
    holding = decoder(fields={"optional_features": True})
    rows: list[dict[str, Any]] = [
        {"ts": NOW_MS},
        {"cpu": None, "disk": {"used": 2}, "ts": NOW_MS},
        {"cpu": 1, "ts": NOW_MS},
    ]
    batch, rejects = holding.decode(arrived([record(row) for row in rows]))
    assert not rejects
    np.testing.assert_array_equal(batch.values_NF, [[np.nan, np.nan], [np.nan, 2], [1, np.nan]])


def test_series_are_named_by_fields() -> None:
    fields = Fields(features=[("v",)], series=[("host",), ("disk", "id")])
    batch, rejects = RowDecoder(fields, stateless=False).decode(
        arrived([record({"v": 1, "host": "a/b", "disk": {"id": 3}}, key=None), record({"v": 1, "host": "a"})])
    )
    assert list(batch.series) == ["a\\/b/3"]
    assert [reject.reason for reject in rejects] == ["missing_field"]
    assert series_name(["a/b"]) == "a/b"


@pytest.mark.parametrize("values", [["a", "b"], ["a/b", "c"], ["\\", "/", "x\\/"], ["", "b"], ["a", ""]])
def test_a_joined_name_comes_apart_again(values: list[str]) -> None:
    assert split_series_name(series_name(values), len(values)) == values


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("ms", 1_500_000_000_123),
        ("s", 1_500_000_000.123),
        ("us", 1_500_000_000_123_000),
        ("ns", 1_500_000_000_123_000_000),
        ("iso8601", "2017-07-14T02:40:00.123Z"),
        ("iso8601", "2017-07-14T04:40:00.123+02:00"),
        ("iso8601", "2017-07-14T02:40:00.123"),
    ],
)
def test_time_units(unit: Any, value: Any) -> None:
    fields = Fields(features=[("v",)], time=("at",), time_is_text=unit == "iso8601")
    batch, rejects = RowDecoder(fields, stateless=True, time_unit=unit).decode(
        arrived([record({"v": 1, "at": value})])
    )
    assert not rejects
    assert batch.time_ms_N.tolist() == [1_500_000_000_123]


def test_without_a_time_field_the_kafka_timestamp_counts() -> None:
    plain = RowDecoder(Fields(features=[("v",)]), stateless=True)
    batch, rejects = plain.decode(arrived([record({"v": 1}, timestamp=5), record({"v": 1}, timestamp=-1)]))
    assert batch.time_ms_N.tolist() == [5]
    assert [reject.reason for reject in rejects] == ["bad_time"]


def test_a_field_cannot_be_a_value_and_an_object() -> None:
    with pytest.raises(ValueError, match="'cpu' is named both"):
        JsonFormat(Fields(features=[("cpu",), ("cpu", "load")]))
