"""One series with its scores and incidents -> a card of a page.

Legend: N points.
"""

from html import escape

import numpy as np

from pipeline.demo import plot
from pipeline.demo.views import IncidentView, SeriesView
from pipeline.stages.alerts import FeatureView

SHOWN_SCORE = 100.0
"""Scores are shown to people up to here; files keep them whole."""

_DRAWN_FEATURES = 5
_LISTED_INCIDENTS = 60
_NAMED_FEATURES = 3


def card(series: SeriesView, is_table: bool, large: bool) -> str:
    """Return one series: the features that tell most, the score, and its incidents."""
    x_axis = plot.Axis(float(series.x_N[0]), float(series.x_N[-1]))
    buckets = 700 if large else 320
    drawn = _telling_features(series)
    one = " one" if large and len(drawn) == 1 else ""
    shaded = plot.spans(series.spans, x_axis)
    rows = [_values(series, feature, x_axis, buckets, shaded) for feature in drawn]
    ticks = (plot.count_axis if is_table else plot.time_axis)(x_axis, 9 if large else 4)
    hidden = len(series.features) - len(drawn)
    named = f" · {len(drawn)} of {len(series.features)} features drawn" if hidden else ""
    told = series.told
    if not told:
        false = sum(incident.verdict == "false" for incident in series.incidents)
        labels = f"{sum(series.found)} of {len(series.found)} found" if series.found else "no labels"
        told = f"{labels} · {false} false"
    return (
        f'<article class="card{one}"><div class=head><h3>{escape(series.name)}</h3>'
        f"<span>{told} · {len(series.x_N):,} points{named}</span></div>"
        f"{''.join(rows)}{_scores(series, is_table, x_axis, buckets, shaded)}<div class=axis>{ticks}</div>"
        f"{_incidents(series, is_table, opened=large and len(series.incidents) <= 8)}</article>"
    )


def _telling_features(series: SeriesView) -> list[int]:
    """Return the features that caused most of the incidents, or the first ones where there are none."""
    index_of = {name: index for index, name in enumerate(series.features)}
    shares = np.zeros(len(series.features))
    for incident in series.incidents:
        for name, view in incident.features:
            shares[index_of[name]] += view.share
    return sorted(np.argsort(-shares, kind="stable")[:_DRAWN_FEATURES].tolist())


def _values(series: SeriesView, feature: int, x_axis: plot.Axis, buckets: int, shaded: str) -> str:
    values_N = series.values_NF[:, feature]
    y_axis = plot.axis_of(values_N)
    line = plot.line(series.x_N, values_N, x_axis, y_axis, buckets)
    drawing = f'{shaded}<path class="line" d="{line}"/>'
    return (
        f"<div class=row><div class=side><span>{plot.short(float(np.nanmax(values_N)))}</span>"
        f"<b>{escape(series.features[feature])}</b><span>{plot.short(float(np.nanmin(values_N)))}</span></div>"
        f"<div class=plot>{plot.canvas(drawing)}</div></div>"
    )


def _scores(series: SeriesView, is_table: bool, x_axis: plot.Axis, buckets: int, shaded: str) -> str:
    score_N = np.minimum(series.score_N, SHOWN_SCORE)
    finite = series.threshold_N[np.isfinite(series.threshold_N)]
    threshold = float(np.median(finite)) if len(finite) else SHOWN_SCORE
    top = max(float(np.nanmax(score_N, initial=0.0)), threshold * 1.25)
    y_axis = plot.Axis(0.0, top * 1.08)
    over_N = np.where(series.score_N >= series.threshold_N, score_N, np.nan)
    marks = []
    for incident, _ in _listed(series, is_table):
        left = float(x_axis.share(incident.x)) * 100
        down = 100 - float(y_axis.share(min(incident.score, SHOWN_SCORE))) * 100
        marks.append(
            f'<a class="mark {incident.verdict}" href="#i{incident.id}" style="left:{left:.2f}%;top:{down:.1f}%" '
            f'title="{series.words[incident.verdict]}, score {incident.score:.1f}"></a>'
        )
    drawing = (
        f'{shaded}<path class="area" d="{plot.area(series.x_N, score_N, x_axis, y_axis, buckets)}"/>'
        f'<path class="area over" d="{plot.area(series.x_N, over_N, x_axis, y_axis, buckets)}"/>'
        f"{plot.level(threshold, y_axis)}{_rug(series, x_axis)}"
    )
    return (
        f"<div class=row><div class=side><span>{top:.0f}</span><b>score<small>alert at {threshold:.0f}</small></b>"
        f'<span>0</span></div><div class="plot score">{plot.canvas(drawing)}{"".join(marks)}</div></div>'
    )


def _listed(series: SeriesView, is_table: bool) -> list[tuple[IncidentView, int]]:
    """Return the incidents of highest score, in order, each with how many were alike.

    Records of a table repeat; those with equal values make one line.
    """
    alike: dict[object, list[IncidentView]] = {}
    for incident in sorted(series.incidents, key=lambda incident: (-incident.score, incident.x)):
        same = tuple((name, view.observed) for name, view in incident.features) if is_table else incident.id
        alike.setdefault((same, incident.verdict), []).append(incident)
    highest = [(incidents[0], len(incidents) - 1) for incidents in alike.values()][:_LISTED_INCIDENTS]
    return sorted(highest, key=lambda listed: listed[0].x)


