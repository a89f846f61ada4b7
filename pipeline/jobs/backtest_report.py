"""A backtest, or two of them -> one self-contained HTML page, drawn as the demo's report is.

A timeline shows when incidents began, day by day or week by week; of two backtests, those that both have and those
that only one has. Below it stand the most telling series of one backtest.
"""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from pipeline.demo import plot
from pipeline.demo.cards import SHOWN_SCORE, card
from pipeline.demo.frame import framed, tile
from pipeline.demo.views import SeriesView
from pipeline.jobs.backtest_result import Compared, Incident, Result
from pipeline.jobs.backtest_summary import delay_told, lines_of, rows_of
from pipeline.stages.incidents import SEVERITIES

_DAY_MS = 86_400_000
_MOST_BARS = 80
_HOUR_MS = 3_600_000
_BAR_STEPS_MS = [1000, 10_000, 60_000, 600_000, _HOUR_MS, 6 * _HOUR_MS, _DAY_MS, 7 * _DAY_MS, 28 * _DAY_MS]
_UNITS = ((_DAY_MS, "d"), (_HOUR_MS, "h"), (60_000, "min"), (1000, "s"))
_COLOURS = {"critical": "var(--hot)", "major": "var(--false)", "minor": "var(--score)"}
_LARGE_SERIES = 4
_LISTED = 40


def page(result: Result, pictures: Sequence[SeriesView]) -> str:
    """Return the report of one backtest."""
    large, small = pictures[:_LARGE_SERIES], pictures[_LARGE_SERIES:]
    is_table = not result.tally.series
    drawn = "".join(card(series, is_table, large=True) for series in large)
    folded = ""
    if small:
        inner = "".join(card(series, is_table, large=False) for series in small)
        folded = (
            f"<details class=fold><summary>{len(small)} more series</summary>"
            f'<div class="grid small">{inner}</div></details>'
        )
    said = "".join(f"<p class=soft>{escape(line)}</p>" for line in lines_of(result)[:-1])
    body = (
        f"<header><h1>What {escape(result.stream)} would have alerted on</h1>{said}"
        f"<div class=tiles>{_tile('', result)}</div></header>"
        f"<section><h2>When incidents began</h2><article class=card>{_timeline(result)}</article></section>"
        f"<section><h2>The most telling series</h2>{_LEGEND}<div class=grid>{drawn}</div>{folded}</section>"
    )
    return _whole(f"offkey backtest: {result.stream}", body)


def compared_page(a: tuple[str, Result], b: tuple[str, Result], both: Compared) -> str:
    """Return the report of two backtests of one stream, each with its name."""
    stream = a[1].stream
    delay = ""
    if both.delay_ms is not None:
        delay = f" What both have, B opens {escape(delay_told(both.delay_ms))} (the median)."
    rows = "".join(
        f"<tr><td>{escape(what)}</td><td>{left}</td><td>{right}</td></tr>"
        for what, left, right in rows_of(a[1], b[1])
    )
    only = "".join(
        f"<h3>Only {letter} has</h3>{_listed(incidents)}"
        for letter, incidents in (("A", both.only_a), ("B", both.only_b))
        if incidents
    )
    links = "".join(f'<p><a href="{letter.lower()}/report.html">All of {letter}</a></p>' for letter in "AB")
    body = (
        f"<header><h1>{escape(stream)}, judged in two ways</h1>"
        f"<p class=soft>A: {escape(a[0])}. B: {escape(b[0])}.</p>"
        f"<p class=soft>{both.told}.{delay}</p>"
        f"<div class=tiles>{_tile(f'A: {a[0]}', a[1])}{_tile(f'B: {b[0]}', b[1])}</div></header>"
        f"<section><h2>When incidents began</h2><article class=card>{_sides(a[1], b[1], both)}</article></section>"
        "<section><h2>Side by side</h2><article class=card><div class=scroll><table><thead><tr><th></th><th>A</th>"
        f"<th>B</th></tr></thead><tbody>{rows}</tbody></table></div></article>"
        f'<article class=card style="margin-top:16px">{only or "<p>Both have the same incidents.</p>"}</article>'
        f"{links}</section>"
    )
    return _whole(f"offkey backtest: {stream}, two side by side", body)


_LEGEND = (
    '<div class=legend><span><i class="dot found"></i>confirmed</span>'
    '<span><i class="dot false"></i>false alarm, by feedback</span>'
    '<span><i class="dot near"></i>nothing said</span>'
    '<span><i class=key style="background:var(--span-fill)"></i>series warm up</span>'
    '<span><i class=key style="background:var(--score)"></i>score</span>'
    '<span><i class=key style="background:var(--hot)"></i>at or above the threshold</span></div>'
)


def _whole(title: str, body: str) -> str:
    return framed(
        title,
        body,
        "<p><b>A score</b> is -10 log<sub>10</sub> of the probability that a normal point of this series "
        f"looks as strange: at 30, one in 1,000. Scores are shown up to {SHOWN_SCORE:g}; <code>alerts.jsonl</code> "
        "has them whole.</p><p><b>Feedback</b> on an incident counts for those that overlap it in its series. All "
        "times are UTC.</p>",
    )


