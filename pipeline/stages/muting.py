"""Alerts -> those that are told: what begins in a storm or in a maintenance window is muted.

A *storm* is on from the moment that so many series of a partition have begun an incident within a span of the
partition's time. That is one alert, `storm`, with an incident of its own that says how many series it has and which
are the worst; what begins while others still do, half as many within the span, joins it and is muted. It becomes
critical when ten times as many have joined, and is resolved when fewer than half as many incidents of it are open
and no more begin; those that are open then are told one by one.

In a *maintenance window* the incidents of the series that it names are muted where they begin. What is still open
when the window ends is told then, and may be a storm.

A muted incident takes its course like any other, only that nobody is told. All is decided from the alerts of one
(stream, partition) in offset order and from the partition's time (see `pipeline.stages.silence`), which only its
records move, so a replay mutes and tells the same.

Legend: N accepted records of a partition's poll.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from pipeline.protocols import TopicPartition
from pipeline.stages.alerts import Alert, StormMember, StormView
from pipeline.stages.incidents import ENDS, SEVERITIES, STARTS, Severity, State, derived_id
from pipeline.stages.silence import Passed

WORST = 5
"""So many series of a storm are named."""
_GROWN = 10
"""A storm of so many times the series that make one is critical."""

MuteReason = Literal["storm", "maintenance"]


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A span of event time in which series are expected to be strange."""

    series: str
    """A pattern of names, as in a shell: `*`, `?` and `[ab]`."""
    from_ms: int
    to_ms: int
    """The first moment after it."""

    def covers(self, series: str, time_ms: int) -> bool:
        return self.from_ms <= time_ms < self.to_ms and fnmatchcase(series, self.series)


class StormLimit(NamedTuple):
    """So many series that begin an incident within so long are a storm."""

    series: int
    within_ms: float

    @property
    def half(self) -> int:
        return (self.series + 1) // 2


class Muted(NamedTuple):
    """An alert that is not told, and why."""

    alert: Alert
    reason: MuteReason


class _Begun(msgspec.Struct):
    """An incident that has lately begun."""

    now_ms: int
    """The partition's time then."""
    member: StormMember
    told: bool = False
    """It has been told, and is open."""


class _Hidden(msgspec.Struct):
    """An open incident that nobody has been told of: what is needed to tell it."""

    series: str
    state: State
    """What it began with."""
    severity: Severity
    score: float | None
    threshold: float | None
    opened_ms: int
    until_ms: int | None
    """End of its maintenance window; None: it belongs to the storm."""


class _Storm(msgspec.Struct):
    incident: str
    opened_ms: int
    series: dict[str, None]
    """All that have joined it."""
    worst: list[StormMember]
    told: list[str]
    """Open incidents that had been told before they were taken for a storm."""
    hidden: int = 0
    """How many of those not told are open."""
    critical: bool = False


class _Course(msgspec.Struct):
    """What muting knows of a partition; checkpoints hold it in this form."""

    begun: dict[str, _Begun] = {}
    """By series, oldest first; no more than make a storm."""
    hidden: dict[str, _Hidden] = {}
    """By incident, in the order in which they were muted."""
    storm: _Storm | None = None
    due_ms: int | None = None
    """No maintenance window of a hidden incident ends before."""


class Muting:
    """What a stream's partitions leave untold."""

    def __init__(
        self,
        stream: str,
        model_version: str,
        fields_of: Callable[[str], dict[str, str]],
        *,
        storm: StormLimit | None = None,
        maintenance: Sequence[Maintenance] = (),
    ) -> None:
        """`fields_of`: a series' name -> the fields that name it."""
        self.stream = stream
        self.model_version = model_version
        self.fields_of = fields_of
        self.limit = storm
        self._maintenance = maintenance
        self._courses: dict[TopicPartition, _Course] = {}

    def follow(
        self, alerts: Sequence[Alert], passed: Mapping[TopicPartition, Passed]
    ) -> tuple[list[Alert], list[Muted]]:
        """Return the alerts that are told and those that are not, each in order.

        Args:
            alerts: of one poll, in the order of partition and offset.
            passed: how the time of the poll's partitions went on.
        """
        if self.limit is None and not self._maintenance and not self._courses:
            return list(alerts), []
        told, muted = list[Alert](), list[Muted]()
        for partition in sorted(passed):
            own = [alert for alert in alerts if (alert.topic, alert.partition) == partition]
            course = self._courses.setdefault(partition, _Course())
            told += _Poll(self, partition, course, passed[partition], muted).follow(own)
        return told, muted

    def muted_until(self, series: str, time_ms: int) -> int | None:
        """Return the end of the last maintenance window that a series is in at a time; None: it is in none."""
        return max((each.to_ms for each in self._maintenance if each.covers(series, time_ms)), default=None)

    def snapshot(self, partition: TopicPartition) -> bytes:
        """Return what is known of a partition, for a checkpoint."""
        return msgspec.json.encode(self._courses.get(partition, _Course()))

    def restore(self, partition: TopicPartition, kept: bytes) -> None:
        """Put back what `snapshot` returned.

        Where the settings have changed since, what is hidden is told as it would be under the earlier ones; a storm
        is over at once where there is no limit any more.
        """
        course = msgspec.json.decode(kept, type=_Course)
        if course != _Course():
            self._courses[partition] = course

    def drop(self, partition: TopicPartition) -> None:
        """Forget a partition."""
        self._courses.pop(partition, None)


