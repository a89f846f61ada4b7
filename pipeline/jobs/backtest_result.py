"""What a backtest came to: incidents with what was said of them, counts, and two of them side by side.

What was said of an incident holds for one of another version or configuration too, where both are of one series and
overlap in event time: neither has to open at the same record. So do incidents count as in common. A record of kind
`features` is its own incident, and known by its id.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from pipeline.feedback import VERDICTS, Feedback, Verdict
from pipeline.incident_log import Course, begun
from pipeline.jobs.backtest import Begun, Judged
from pipeline.snapshots import Gap
from pipeline.stages.alerts import Alert
from pipeline.stages.incidents import SEVERITIES, Severity

WEEK_MS = 7 * 86_400_000
_LATEST_MS = 2**62


class _Place(NamedTuple):
    """Where incidents may be the same: of one series and subject; a storm has a partition and no series."""

    series: str
    subject: str
    partition: int


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident of a backtest, from its first alert to its last."""

    course: Course
    severity: Severity
    """The worst that it reached."""
    verdict: Verdict | None
    """None: nothing was said of it, nor of one that it overlaps."""
    in_warming: bool
    """It began in the first stretch of a partition that began cold."""

    @property
    def ends_ms(self) -> int:
        return _LATEST_MS if self.course.ended_ms is None else self.course.ended_ms


