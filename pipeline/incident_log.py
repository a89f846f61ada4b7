"""The alerts topic -> the incidents that it tells of, for those who have to know one later.

An incident is looked up by its id or a part of it, and those that are open now are found for retraining. Alerts
that an at-least-once worker repeated change nothing, and records of other programs in the topic are passed over.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from msgspec import UnsetType

from pipeline.errors import ConfigError
from pipeline.feedback import MOST_DEVIATIONS, VERSION, Deviation, Feedback, Subject, Verdict
from pipeline.protocols import Log, RawRecord
from pipeline.stages.alerts import Alert, FeatureView, alert_of
from pipeline.stages.incidents import ENDS, STARTS

_NEAR_AMONG = 20_000
"""So many of the newest incidents are looked through for one that was misspelt."""
_SHOWN = 5
_JUDGED = ("opened", "reopened", "worsened", "repeated")
"""States whose alert tells of a point that is strange just now."""


@dataclass(frozen=True, slots=True)
class Course:
    """What the alerts of one incident come to."""

    incident: str
    stream: str
    series: str
    topic: str
    partition: int
    subject: Subject
    opened_ms: int
    told_ms: int
    """Event time of its last alert."""
    ended_ms: int | None
    """None: it is open."""
    peak: float | None
    threshold: float | None
    """Its own, without what feedback had made of it; of the last time that it began."""
    deviations: tuple[Deviation, ...] = ()

    def after(self, alert: Alert) -> "Course":
        """Return what it is with its next alert."""
        ended_ms = alert.event_ms if alert.state in ENDS or self._is_of_records else None
        deviations = self.deviations
        if alert.state in _JUDGED and alert.features:
            seen = deviation_of(alert.features, alert.points_back)
            if seen not in deviations:
                deviations = (*deviations, seen)[:MOST_DEVIATIONS]
        peak, threshold = self.peak, self.threshold
        if alert.score is not None:
            peak = alert.score if peak is None else max(peak, alert.score)
        if alert.state in STARTS and alert.threshold is not None:
            raised_by = 0.0 if isinstance(alert.feedback, UnsetType) else alert.feedback.raised_by
            threshold = round(alert.threshold - raised_by, 6)
        elif threshold is None:
            # How it began is not told any more.
            threshold = alert.threshold
        return replace(
            self, told_ms=alert.event_ms, ended_ms=ended_ms, peak=peak, threshold=threshold, deviations=deviations
        )

    @property
    def _is_of_records(self) -> bool:
        """Whether it is of a record of kind `features`, whose incident has no further course."""
        return self.subject == "deviation" and not self.series


def begun(alert: Alert) -> Course:
    """Return what one alert tells of its incident."""
    subject: Subject = "deviation"
    if alert.score is None:
        subject = "silence" if alert.series else "storm"
    return Course(
        incident=alert.incident,
        stream=alert.stream,
        series=alert.series,
        topic=alert.topic,
        partition=alert.partition,
        subject=subject,
        opened_ms=alert.opened_ms,
        told_ms=alert.event_ms,
        ended_ms=None,
        peak=None,
        threshold=None,
    ).after(alert)


def deviation_of(features: Mapping[str, FeatureView], points_back: int) -> Deviation:
    """Return how features had to do with an alert.

    What was observed tells a sign where the error is the judged point's own, and larger than is usual.
    """
    shares = {name: min(view.share, 1.0) for name, view in features.items() if view.share > 0}
    signs = {
        name: 1 if view.observed > view.expected else -1
        for name, view in features.items()
        if name in shares and not points_back and abs(view.observed - view.expected) > (view.band or 0.0)
    }
    return Deviation(shares, signs)  # type: ignore[arg-type]  # the signs are literals


@dataclass
class IncidentLog:
    """The incidents that a topic of alerts tells of."""

    keeps: Callable[[Course], bool]
    """Which of them are kept, as they are after each alert."""
    courses: dict[str, Course] = field(default_factory=dict)
    known: dict[str, None] = field(default_factory=dict)
    """All ids, those told of last at the end."""

    def take(self, records: Iterable[RawRecord]) -> None:
        """Follow the topic's next records."""
        for record in records:
            alert = alert_of(record.value)
            if alert is None:
                continue
            self.known.pop(alert.incident, None)
            self.known[alert.incident] = None
            before = self.courses.get(alert.incident)
            course = begun(alert) if before is None else before.after(alert)
            if self.keeps(course):
                self.courses[alert.incident] = course
            else:
                self.courses.pop(alert.incident, None)


def read_incidents(
    log: Log, keeps: Callable[[Course], bool], told: Callable[[int], None] = lambda records: None
) -> IncidentLog:
    """Read a whole topic of alerts; `told` is called with how many records were read; raises as `Log.read` does."""
    found = IncidentLog(keeps)
    for arrived in log.read():
        found.take(arrived.records)
        told(len(arrived.records))
    return found


def looked_up(found: IncidentLog, asked: str, topic: str) -> Course:
    """Return the incident that is asked for, by its whole id or the beginning of it.

    Raises:
        ConfigError: there is none, or there are several.
    """
    if asked in found.courses:
        return found.courses[asked]
    matching = [course for incident, course in found.courses.items() if incident.startswith(asked)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        some = ", ".join(f"{each.incident} ({each.stream} {each.series})" for each in matching[-_SHOWN:])
        raise ConfigError(f"incident {asked!r}: {len(matching)} begin so; write more of it: {some}")
    newest = list(found.known)[-_NEAR_AMONG:]
    near = get_close_matches(asked, newest, n=1, cutoff=0.8)
    if near:
        hint = f"did you mean {near[0]}?"
    elif newest:
        hint = f"the newest are: {', '.join(newest[-_SHOWN:])}"
    else:
        hint = "it holds no alerts; is topics.alerts right?"
    raise ConfigError(f"topic {topic} tells of no incident {asked!r:.80}; {hint}")


def feedback_on(
    course: Course, verdict: Verdict, *, by: str, at_ms: int, until_ms: int | None = None, note: str = ""
) -> Feedback:
    """Return what a verdict on an incident says."""
    return Feedback(
        version=VERSION,
        incident=course.incident,
        verdict=verdict,
        by=by,
        at_ms=at_ms,
        stream=course.stream,
        series=course.series,
        topic=course.topic,
        partition=course.partition,
        opened_ms=course.opened_ms,
        ended_ms=course.ended_ms,
        peak=course.peak,
        threshold=course.threshold,
        deviations=list(course.deviations),
        subject=course.subject,
        until_ms=until_ms,
        note=note,
    )