class _Poll:
    """Mutes alerts of one partition's poll."""

    def __init__(
        self, muting: Muting, partition: TopicPartition, course: _Course, passed: Passed, muted: list[Muted]
    ) -> None:
        self._muting = muting
        self._limit = muting.limit
        self._partition = partition
        self._course = course
        self._passed = passed
        self._muted = muted

    def follow(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Return what is told in these alerts' place, in the order of their offsets."""
        told: list[Alert] = []
        place = 0
        for alert in alerts:
            here = int(np.searchsorted(self._passed.offset_N, alert.offset))
            told += self._pass_time(place, here)
            place = here
            if alert.state in STARTS:
                told += self._begin(alert, place, alert.event_ms)
            else:
                told += self._go_on(alert)
        return told + self._pass_time(place, len(self._passed.offset_N) - 1)

    def _pass_time(self, first: int, last: int) -> list[Alert]:
        """End storm and maintenance windows whose time has come with one of these records."""
        told: list[Alert] = []
        while True:
            storm_ends = self._place_of(self._storm_over_ms(), first)
            window_ends = self._place_of(self._course.due_ms, first)
            first = min(storm_ends, window_ends)
            if first > last:
                return told
            told += self._end_storm(first) if storm_ends == first else self._end_windows(first)

    def _place_of(self, time_ms: float | None, first: int) -> int:
        """Return which record, from `first` on, brings the partition's time to this one; N: none does."""
        watermark_ms_N = self._passed.watermark_ms_N
        place = None if time_ms is None else int(np.searchsorted(watermark_ms_N, time_ms))
        return len(watermark_ms_N) if place is None else max(first, place)

    def _begin(self, alert: Alert, place: int, time_ms: int) -> list[Alert]:
        """Tell of an incident that begins, or mute it: `time_ms` is when, as to maintenance windows."""
        now_ms = int(self._passed.watermark_ms_N[place])
        until_ms = self._muting.muted_until(alert.series, time_ms)
        if until_ms is not None and until_ms > now_ms:
            self._hide(alert, "maintenance", until_ms)
            course = self._course
            course.due_ms = until_ms if course.due_ms is None else min(course.due_ms, until_ms)
            return []
        if self._limit is None:
            return [alert]
        begun = _Begun(now_ms, _member(alert))
        if not self._is_storm(alert.series, begun, self._limit):
            begun.told = True
            return [alert]
        self._hide(alert, "storm", None)
        return self._join(begun.member, place, self._limit)

    def _is_storm(self, series: str, begun: _Begun, limit: StormLimit) -> bool:
        """Count a series that begins an incident; return whether that makes a storm, or belongs to one."""
        counted = self._course.begun
        counted.pop(series, None)
        counted[series] = begun
        while len(counted) > limit.series:
            del counted[next(iter(counted))]
        asked = limit.series if self._course.storm is None else limit.half
        return len(counted) >= asked and begun.now_ms - self._begun_ms(asked) < limit.within_ms

    def _begun_ms(self, back: int) -> int:
        """Return when the last but so many series began, or the first that is known: 1 is the last."""
        counted = self._course.begun
        newest_first = reversed(counted.values())
        return next(islice(newest_first, min(back, len(counted)) - 1, None)).now_ms

    def _join(self, member: StormMember, place: int, limit: StormLimit) -> list[Alert]:
        """Count a muted incident to the storm; return what is to be told of that."""
        course, storm = self._course, self._course.storm
        if storm is None:
            offset = int(self._passed.offset_N[place])
            storm = course.storm = _Storm(
                derived_id(self._muting.stream, self._partition, offset, 0, "", "storm"),
                int(self._passed.watermark_ms_N[place]),
                dict.fromkeys(course.begun),
                _worst([begun.member for begun in course.begun.values()]),
                [begun.member.incident for begun in course.begun.values() if begun.told],
                hidden=1,
            )
            return [self._storm_alert(storm, "storm", place)]
        storm.hidden += 1
        storm.series[member.series] = None
        storm.worst = _worst([*storm.worst, member])
        if storm.critical or len(storm.series) < _GROWN * limit.series:
            return []
        storm.critical = True
        return [self._storm_alert(storm, "worsened", place)]

    def _go_on(self, alert: Alert) -> list[Alert]:
        """Tell of an incident's course, unless its beginning was not told."""
        course, storm, ends = self._course, self._course.storm, alert.state in ENDS
        hidden = course.hidden.get(alert.incident)
        if hidden is None:
            begun = course.begun.get(alert.series)
            if ends and begun is not None and begun.member.incident == alert.incident:
                begun.told = False
            if ends and storm is not None and alert.incident in storm.told:
                storm.told.remove(alert.incident)
            return [alert]
        hidden.score, hidden.severity = alert.score, alert.severity
        if ends:
            del course.hidden[alert.incident]
        if hidden.until_ms is None:
            assert storm is not None
            storm.hidden -= ends
            storm.worst = _worst([*storm.worst, _member(alert)])
        self._muted.append(Muted(alert, "storm" if hidden.until_ms is None else "maintenance"))
        return []

    def _hide(self, alert: Alert, reason: MuteReason, until_ms: int | None) -> None:
        self._muted.append(Muted(alert, reason))
        self._course.hidden[alert.incident] = _Hidden(
            alert.series, alert.state, alert.severity, alert.score, alert.threshold, alert.opened_ms, until_ms
        )

    def _storm_over_ms(self) -> float | None:
        """Return the partition's time at which the storm is over, as far as is known; None: no time ends it."""
        storm = self._course.storm
        if storm is None:
            return None
        if self._limit is None:
            return -math.inf
        if storm.hidden + len(storm.told) >= self._limit.half:
            return None
        return self._begun_ms(self._limit.half) + self._limit.within_ms

    def _end_storm(self, place: int) -> list[Alert]:
        """Resolve the storm, and tell of what is still open of it."""
        course, storm = self._course, self._course.storm
        assert storm is not None
        course.storm = None
        left = {incident: hidden for incident, hidden in course.hidden.items() if hidden.until_ms is None}
        for incident in left:
            del course.hidden[incident]
        resolved = self._storm_alert(storm, "resolved", place)
        return [resolved, *(self._late(incident, hidden, place) for incident, hidden in left.items())]

    def _end_windows(self, place: int) -> list[Alert]:
        """Tell of what is still open from maintenance windows that are over, as if it began now."""
        course, now_ms = self._course, int(self._passed.watermark_ms_N[place])
        until_ms = {name: one.until_ms for name, one in course.hidden.items() if one.until_ms is not None}
        course.due_ms = min((each for each in until_ms.values() if each > now_ms), default=None)
        told: list[Alert] = []
        for incident, end_ms in until_ms.items():
            if end_ms <= now_ms:
                told += self._begin(self._late(incident, course.hidden.pop(incident), place), place, now_ms)
        return told

    def _late(self, incident: str, hidden: _Hidden, place: int) -> Alert:
        """Return the alert of an incident that was muted when it began."""
        # A silence's alert is named by its deadline, and there is one of each.
        now_ms = int(self._passed.watermark_ms_N[place])
        return self._alert(
            place,
            incident=incident,
            series=hidden.series,
            fields=self._muting.fields_of(hidden.series),
            state=hidden.state,
            severity=hidden.severity,
            score=hidden.score,
            threshold=hidden.threshold,
            opened_ms=hidden.opened_ms,
            event_ms=hidden.opened_ms if hidden.state == "silent" else now_ms,
        )

    def _storm_alert(self, storm: _Storm, state: State, place: int) -> Alert:
        return self._alert(
            place,
            incident=storm.incident,
            series="",
            fields={},
            state=state,
            severity="critical" if storm.critical else "major",
            score=None,
            threshold=None,
            opened_ms=storm.opened_ms,
            event_ms=int(self._passed.watermark_ms_N[place]),
            storm=StormView(len(storm.series), storm.worst),
        )

    def _alert(self, place: int, **told: Any) -> Alert:
        topic, partition = self._partition
        return Alert(
            stream=self._muting.stream,
            model_version=self._muting.model_version,
            topic=topic,
            partition=partition,
            offset=int(self._passed.offset_N[place]),
            features={},
            **told,
        )


def _member(alert: Alert) -> StormMember:
    return StormMember(alert.series, alert.incident, alert.severity, alert.score)


def _worst(members: Sequence[StormMember]) -> list[StormMember]:
    """Return the worst of these, by their last word each."""
    newest = {member.incident: member for member in members}
    # A silence has no score.
    ranked = sorted(newest.values(), key=lambda one: (-SEVERITIES.index(one.severity), -(one.score or 0.0)))
    return ranked[:WORST]
