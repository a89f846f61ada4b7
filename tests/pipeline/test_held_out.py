"""What champion and challenger are compared on: one span of all series, and enough anomalies in it."""

import numpy as np
import pytest

from models.dataset import Columns
from pipeline import held_out
from pipeline.excluded import Span
from pipeline.held_out import cut_of, held_out_of, rounds_of
from tests.streams import feature_rows, series_rows


def columns_of(lengths: dict[str, range]) -> Columns:
    x_STF = series_rows(list(lengths), 10_000, 3, {})
    return {
        name: (1000 * np.array(at), x_TF[list(at)]) for (name, at), x_TF in zip(lengths.items(), x_STF, strict=True)
    }


def test_all_series_are_cut_at_one_moment() -> None:
    columns = columns_of({"old": range(0, 400), "long": range(0, 1000), "new": range(900, 1000)})
    cut = cut_of("series", columns)
    at_ms = [columns[name][0][cut[name]] for name in ("long", "new")]
    assert cut["old"] == 400
    assert abs(at_ms[0] - max(at_ms[1], 0)) <= 100_000
    assert sum(len(time_ms) - cut[name] for name, (time_ms, _) in columns.items()) == pytest.approx(300, abs=2)
    held = held_out_of("series", ["cpu", "mem"], columns, cut, [], 0, 0)
    assert set(held.columns) == {"long", "new"}
    assert held.rows == pytest.approx(300, abs=2)


def test_a_month_without_records_leaves_a_span_to_compare_on() -> None:
    """The cut goes by rows, not by days."""
    columns = columns_of({"a": range(0, 1000), "b": range(5000, 5100)})
    cut = cut_of("series", columns)
    held = held_out_of("series", ["cpu", "mem"], columns, cut, [], 0, 0)
    assert held.rows == pytest.approx(220, abs=2)


def test_of_records_without_order_the_last_ones_are_held_out() -> None:
    columns = {"": (np.arange(1000)[::-1].copy(), feature_rows(1000, 1))}
    cut = cut_of("features", columns)
    assert cut == {"": 800}
    held = held_out_of("features", ["a", "b", "c"], columns, cut, [], 0, 0)
    assert (held.rows, held.interval_ms("")) == (200, 1.0)
    assert cut_of("series", {}) == {}


def test_rows_of_excluded_spans_do_not_count_and_hold_no_anomaly() -> None:
    columns = columns_of({"a": range(0, 5000)})
    held = held_out_of(
        "series", ["cpu", "mem"], columns, cut_of("series", columns), [Span("*", 4_200_000, 4_400_000, "x")], 10, 0
    )
    assert held.rows == 1000 - 220
    rounds = rounds_of(held, 40, 16, 0)
    spans = [injected for one in rounds for _, injected in one.anomalies]
    assert spans
    assert all(held.counted["a"][span.begin : span.end].all() for span in spans)


def test_there_are_enough_anomalies_of_each_kind_and_size() -> None:
    columns = columns_of({name: range(0, 2000) for name in "abcdef"})
    rounds = rounds_of(
        held_out_of("series", ["cpu", "mem"], columns, cut_of("series", columns), [], 50, 0), 60, 16, 1
    )
    asked = [injected.anomaly for one in rounds for _, injected in one.anomalies]
    assert len(asked) == 6 * 36
    assert {
        fault: sum(one.fault == fault for one in asked) for fault in {one.fault for one in asked}
    } == dict.fromkeys(("spike", "level", "drift", "flat", "correlation", "period"), 36)
    assert {one.size for one in asked if one.fault == "level"} == {2.0, 4.0, 8.0}
    again = rounds_of(
        held_out_of("series", ["cpu", "mem"], columns, cut_of("series", columns), [], 50, 0), 60, 16, 1
    )
    assert [one.anomalies for one in again] == [one.anomalies for one in rounds]


def test_a_span_without_room_has_no_anomaly() -> None:
    columns = columns_of({"a": range(0, 100)})
    assert (
        rounds_of(held_out_of("series", ["cpu", "mem"], columns, cut_of("series", columns), [], 50, 0), 60, 16, 1)
        == []
    )


def test_a_very_long_span_is_that_of_some_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "_MOST_ROWS", 900)
    columns = columns_of({f"s{number}": range(0, 1000) for number in range(10)})
    cut = cut_of("series", columns)
    some, others = (held_out_of("series", ["cpu", "mem"], columns, cut, [], 0, seed) for seed in (0, 1))
    assert some.rows == others.rows == 1000
    assert set(some.columns) != set(others.columns)


def test_a_short_span_has_its_anomalies_one_at_a_time() -> None:
    columns = columns_of({"a": range(0, 500)})
    held = held_out_of("series", ["cpu", "mem"], columns, cut_of("series", columns), [], 50, 0)
    rounds = rounds_of(held, 130, 16, 1)
    assert len(rounds) == 24
    ends = [injected.end for one in rounds for _, injected in one.anomalies]
    assert len(ends) == 24
    assert max(ends) <= 84


def test_a_series_that_is_new_in_the_span_warms_up_first() -> None:
    columns = columns_of({"old": range(0, 1000), "new": range(900, 1000)})
    held = held_out_of("series", ["cpu", "mem"], columns, cut_of("series", columns), [], 50, 0)
    assert held.cut["new"] == 0
    placed = [injected for one in rounds_of(held, 60, 16, 1) for name, injected in one.anomalies if name == "new"]
    assert placed
    assert min(injected.begin for injected in placed) >= 60
