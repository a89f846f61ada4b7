import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.demo import plot
from pipeline.demo.counting import Tally
from pipeline.demo.report import page
from pipeline.demo.views import IncidentView, SeriesView, StreamView, incidents_of
from pipeline.stages.alerts import FeatureView
from tests.pipeline.demo.incidents import alert

TALLY = Tally(2000, 3, 2, 1, 1, 1.4, 0.5)
VOID = {"meta", "rect", "path"}


class Outline(HTMLParser):
    """Collects ids, links and classes, and checks that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.classes: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.classes += (given.get("class") or "").split()
        self.addresses += [given[name] or "" for name in ("href", "src") if name in given]

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag


def incident(number: int, x: float, verdict: str = "found") -> IncidentView:
    views = [("<cpu>", FeatureView(9.0, 1.5, 0.75)), ("memory", FeatureView(2.0, 2.0, 0.25))]
    return IncidentView(f"id{number}", verdict, "major", x, int(x), None, False, 150.0, 27.0, views)  # type: ignore[arg-type]


def series(name: str, incidents: list[IncidentView]) -> SeriesView:
    x_N = 1.7e12 + np.arange(2000.0) * 60_000
    values_NF = np.stack([np.sin(np.arange(2000) / 50), np.full(2000, 3.0)], axis=1)
    score_N = np.full(2000, 5.0)
    score_N[:31] = np.nan
    score_N[700] = 150.0
    spans = [(x_N[690], x_N[710])]
    return SeriesView(
        name, x_N, values_NF, ("<cpu>", "memory"), score_N, np.full(2000, 27.0), spans, [True], incidents
    )


def outline_of(html: str) -> Outline:
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    return outline


def report(*shown: SeriesView, is_table: bool = False) -> str:
    return page(TALLY, [StreamView("machines", "Machines", "About them.", is_table, TALLY, shown)])


def test_what_happened_to_a_model_is_pointed_at_where_it_is_told() -> None:
    assert "#life" not in page(TALLY, [])
    assert '<a href="#life">' in page(TALLY, [], "<section id=life></section>")


def test_the_page_needs_nothing_from_outside_and_is_well_formed() -> None:
    html = report(series("web-1", [incident(1, 1.7e12 + 700 * 60_000)]))
    outline = outline_of(html)
    assert all(address.startswith("#") for address in outline.addresses)
    assert "url(" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert "prefers-color-scheme:dark" in html


def test_every_mark_leads_to_its_incident() -> None:
    html = report(series("web-1", [incident(n, 1.7e12 + n * 60_000) for n in (100, 700)]))
    outline = outline_of(html)
    targets = {address[1:] for address in outline.addresses}
    assert {"iid100", "iid700"} <= targets <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))


def test_marks_are_coloured_by_verdict() -> None:
    html = report(series("web-1", [incident(1, 1.7e12 + 60_000, "false"), incident(2, 1.7e12 + 1e8, "near")]))
    assert re.search(r'class="mark false" href="#iid1"', html)
    assert re.search(r'class="mark near" href="#iid2"', html)


def test_names_are_escaped_and_causes_shown() -> None:
    html = report(series("<b>web", [incident(1, 1.7e12 + 700 * 60_000)]))
    assert "<b>web" not in html
    assert "&lt;cpu&gt;" in html
    assert re.search(r"<em>9</em> \(1.5\)", html)
    assert "75%" in html


def test_scores_are_shown_up_to_a_hundred() -> None:
    html = report(series("web", [incident(1, 1.7e12 + 700 * 60_000)]))
    assert "<td>100.0</td>" in html
    assert "<td>150.0</td>" not in html
    assert "<span>100</span><b>score" in html


def test_the_series_with_most_found_is_large_and_no_series_is_left_out() -> None:
    quiet = [series(f"quiet-{n}", []) for n in range(5)]
    html = report(*quiet, series("loud", [incident(1, 1.7e12 + 700 * 60_000)]))
    assert "3 more series" in html
    assert all(f"<h3>quiet-{n}</h3>" in html for n in range(5))


def test_a_table_counts_records_and_stays_small_with_thousands_of_incidents() -> None:
    shown = [
        replace(incident(n, float(n)), features=[("<cpu>", FeatureView(float(n % 100), 0.0, 1.0))])
        for n in range(2000)
    ]
    many = series("http", shown)
    many = replace(many, x_N=np.arange(2000.0), spans=[(5.0, 6.0)], found=[True, False])
    html = report(many, is_table=True)
    outline_of(html)
    assert "2,000 incidents; those of highest score are marked and listed" in html
    assert html.count("and 19 alike") == 60
    assert html.count('class="mark ') == 60
    assert len(html) < 300_000


def test_a_series_without_any_score_is_drawn() -> None:
    blank = series("new", [])
    blank.score_N[:] = np.nan
    blank.threshold_N[:] = np.inf
    outline_of(report(blank))


def test_thinning_keeps_every_extreme() -> None:
    x_N = np.arange(50_000.0)
    y_N = np.zeros(50_000)
    y_N[31_234], y_N[7] = 9.0, -4.0
    axes = plot.Axis(0.0, 49_999.0), plot.Axis(-4.0, 9.0)
    path = plot.line(x_N, y_N, *axes, buckets=300)
    down = np.cumsum([int(pair.split()[1]) for pair in re.findall(r"[Ml]([-\d]+ [-\d]+)", path)])
    assert (down.min(), down.max()) == (0, plot.HEIGHT)
    assert len(path) < 10_000


def test_a_line_breaks_where_values_are_missing() -> None:
    y_N = np.array([1.0, 2.0, np.nan, 3.0, 4.0])
    path = plot.line(np.arange(5.0), y_N, plot.Axis(0.0, 4.0), plot.Axis(0.0, 5.0), buckets=100)
    assert path.count("M") == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3.14159, "3.142"),
        (12345.6, "12,346"),
        (1e9, "1.00e9"),
        (5e-6, "5.00e-6"),
        (-2.5, "-2.5"),
        (np.nan, "?"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert plot.short(value) == text


def test_alerts_become_incidents_with_their_whole_course() -> None:
    course = [
        alert("a", 1000, score=30.0),
        alert("b", 5000),
        alert("a", 2000, state="worsened", severity="critical", score=55.0, opened_ms=1000),
        alert("a", 9000, state="resolved", severity="critical", score=55.0, opened_ms=1000),
    ]
    first, second = incidents_of(course, {"a": "found", "b": "false"})
    assert (first.id, first.severity, first.score, first.opened_ms, first.ended_ms) == (
        "a",
        "critical",
        55.0,
        1000,
        9000,
    )
    assert (second.verdict, second.ended_ms) == ("false", None)
    assert not first.accepted


def test_an_incident_whose_level_was_accepted_says_so() -> None:
    ended = [alert("a", 86_400_000, state=state, opened_ms=0) for state in ("resolved", "accepted", "stale")]
    resolved, accepted, stale = (incidents_of([alert("a", 0), last], {"a": "false"})[0] for last in ended)
    assert (resolved.accepted, accepted.accepted) == (False, True)
    shown = incident(1, 1.7e12 + 700 * 60_000)
    for view, text in (
        (resolved, ">for 24 h<"),
        (accepted, ">accepted after 24 h<"),
        (stale, ">stopped after 24 h<"),
    ):
        assert text in report(series("web-1", [replace(view, x=shown.x, features=shown.features)]))


def test_an_incident_that_is_reopened_is_one_until_its_last_end() -> None:
    again = [alert("a", 3000, state="resolved"), alert("a", 4000, state="reopened", score=50.0)]
    (still_open,) = incidents_of([alert("a", 1000), *again], {"a": "found"})
    assert (still_open.ended_ms, still_open.score) == (None, 50.0)
    ended = [alert("a", 9000, state="resolved")]
    assert incidents_of([alert("a", 1000), *again, *ended], {"a": "found"})[0].ended_ms == 9000


@pytest.mark.parametrize("span_ms", [2 * 3_600_000, 86_400_000, 30 * 86_400_000, 900 * 86_400_000])
@pytest.mark.parametrize("most", [4, 9])
def test_dates_under_a_plot_are_few_and_at_round_times(span_ms: int, most: int) -> None:
    ticks = re.findall(r"<i[^>]*>([^<]+)</i>", plot.time_axis(plot.Axis(1.7e12, 1.7e12 + span_ms), most))
    assert 1 <= len(ticks) <= most
    assert all(tick.endswith(":00") or ":" not in tick for tick in ticks)
