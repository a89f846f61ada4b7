"""Whatever a name holds, it is shown harmlessly, and two names stay two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.receivers.links import link_of
from pipeline.receivers.wording import (
    LONGEST_NAME,
    feature_lines,
    headline,
    iso,
    kind_of,
    record_of,
    shown,
)
from pipeline.stages.alerts import FeatureView, StormMember, StormView
from tests.pipeline.stages.test_alerts import alert

HOSTILE = (
    "a\nb",
    "\x1b[31mred\x1b[0m",
    'say "hi"',
    "<script>alert(1)</script>",
    "x" * 10_000,
    "a\u202eb",
    "\x00\x7f",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web-1", "web-1"),
        ("C:\\disk", "C:\\disk"),
        ("a\nb\\c", "a\\nb\\\\c"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u202eb", "a\\u202eb"),
        ("Köln ✓", "Köln ✓"),
    ],
)
def test_what_is_not_printable_is_an_escape(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text(), st.text())
def test_nothing_shown_is_long_or_unprintable_and_two_stay_two(one: str, other: str) -> None:
    for text in (one, one * 200):
        assert shown(text).isprintable()
        assert len(shown(text)) <= LONGEST_NAME
    if one.isprintable() == other.isprintable():
        assert (shown(one) == shown(other)) == (one == other)
    long = "x" * LONGEST_NAME
    assert (shown(long + one) == shown(long + other)) == (shown(one, 10**6) == shown(other, 10**6))


def test_an_alert_in_a_line() -> None:
    assert headline(alert()) == "machines web-1: opened, major, score 41.5 (threshold 31.2)"
    assert headline(alert(score=400.0)) == "machines web-1: opened, major, score 100.0 (threshold 31.2)"
    assert headline(alert(series="", fields={})).startswith("machines: opened, ")
    silent = alert(state="silent", score=None, threshold=None)
    assert headline(silent) == "machines web-1: silent, major, of a series that sent nothing"
    storm = alert(state="storm", series="", score=None, threshold=None, storm=StormView(57, []))
    assert headline(storm) == "machines: storm, major, 57 series at once"
    assert [kind_of(each) for each in (alert(), silent, storm)] == ["anomaly", "silence", "storm"]


def test_the_explanation_names_the_features_that_caused_it() -> None:
    features = {f"f{n}": FeatureView(0.9, 0.3, 0.5, 0.125 if n else None) for n in range(3)}
    assert list(feature_lines(alert(features=features), most=2)) == [
        "f0 = 0.9, expected 0.3; share 50%",
        "f1 = 0.9, expected 0.3 ± 0.125; share 50%",
        "and 1 more features",
    ]
    worst = [StormMember("web-1\n", "i", "minor", 31.0), StormMember("web-2", "j", "major", None)]
    storm = alert(state="storm", series="", score=None, features={}, storm=StormView(57, worst))
    assert list(feature_lines(storm)) == ["web-1\\n: minor, score 31.0", "web-2: major"]


def test_a_link_holds_names_as_an_address_can() -> None:
    template = "https://grafana/d/x?s={series}&m={stream}&t={event_ms}&i={incident}"
    assert link_of(template, alert(series="a b/&é\n", incident="17")) == (
        "https://grafana/d/x?s=a%20b%2F%26%C3%A9%0A&m=machines&t=1700000000123&i=17"
    )
    # What a name holds is no place to be filled in.
    assert link_of("https://grafana/{stream}{series}", alert(stream="{series}")) == (
        "https://grafana/%7Bseries%7Dweb-1"
    )
    assert link_of(None, alert()) is None


def test_places_and_times() -> None:
    assert record_of(alert()) == "metrics/3@17"
    assert iso(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