def _tile(name: str, result: Result) -> str:
    head = f"<h3>{escape(name)}</h3>" if name else ""
    often = "" if result.per_week is None else f"{result.per_week:,.1f}"
    false, heard = result.count("false_alarm"), sum(each.verdict is not None for each in result.incidents)
    figures = (
        (f"{len(result.incidents):,}", "incidents"),
        (often or "?", "a week"),
        (f"{false:,}<small> / {heard:,}</small>", "false alarms / feedback"),
    )
    return tile(figures, head)


def _timeline(result: Result) -> str:
    """Draw how many incidents began in each stretch of time, by severity."""
    layers = [
        (_COLOURS[name], name, [each for each in result.incidents if each.severity == name]) for name in SEVERITIES
    ]
    return _bars(result, layers)


def _sides(a: Result, b: Result, both: Compared) -> str:
    """Draw, for each stretch of time, which incidents both have and which only one."""
    common = [one for one, _ in both.in_both]
    layers = [
        ("var(--found)", "in both", common),
        ("var(--score)", "only A", both.only_a),
        ("var(--false)", "only B", both.only_b),
    ]
    return _bars(a if len(a.incidents) >= len(b.incidents) else b, layers)


def _bars(result: Result, layers: Sequence[tuple[str, str, Sequence[Incident]]]) -> str:
    tally = result.tally
    assert tally.first_ms is not None, "there are rows"
    assert tally.last_ms is not None, "there are rows"
    if not any(incidents for _, _, incidents in layers):
        return "<p>No incidents.</p>"
    span_ms = max(tally.last_ms - tally.first_ms, 1)
    step_ms = next((step for step in _BAR_STEPS_MS if span_ms / step <= _MOST_BARS), _BAR_STEPS_MS[-1])
    first = tally.first_ms // step_ms
    bars = tally.last_ms // step_ms - first + 1
    counts = [
        _counts(incidents, lambda ms: min(max(ms // step_ms - first, 0), bars - 1), bars)
        for _, _, incidents in layers
    ]
    most = int(np.sum(counts, axis=0).max())
    drawn, below = [], np.zeros(bars, np.int64)
    wide = plot.WIDTH / bars
    for (colour, _, _), count in zip(layers, counts, strict=True):
        for at in np.flatnonzero(count).tolist():
            high = plot.HEIGHT * count[at] / most * 0.94
            top = plot.HEIGHT * (1 - below[at] / most * 0.94) - high
            drawn.append(
                f'<rect x="{at * wide + wide * 0.08:.1f}" y="{top:.1f}" width="{wide * 0.84:.1f}" '
                f'height="{high:.1f}" style="fill:{colour}"/>'
            )
        below += count
    axis = plot.Axis(float(first * step_ms), float((first + bars) * step_ms))
    keys = "".join(
        f'<span><i class=key style="background:{colour}"></i>{name} ({len(incidents):,})</span>'
        for colour, name, incidents in layers
    )
    unit_ms, unit = next(each for each in _UNITS if step_ms >= each[0])
    long = f"{step_ms // unit_ms} {unit}"
    return (
        f'<div class="row one"><div class=side><span>{most}</span><b>began<small>in {long}</small></b>'
        f'<span>0</span></div><div class=plot style="height:150px">{plot.canvas("".join(drawn))}</div></div>'
        f"<div class=axis>{plot.time_axis(axis, 9)}</div><div class=legend>{keys}</div>"
    )


def _counts(incidents: Sequence[Incident], bar_of: Callable[[int], int], bars: int) -> np.ndarray:
    return np.bincount([bar_of(each.course.opened_ms) for each in incidents], minlength=bars)


def _listed(incidents: Sequence[Incident]) -> str:
    worst = sorted(incidents, key=lambda each: each.course.peak or 0.0, reverse=True)[:_LISTED]
    rows = "".join(
        f"<tr><td class=when>{plot.moment(each.course.opened_ms)}</td><td>{escape(each.course.series)}</td>"
        f"<td>{each.severity}</td><td>{_score(each)}</td><td>{(each.verdict or '').replace('_', ' ')}</td></tr>"
        for each in sorted(worst, key=lambda each: each.course.opened_ms)
    )
    more = (
        f"<p class=soft>and {len(incidents) - len(worst):,} of lower score</p>"
        if len(incidents) > len(worst)
        else ""
    )
    return (
        "<div class=scroll><table><thead><tr><th>opened (UTC)</th><th>series</th><th>severity</th><th>score</th>"
        f"<th>feedback</th></tr></thead><tbody>{rows}</tbody></table></div>{more}"
    )


def _score(incident: Incident) -> str:
    peak = incident.course.peak
    return escape(incident.course.subject) if peak is None else f"{min(peak, SHOWN_SCORE):.1f}"
