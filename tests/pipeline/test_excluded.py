"""What lies in a span that was expected, or was an incident, is left out, and nothing is learned across it."""

import glob

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.dataset import pieces_of
from pipeline.alert_settings import AlertSettings
from pipeline.excluded import Span, excluded_rows, incident_spans, kept_of, maintenance_of
from pipeline.feedback import Feedback
from pipeline.incident_log import Course, begun
from tests.pipeline.stages.test_alerts import alert
from tests.said import said

TIMES = 10 * np.arange(20)
COLUMNS = {name: (TIMES, np.arange(20.0)[:, None]) for name in ("db-1", "db-2", "web")}


def test_maintenance_of_the_configuration_names_series_by_a_pattern() -> None:
    window = {"series": "db-*", "from": "1970-01-01T00:00:00.100Z", "to": "1970-01-01T00:00:00.130Z"}
    (span,) = maintenance_of(AlertSettings.model_validate({"maintenance": [window]}))
    assert span == Span("db-*", 100, 130, "maintenance")
    assert np.flatnonzero(excluded_rows("db-1", TIMES, [span], 0)).tolist() == [10, 11, 12]
    assert not excluded_rows("web", TIMES, [span], 0).any()


def test_a_span_is_widened_and_cuts_the_series_in_two() -> None:
    kept = kept_of(COLUMNS, [Span("db-*", 100, 130, "maintenance"), Span("web", 900, 999, "incident 1")], 2)
    assert {name: x_TF[:, 0].tolist() for name, (_, x_TF) in kept.columns.items()} == {
        "db-1": [*range(8), *range(15, 20)],
        "db-2": [*range(8), *range(15, 20)],
        "web": list(range(20)),
    }
    assert kept.begins_ms == {"db-1": [150], "db-2": [150]}
    assert (kept.left_out, kept.reasons) == (14, ["maintenance"])
    assert pieces_of(kept.columns["db-1"][0], kept.begins_ms["db-1"]) == [slice(0, 8), slice(8, 13)]


def test_a_name_with_signs_of_a_pattern_is_matched_as_it_is() -> None:
    span = Span(glob.escape("a[1]*"), 0, 50, "incident 1")
    assert excluded_rows("a[1]*", TIMES, [span], 0).sum() == 5
    assert not excluded_rows("a1x", TIMES, [span], 0).any()


def test_a_series_without_a_row_left_is_gone() -> None:
    kept = kept_of(COLUMNS, [Span("web", 0, 200, "maintenance")], 0)
    assert list(kept.columns) == ["db-1", "db-2"]
    assert kept.left_out == 20
    assert not kept_of(COLUMNS, [Span("*", 0, 200, "a"), Span("*", 0, 9, "b")], 0).columns


@given(
    spans=st.lists(st.tuples(st.integers(-50, 250), st.integers(1, 80)), max_size=5),
    margin=st.integers(0, 5),
    window=st.integers(1, 6),
)
def test_no_window_within_a_piece_holds_an_excluded_row(
    spans: list[tuple[int, int]], margin: int, window: int
) -> None:
    asked = [Span("*", begin, begin + length, "x") for begin, length in spans]
    out_T = excluded_rows("web", TIMES, asked, margin)
    kept = kept_of(COLUMNS, asked, margin)
    if "web" not in kept.columns:
        assert out_T.all()
        return
    time_ms_T = kept.columns["web"][0]
    assert time_ms_T.tolist() == TIMES[~out_T].tolist()
    for piece in pieces_of(time_ms_T, kept.begins_ms.get("web", ())):
        own_ms = time_ms_T[piece]
        for first in range(len(own_ms) - window + 1):
            assert own_ms[first + window - 1] - own_ms[first] == 10 * (window - 1)


@pytest.mark.parametrize("margin", [0, 3])
def test_without_spans_all_is_kept(margin: int) -> None:
    kept = kept_of(COLUMNS, [], margin)
    assert (dict(kept.begins_ms), kept.left_out, kept.reasons) == ({}, 0, [])
    assert all((kept.columns[name][1] == x_TF).all() for name, (_, x_TF) in COLUMNS.items())


def course(incident: str, ended_ms: int | None = None, series: str = "a[1]") -> Course:
    opened = begun(alert(incident=incident, series=series, opened_ms=100, event_ms=120))
    return (
        opened if ended_ms is None else opened.after(alert(incident=incident, state="resolved", event_ms=ended_ms))
    )


def spans_of(
    *courses: Course, words: tuple[Feedback, ...] = (), accept_after_ms: float | None = 50
) -> list[tuple[str, int, int]]:
    told = {each.incident: each for each in courses}
    found = incident_spans("machines", told, {each.incident: each for each in words}, accept_after_ms)
    assert all(span.why.startswith("incident ") for span in found)
    return [(span.series, span.from_ms, span.to_ms) for span in found]


def test_an_open_incident_teaches_nothing_until_its_level_is_accepted() -> None:
    assert spans_of(course("i1")) == [("a[[]1]", 100, 171)]
    assert spans_of(course("i1"), accept_after_ms=None) == [("a[[]1]", 100, 2**53 + 1)]
    assert spans_of(course("i1", 300)) == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (said("i1", "confirmed"), [("a[[]1]", 100, 301)]),
        (said("i1", "expected", until_ms=900), [("a[[]1]", 100, 900)]),
        (said("i1", "expected", until_ms=200), [("a[[]1]", 100, 301)]),
        (said("i1", "false_alarm"), []),
    ],
)
def test_what_was_said_of_an_incident_decides(word: Feedback, expected: list[tuple[str, int, int]]) -> None:
    assert spans_of(course("i1", 300), words=(word,)) == expected


def test_a_false_alarm_that_is_open_teaches() -> None:
    assert spans_of(course("i1"), words=(said("i1"),)) == []


def test_where_the_alerts_have_expired_feedback_knows_the_span() -> None:
    assert spans_of(words=(said("i1", "confirmed", opened_ms=100, ended_ms=200),)) == [("a", 100, 201)]
    assert spans_of(words=(said("i1", "confirmed", opened_ms=100, ended_ms=None),)) == [("a", 100, 151)]


def test_a_storm_is_of_every_series_and_other_streams_have_their_own() -> None:
    storm = begun(alert(incident="i1", series="", state="storm", score=None, threshold=None, features={}))
    assert [series for series, _, _ in spans_of(storm)] == ["*"]
    assert spans_of(words=(said("i1", "confirmed", stream="other"),)) == []