@dataclass
class Tally:
    """Counts what pieces of a replay came to, and keeps its alerts."""

    rows: int = 0
    late: int = 0
    points_scored: int = 0
    points_warming: int = 0
    excused: int = 0
    muted: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    """Event times of the rows."""
    versions: Counter[str] = field(default_factory=Counter)
    """Rows by what judged them."""
    series: set[str] = field(default_factory=set)
    alerts: list[tuple[Begun, Alert]] = field(default_factory=list)

    def add(self, judged: Judged) -> None:
        rows, outcome = judged.rows, judged.outcome
        self.rows += len(rows)
        self.late += outcome.late
        self.points_scored += outcome.points_scored
        self.points_warming += outcome.points_warming
        self.excused += outcome.excused
        self.muted += len(outcome.muted)
        first_ms, last_ms = int(rows.time_ms_N.min()), int(rows.time_ms_N.max())
        self.first_ms = first_ms if self.first_ms is None else min(first_ms, self.first_ms)
        self.last_ms = last_ms if self.last_ms is None else max(last_ms, self.last_ms)
        self.versions[judged.version] += len(rows)
        if rows.series is not None:
            used = np.flatnonzero(np.bincount(rows.code_N, minlength=len(rows.series)))
            self.series.update(rows.series[code] for code in used.tolist())
        self.alerts += [(judged.begun, alert) for alert in outcome.alerts]

    def join(self, later: "Tally") -> None:
        """Add what later pieces came to."""
        for name in ("rows", "late", "points_scored", "points_warming", "excused", "muted"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.first_ms = min((ms for ms in (self.first_ms, later.first_ms) if ms is not None), default=None)
        self.last_ms = max((ms for ms in (self.last_ms, later.last_ms) if ms is not None), default=None)
        self.versions.update(later.versions)
        self.series |= later.series
        self.alerts += later.alerts

    def in_order(self) -> list[Alert]:
        """Return all alerts by event time, those of a partition as they were told."""
        # Sorting is stable, and an alert may tell of an earlier time than the one before it.
        return [alert for _, alert in sorted(self.alerts, key=lambda told: told[1].event_ms)]


@dataclass(frozen=True)
class Result:
    """One backtest, for people and programs."""

    stream: str
    judged_by: str
    """The log, or a version."""
    tally: Tally
    begun: Sequence[Begun]
    gaps: Sequence[Gap]
    replaced: Sequence[str]
    incidents: Sequence[Incident]
    """By their openings."""
    seconds: float

    @property
    def weeks(self) -> float:
        """How much event time the rows span."""
        tally = self.tally
        return (
            0.0 if tally.first_ms is None or tally.last_ms is None else (tally.last_ms - tally.first_ms) / WEEK_MS
        )

    @property
    def per_week(self) -> float | None:
        """None: it was shorter than an hour, which says nothing of a week."""
        return len(self.incidents) / self.weeks if self.weeks * WEEK_MS >= 3_600_000 else None

    def count(self, verdict: Verdict) -> int:
        return sum(each.verdict == verdict for each in self.incidents)

    def for_programs(self) -> dict[str, Any]:
        """Return what there is to print or to keep as JSON."""
        tally, states = self.tally, Counter(alert.state for _, alert in self.tally.alerts)
        return {
            "stream": self.stream,
            "judged_by": self.judged_by,
            "rows": tally.rows,
            "rows_late": tally.late,
            "series": len(tally.series),
            "points_scored": tally.points_scored,
            "points_warming": tally.points_warming,
            "points_excused": tally.excused,
            "first_ms": tally.first_ms,
            "last_ms": tally.last_ms,
            "partitions": [
                {
                    "topic": each.partition.topic,
                    "partition": each.partition.partition,
                    "begins": each.way,
                    "offset": each.offset,
                    "warming_until_ms": each.warming_until_ms,
                }
                for each in self.begun
            ],
            "versions": dict(tally.versions),
            "versions_replaced": list(self.replaced),
            "gaps": [[gap.partition.topic, gap.partition.partition, gap.begin, gap.end] for gap in self.gaps],
            "alerts": dict(sorted(states.items())),
            "alerts_muted": tally.muted,
            "incidents": len(self.incidents),
            "incidents_per_week": None if self.per_week is None else round(self.per_week, 3),
            "incidents_open": sum(each.course.ended_ms is None for each in self.incidents),
            "incidents_in_warming": sum(each.in_warming for each in self.incidents),
            "by_severity": {name: sum(each.severity == name for each in self.incidents) for name in SEVERITIES},
            "by_feedback": {verdict: self.count(verdict) for verdict in VERDICTS},
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(tally.rows / self.seconds) if self.seconds else None,
        }


def incidents_of(told: Iterable[tuple[Begun, Alert]], said: Mapping[str, Feedback]) -> list[Incident]:
    """Put alerts together into incidents, each with the newest word on it; by their openings."""
    courses: dict[str, Course] = {}
    worst: dict[str, int] = {}
    in_warming: dict[str, bool] = {}
    for from_begun, alert in told:
        before = courses.get(alert.incident)
        courses[alert.incident] = begun(alert) if before is None else before.after(alert)
        worst[alert.incident] = max(worst.get(alert.incident, 0), SEVERITIES.index(alert.severity))
        until_ms = from_begun.warming_until_ms
        in_warming.setdefault(alert.incident, until_ms is not None and alert.opened_ms < until_ms)
    heard = _by_place((_place(each), each.opened_ms, _said_until_ms(each), each) for each in said.values())
    made = [
        Incident(course, SEVERITIES[worst[name]], _verdict(course, said, heard), in_warming[name])
        for name, course in courses.items()
    ]
    return sorted(made, key=lambda each: (each.course.opened_ms, each.course.series, each.course.incident))


@dataclass(frozen=True, slots=True)
class Compared:
    """Two backtests of the same rows."""

    in_both: Sequence[tuple[Incident, Incident]]
    """Each of A's that overlaps some of B's, with the first of these."""
    only_a: Sequence[Incident]
    only_b: Sequence[Incident]
    in_both_of_b: int
    """So many of B's overlap some of A's: where one goes on and the other ends and begins again, there are more."""

    @property
    def told(self) -> str:
        a, b = len(self.in_both), self.in_both_of_b
        both = f"{a:,} incidents in both" if a == b else f"{a:,} of A's and {b:,} of B's incidents in both"
        return f"{both}, {len(self.only_a):,} in A only, {len(self.only_b):,} in B only"

    @property
    def delay_ms(self) -> float | None:
        """How much later B opens than A what both have, in the middle; None: they have nothing in common."""
        later = [b.course.opened_ms - a.course.opened_ms for a, b in self.in_both]
        return median(later) if later else None

    def for_programs(self) -> dict[str, Any]:
        return {
            "in_both_of_a": len(self.in_both),
            "in_both_of_b": self.in_both_of_b,
            "only_a": len(self.only_a),
            "only_b": len(self.only_b),
            "median_delay_ms": self.delay_ms,
        }


def compared(a: Sequence[Incident], b: Sequence[Incident]) -> Compared:
    """Set the incidents of two backtests side by side."""
    of_b = _by_place((_place(each.course), each.course.opened_ms, each.ends_ms, each) for each in b)
    of_a = _by_place((_place(each.course), each.course.opened_ms, each.ends_ms, each) for each in a)
    in_both, only_a = [], []
    for each in a:
        found = _overlapping(of_b, _place(each.course), each.course.opened_ms, each.ends_ms)
        if found:
            in_both.append((each, found[0]))
        else:
            only_a.append(each)
    only_b = [
        each for each in b if not _overlapping(of_a, _place(each.course), each.course.opened_ms, each.ends_ms)
    ]
    return Compared(in_both, only_a, only_b, len(b) - len(only_b))


_Spans = Mapping[_Place, Sequence[tuple[int, int, Any]]]
"""Of each place when something begins, when it ends, and what it is; by their beginnings."""


def _by_place(spans: Iterable[tuple[_Place, int, int, Any]]) -> _Spans:
    found: dict[_Place, list[tuple[int, int, Any]]] = {}
    for place, begins_ms, ends_ms, what in spans:
        found.setdefault(place, []).append((begins_ms, ends_ms, what))
    return {place: sorted(of_place, key=lambda span: span[:2]) for place, of_place in found.items()}


def _overlapping(spans: _Spans, place: _Place, begins_ms: int, ends_ms: int) -> list[Any]:
    """Return what of a place overlaps a span of time, both ends included, by its beginning."""
    of_place = spans.get(place, ())
    # Those of one series follow one another, so few begin before the end and have not ended.
    last = bisect_left(of_place, ends_ms + 1, key=lambda span: span[0])
    return [what for begun_ms, ended_ms, what in of_place[:last] if ended_ms >= begins_ms]


def _place(of: Course | Feedback) -> _Place:
    if of.subject == "deviation" and not of.series:
        return _Place(of.incident, of.subject, of.partition)
    return _Place(of.series, of.subject, of.partition if of.subject == "storm" else -1)


def _said_until_ms(feedback: Feedback) -> int:
    # Of one that was open then it does not say how long it went on.
    ended_ms = feedback.opened_ms if feedback.ended_ms is None else feedback.ended_ms
    return ended_ms if feedback.until_ms is None else max(ended_ms, feedback.until_ms)


def _verdict(course: Course, said: Mapping[str, Feedback], heard: _Spans) -> Verdict | None:
    if course.incident in said:
        return said[course.incident].verdict
    ends_ms = _LATEST_MS if course.ended_ms is None else course.ended_ms
    found: list[Feedback] = _overlapping(heard, _place(course), course.opened_ms, ends_ms)
    return max(found, key=lambda each: each.at_ms).verdict if found else None
