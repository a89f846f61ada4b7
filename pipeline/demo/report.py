"""Figures, series, scores and incidents -> one self-contained HTML page, in light and dark.

A series is drawn large when it is among its stream's most telling ones: those with most labelled incidents
found, then with the highest scores; the others are folded away, not left out.
"""

from collections.abc import Sequence
from html import escape

from pipeline.demo.cards import SHOWN_SCORE, card
from pipeline.demo.counting import COUNTING, MARGIN_POINTS, Tally
from pipeline.demo.frame import framed
from pipeline.demo.views import StreamView

_LARGE_SERIES = 3


def page(total: Tally, streams: Sequence[StreamView], life: str = "") -> str:
    """Return the whole report; `life` is a section that stands before those of the streams."""
    body = (
        f"<header><h1>What offkey heard</h1><p class=soft>{_opening(total, bool(life))}</p>"
        f"<div class=tiles>{''.join(map(_tile, streams))}</div>{_LEGEND}</header>"
        f"{life}{''.join(map(_stream, streams))}"
    )
    footer = (
        f"<p><b>How this is counted.</b> {escape(COUNTING)}</p>"
        "<p><b>A score</b> is -10 log<sub>10</sub> of the probability that a normal point of this series looks "
        f"as strange: at 30, one in 1,000. Scores are shown up to {SHOWN_SCORE:g}; <code>alerts.jsonl</code> has "
        "them whole. "
        "Labels were read for counting, for feedback on a false alarm, and for this page. All times are UTC.</p>"
        "<p><b>Data.</b> Server Machine Dataset (MIT), Numenta Anomaly Benchmark (MIT), ADBench (BSD-2-Clause); "
        "see <code>pipeline/demo/data/ATTRIBUTION.md</code>.</p>"
    )
    return framed("offkey demo", body, footer)


_LEGEND = (
    '<div class=legend><span><i class=key style="background:var(--span-fill)"></i>labelled incident</span>'
    '<span><i class="dot found"></i>incident opened inside a label</span>'
    f'<span><i class="dot near"></i>within {MARGIN_POINTS} points of a label</span>'
    '<span><i class="dot false"></i>false alarm</span>'
    '<span><i class=key style="background:var(--score)"></i>score</span>'
    '<span><i class=key style="background:var(--hot)"></i>at or above the threshold</span></div>'
)


def _opening(total: Tally, retrained: bool) -> str:
    meanwhile = ""
    if retrained:
        meanwhile = 'Meanwhile <a href="#life">a challenger was trained for one of the models, and judged</a>. '
    return (
        f"{total.records:,} records were replayed through Kafka into the worker. It raised {total.alerts:,} "
        f"alerts; {total.incidents_found:,} of {total.incidents_labelled:,} labelled incidents were found, with "
        f"{total.false_alarms:,} false alarms on a budget of {total.false_alarm_budget:,.0f}. "
        "Half way the worker was killed on purpose; another one took over, and no alert was lost. "
        f"{meanwhile}The whole demo took {total.seconds:.0f} s."
    )


def _tile(stream: StreamView) -> str:
    tally = stream.tally
    found = tally.incidents_found / max(tally.incidents_labelled, 1)
    spent = tally.false_alarms / max(tally.false_alarm_budget, 1e-9)
    over = "false" if spent > 1 else "found"
    return (
        f'<div class="card tile"><a href="#{escape(stream.name)}"><h3>{escape(stream.title)}</h3></a>'
        "<div class=figures>"
        f"<div><b>{tally.incidents_found:,}<small> / {tally.incidents_labelled:,}</small></b>"
        f'<div class="meter found"><i style="width:{found:.0%};background:var(--c)"></i></div>'
        "<span>incidents found</span></div>"
        f"<div><b>{tally.false_alarms:,}<small> / {tally.false_alarm_budget:,.0f}</small></b>"
        f'<div class="meter {over}"><i style="width:{min(spent, 1):.0%};background:var(--c)"></i></div>'
        "<span>false alarms / budget</span></div>"
        f"<div><b>{_compact(tally.records)}</b><div class=meter></div>"
        f"<span>records, {tally.rate:,.0f}/s</span></div></div></div>"
    )


def _compact(count: int) -> str:
    return f"{count:,}" if count < 100_000 else f"{count / 1000:,.0f}k"


def _stream(stream: StreamView) -> str:
    ranked = sorted(stream.series, key=lambda series: (-sum(series.found), -series.highest_score, series.name))
    large, small = ranked[:_LARGE_SERIES], ranked[_LARGE_SERIES:]
    head = f"<h2>{escape(stream.title)}</h2><p class=about>{escape(stream.about)}</p>"
    inner = "".join(card(series, stream.is_table, large=True) for series in large)
    parts = [f"<section id={escape(stream.name)}>{head}<div class=grid>{inner}</div>"]
    if small:
        inner = "".join(card(series, stream.is_table, large=False) for series in small)
        parts.append(
            f"<details class=fold><summary>{len(small)} more series</summary>"
            f'<div class="grid small">{inner}</div></details>'
        )
    parts.append("</section>")
    return "".join(parts)