def _rug(series: SeriesView, x_axis: plot.Axis) -> str:
    """Return a short stroke for each incident, where there are too many to mark them all."""
    if len(series.incidents) <= _LISTED_INCIDENTS:
        return ""
    strokes = []
    for verdict in series.words:
        at = [incident.x for incident in series.incidents if incident.verdict == verdict]
        strokes.append(f'<path class="rug {verdict}" d="{plot.rug(at, x_axis)}"/>')
    return "".join(strokes)


def _incidents(series: SeriesView, is_table: bool, opened: bool) -> str:
    if not series.incidents:
        return ""
    listed = _listed(series, is_table)
    rows = "".join(_incident(series, incident, alike, is_table) for incident, alike in listed)
    count = len(series.incidents)
    text = f"{count:,} incident{'s' * (count != 1)}"
    if count > sum(1 + alike for _, alike in listed):
        text += "; those of highest score are marked and listed"
    when = "record" if is_table else "opened (UTC)"
    picture = "" if is_table else "<th>observed around it</th>"
    return (
        f"<details{' open' * opened}><summary>{text}</summary><div class=scroll><table><thead>"
        f"<tr><th>{when}</th><th></th><th>severity</th><th>score</th>{picture}"
        "<th>why: feature, observed (expected ± usual), share</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _incident(series: SeriesView, incident: IncidentView, alike: int, is_table: bool) -> str:
    when = f"{incident.x:,.0f}" if is_table else plot.moment(incident.opened_ms)
    if not is_table or alike:
        when += f"<small>{f'and {alike:,} alike' if is_table else _lasting(incident)}</small>"
    picture = "" if is_table else f"<td>{_around(series, incident)}</td>"
    why = "".join(_reason(name, view) for name, view in incident.features[:_NAMED_FEATURES])
    return (
        f"<tr id=i{incident.id}><td class=when>{when}</td>"
        f'<td><span class=chip><i class="dot {incident.verdict}"></i>{series.words[incident.verdict]}</span></td>'
        f"<td>{incident.severity}</td><td>{min(incident.score, SHOWN_SCORE):.1f}</td>{picture}"
        f"<td><div class=why>{why}</div></td></tr>"
    )


def _lasting(incident: IncidentView) -> str:
    if incident.ended_ms is None:
        return "open at the end"
    minutes = (incident.ended_ms - incident.opened_ms) / 60_000
    lasted = f"{minutes:.0f} min" if minutes < 180 else f"{minutes / 60:.0f} h"
    ending = "accepted after" if incident.accepted else "stopped after" if incident.stale else "for"
    return f"{ending} {lasted}"


def _reason(name: str, view: FeatureView) -> str:
    expected = plot.short(view.expected) + ("" if view.band is None else f" ± {view.band:.2g}")
    return (
        f"<b>{escape(name)}</b><span><em>{plot.short(view.observed)}</em> ({expected})</span>"
        f'<div class=bar><i style="width:{view.share:.0%}"></i></div><span>{view.share:.0%}</span>'
    )


def _around(series: SeriesView, incident: IncidentView) -> str:
    """Draw the feature with the largest share around the opening, with the value expected there and its band."""
    name, view = incident.features[0]
    values_N = series.values_NF[:, list(series.features).index(name)]
    at = int(np.searchsorted(series.x_N, incident.x))
    near = slice(max(at - 60, 0), at + 30)
    x_N, y_N = series.x_N[near], values_N[near]
    x_axis = plot.Axis(float(x_N[0]), float(x_N[-1]))
    band = view.band or 0.0
    # A band wider than what is drawn says that anything there is usual: it may not flatten the line.
    band = min(band, float(np.ptp(np.append(y_N, view.expected))))
    y_axis = plot.axis_of(np.append(y_N, [view.expected - band, view.expected + band]), margin=0.15)
    visible = [(a, b) for a, b in series.spans if b >= x_axis.low and a <= x_axis.high]
    drawing = f'{plot.spans(visible, x_axis)}<path class="line" d="{plot.line(x_N, y_N, x_axis, y_axis, 90)}"/>'
    left = float(x_axis.share(incident.x)) * 100
    observed, expected, top = (
        100 - float(y_axis.share(y)) * 100 for y in (view.observed, view.expected, view.expected + band)
    )
    height = 2 * (expected - top)
    return (
        f"<div class=mini>{plot.canvas(drawing)}"
        f'<i class="band" style="left:{left:.1f}%;top:{top:.1f}%;height:{height:.1f}%" title="usual"></i>'
        f'<i class="mark expected" style="left:{left:.1f}%;top:{expected:.1f}%" title="expected"></i>'
        f'<i class="mark {incident.verdict}" style="left:{left:.1f}%;top:{observed:.1f}%" title="observed"></i>'
        "</div>"
    )
