"""The course of a stream's model -> a section of the report, and what the summary says of it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from pipeline.demo import plot
from pipeline.demo.cards import SHOWN_SCORE
from pipeline.demo.life import STREAM, Course
from pipeline.stages.alerts import Alert


def summary_of(course: Course, alerts: Sequence[Alert], excused: int) -> dict[str, Any]:
    """Return what `summary.json` says; `alerts` and `excused` points are those of the stream."""
    retrained, marked = course.retrained, course.marked
    return {
        "stream": STREAM,
        "accepted": bool(retrained) and retrained["verdict"]["accepted"],
        "reasons": retrained["verdict"]["reasons"] if retrained else [],
        "champion": retrained.get("champion"),
        "challenger": retrained.get("version"),
        "swapped": course.swapped_at is not None,
        "feedback": marked.incident if marked and course.heard_at is not None else None,
        "points_excused": excused,
        "thresholds_moved": len(_moved(alerts)),
    }


def section(course: Course, alerts: Sequence[Alert], excused: int) -> str:
    """Return the section; "" where the replay ended before anything of it happened."""
    if not course.retrained:
        return ""
    steps = [*_retraining(course), *_feedback(course, alerts, excused)]
    items = "".join(f"<li><b>{share:.0%}</b><div>{text}</div></li>" for share, text in steps)
    return (
        f"<section id=life><h2>The model of {escape(STREAM)}, meanwhile</h2>"
        "<p class=about>Shares are of the replay. Each step is a command that anybody could have typed; the worker "
        "scored on beside it.</p>"
        f"<article class=card><ol class=life>{items}</ol>{_gate(course.retrained)}</article></section>"
    )


def _retraining(course: Course) -> list[tuple[float, str]]:
    retrained = course.retrained
    verdict, rows = retrained["verdict"], f"{retrained['trained_rows']:,} rows of {retrained['series']} series"
    reasons = escape("; ".join(verdict["reasons"]))
    steps = [
        (
            course.began_at,
            f"<code>offkey retrain {escape(STREAM)}</code>: a challenger learns from {rows}, which <code>offkey "
            f"record</code> has kept; {retrained['left_out']:,} rows in open incidents taught nothing.",
        ),
        (
            course.decided_at,
            f"The gate {'accepts' if verdict['accepted'] else 'refuses'} it: {reasons}.",
        ),
    ]
    if course.swapped_at is not None:
        after = escape(str(retrained["version"]))
        steps.append(
            (course.swapped_at, f"Swapped between two batches: <code>{after}</code> judges every partition.")
        )
    return steps


def _feedback(course: Course, alerts: Sequence[Alert], excused: int) -> list[tuple[float, str]]:
    marked = course.marked
    if marked is None or course.heard_at is None:
        return []
    score = "" if marked.score is None else f" of score {min(marked.score, SHOWN_SCORE):.0f}"
    moved, series = _moved(alerts), escape(marked.series)
    own = sum(alert.series == marked.series for alert in moved)
    return [
        (
            course.heard_at,
            f"<code>offkey feedback ... false_alarm</code>: the incident{score} in <b>{series}</b> "
            f"at {plot.moment(marked.event_ms)} was none. From then on {excused:,} points like it began no "
            f"incident, and {len(moved):,} incidents had to be stranger to begin, {own:,} of them in that series.",
        )
    ]


def _moved(alerts: Sequence[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.feedback is not msgspec.UNSET]


def _gate(retrained: Mapping[str, Any]) -> str:
    verdict = retrained["verdict"]
    rows = "".join(map(_measure, verdict["rows"]))
    heads = "".join(f"<th>{name}</th>" for name in ("", "measure", "champion", "challenger", "limit"))
    return (
        f"<details open><summary>The gate: {verdict['held_out_rows']:,} rows held out, {verdict['anomalies']} "
        f"anomalies put into them</summary><div class=scroll><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _measure(row: Mapping[str, Any]) -> str:
    figures = "".join(f"<td>{_figure(row[whose])}</td>" for whose in ("champion", "challenger"))
    dot = f'<i class="dot {"found" if row["ok"] else "false"}"></i>'
    return f"<tr><td>{dot}</td><td>{escape(row['measure'])}</td>{figures}<td>{escape(row['limit'])}</td></tr>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
