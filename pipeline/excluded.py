"""Spans that teach nothing: what lies in them, or near, is left out of training and counts in no comparison.

Spans are those that somebody expected to be strange, as in `alerts.maintenance`, and those of incidents that are
open, were confirmed, or were said to be expected, up to the moment that was named. A false alarm is what a model
should learn: its span is kept, even while its incident is open. They are widened by a window on either side, for an
incident opens when a fault is seen and not when it begins, and what was down takes a while to be as before. A
series goes on in pieces where something was taken out of it, and no window holds rows of two.

Legend: T rows of a series.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape

import numpy as np

from models.arrays import BoolArray, IntArray
from models.dataset import Columns, rows_where
from pipeline.alert_settings import AlertSettings
from pipeline.feedback import Feedback
from pipeline.incident_log import Course
from pipeline.jobs.false_incidents import widened

_LATEST_MS = 2**53


@dataclass(frozen=True, slots=True)
class Span:
    """A span of event time that is no example of what is usual."""

    series: str
    """A pattern of names, as in a shell; the exact name of one series has to be escaped, by `glob.escape`."""
    from_ms: int
    to_ms: int
    """The first moment after it."""
    why: str
    """For people: `maintenance`, or `incident` and its name."""


@dataclass(frozen=True)
class Kept:
    """What is left of some series."""

    columns: Columns
    begins_ms: Mapping[str, Sequence[int]]
    """Of each series that was cut, the first event time of each piece behind a cut."""
    left_out: int
    """Rows."""
    reasons: Sequence[str]
    """Why, each reason once, in the order of the spans."""


def maintenance_of(alerts: AlertSettings) -> list[Span]:
    """Return the spans that the configuration expects to be strange."""
    return [Span(each.series, each.from_ms, each.to_ms, "maintenance") for each in alerts.maintenance]


def incident_spans(
    stream: str, courses: Mapping[str, Course], said: Mapping[str, Feedback], accept_after_ms: float | None
) -> list[Span]:
    """Return the spans of a stream's incidents that teach nothing.

    Args:
        stream: its name.
        courses: incidents by id, as the alerts tell of them; those that are open, and any others.
        said: feedback by incident. Of one whose alerts have expired it knows when it ended, if it had.
        accept_after_ms: an incident of which no more is told is over so long after its last alert, for its level is
            usual then: where the worker that would have resolved it is gone, training has to go on. None: never.
    """
    spans: list[Span] = []
    for incident in sorted(courses.keys() | said.keys()):
        course, feedback = courses.get(incident), said.get(incident)
        one = course or feedback
        assert one is not None
        ended_ms = one.ended_ms
        counts = ended_ms is None if feedback is None else feedback.verdict != "false_alarm"
        if one.stream != stream or not counts:
            continue
        told_ms = one.opened_ms if course is None else course.told_ms
        over_ms = _LATEST_MS if accept_after_ms is None else told_ms + int(accept_after_ms)
        to_ms = (over_ms if ended_ms is None else ended_ms) + 1
        if feedback is not None and feedback.until_ms is not None:
            to_ms = max(to_ms, feedback.until_ms)
        series = "*" if one.subject == "storm" else escape(one.series)
        spans.append(Span(series, one.opened_ms, to_ms, f"incident {incident}"))
    return spans


def excluded_rows(name: str, time_ms_T: IntArray, spans: Sequence[Span], margin: int) -> BoolArray:
    """Tell which rows of a series lie in a span, or within `margin` rows of one."""
    inside_T = np.zeros(len(time_ms_T), np.bool_)
    for span in spans:
        if fnmatchcase(name, span.series):
            inside_T |= (span.from_ms <= time_ms_T) & (time_ms_T < span.to_ms)
    return widened(inside_T, margin) if margin else inside_T


def kept_of(columns: Columns, spans: Sequence[Span], margin: int) -> Kept:
    """Return the rows outside all spans, widened by `margin` rows; a series without any is gone."""
    kept, begins_ms, left_out = {}, {}, 0
    hit = set[str]()
    for name, (time_ms_T, x_TF) in columns.items():
        out_T = excluded_rows(name, time_ms_T, spans, margin)
        left_out += int(out_T.sum())
        if out_T.any():
            hit |= {span.why for span in spans if excluded_rows(name, time_ms_T, [span], 0).any()}
        if out_T.all():
            continue
        kept[name] = rows_where(~out_T, time_ms_T, x_TF)
        resumed = np.flatnonzero(out_T[:-1] & ~out_T[1:]) + 1
        if len(resumed):
            begins_ms[name] = time_ms_T[resumed].tolist()
    reasons = [why for why in dict.fromkeys(span.why for span in spans) if why in hit]
    return Kept(kept, begins_ms, left_out, reasons)
