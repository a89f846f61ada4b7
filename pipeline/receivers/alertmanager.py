"""Incidents to an Alertmanager, API v2: what is open is told again and again, and what has ended once.

An Alertmanager remembers nothing across a restart of its own and forgets an alert at its `endsAt`. So each open
incident is sent every `resend_s` with an `endsAt` five times as far ahead: three tellings may fail, and if offkey
dies, the incident ends there by itself.

**Which are open** is told by the alerts topic alone: a receiver that starts reads what the topic holds, up to where
its group has committed, without telling anything, and then tells of all that is open. A checkpoint of its own would
have to agree with the commit, need storage, and go on to page for incidents whose end nobody tells any more (a
worker that lost its state). The topic's retention bounds what is read, and `horizon_s` how long an incident is
believed to be open of which nothing is told; by default both are seven days.

**Labels never change** while an incident lives, or there would be two: no score, no state, no version. `severity`
does, so an incident that worsens has an alert of each severity that it has reached, as two rules of Prometheus have
for one cause; all of them end with it, and an inhibition on `incident` hides the lower ones.

A record of kind `features` has no further course: it is told once, and its alert ends by itself.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pipeline.logs import about
from pipeline.protocols import TopicPartition
from pipeline.receivers.answers import Poster
from pipeline.receivers.links import link_of
from pipeline.receivers.told import Told
from pipeline.receivers.webhooks import details
from pipeline.receivers.wording import headline, iso, kind_of, shown
from pipeline.stages.alerts import Alert
from pipeline.stages.incidents import ENDS

logger = logging.getLogger(__name__)

PATH = "/api/v2/alerts"
ENDS_AFTER = 5
"""So many times `resend_s` is `endsAt` ahead."""
_NAMES = {"anomaly": "OffkeyAnomaly", "silence": "OffkeySilence", "storm": "OffkeyStorm"}
_RESERVED = {"alertname", "stream", "series", "kind", "incident", "severity"}
_MOST_FIELDS = 32
_LONGEST_ANNOTATION = 20_000
_HEADERS = {"Content-Type": "application/json"}


@dataclass(slots=True)
class _Course:
    """An incident as its alerts tell it."""

    place: TopicPartition
    alert: Alert
    """Its last one."""
    told_ms: int
    """When that was published."""
    firing: set[str] = field(default_factory=set)
    """Severities that are to be open there."""
    lapsed: set[str] = field(default_factory=set)
    """Severities that are to end there, and were not told so."""

    @property
    def is_once(self) -> bool:
        return kind_of(self.alert) == "anomaly" and not self.alert.series


class Alertmanager:
    """A receiver that is told of the open incidents again; see `pipeline.receivers.told.Receiver`."""

    at_once = 256

    def __init__(
        self,
        name: str,
        poster: Poster,
        now_ms: Callable[[], int],
        *,
        resend_s: float = 60.0,
        horizon_s: float = 7 * 86_400.0,
        link: str | None = None,
    ) -> None:
        self.resend_s: float | None = resend_s
        self._ahead_ms = int(ENDS_AFTER * 1000 * resend_s)
        self._horizon_ms = int(1000 * horizon_s)
        self._name, self._poster, self._now_ms, self._link = name, poster, now_ms, link
        self._courses: dict[str, _Course] = {}

    def note(self, told: Told) -> None:
        alert = told.alert
        told_ms = told.record.timestamp if told.record.timestamp >= 0 else alert.event_ms
        course = self._courses.pop(alert.incident, None)
        if course is None:
            course = _Course(told.place, alert, told_ms)
        course.place, course.alert, course.told_ms = told.place, alert, told_ms
        if alert.state in ENDS:
            course.lapsed |= course.firing | {alert.severity}
            course.firing.clear()
        else:
            # One that begins again after its end has nothing firing, and so begins anew with this severity alone.
            course.firing.add(alert.severity)
            course.lapsed.discard(alert.severity)
        # The last told of stands last.
        self._courses[alert.incident] = course

    def forget(self, place: TopicPartition) -> None:
        self._drop(incident for incident, course in self._courses.items() if course.place == place)

    def settle(self, place: TopicPartition) -> None:
        for incident, course in list(self._courses.items()):
            if course.place == place:
                self._told(incident)

    def send(self, told: Sequence[Told]) -> Mapping[int, str]:
        incidents = list(dict.fromkeys(each.alert.incident for each in told))
        refused = self._post(incidents)
        for incident in incidents:
            if incident in refused:
                # It would be refused again each minute; its next alert tries anew.
                self._courses.pop(incident, None)
            else:
                self._told(incident)
        return {
            index: refused[each.alert.incident] for index, each in enumerate(told) if each.alert.incident in refused
        }

    def resend(self, places: Sequence[TopicPartition]) -> None:
        self._forget_old()
        mine = [incident for incident, course in self._courses.items() if course.place in places and course.firing]
        for low in range(0, len(mine), self.at_once):
            refused = self._post(mine[low : low + self.at_once])
            for incident, why in refused.items():
                said = about(receiver=self._name)
                logger.error(
                    "receiver %s: incident %s is not told again: %s", self._name, shown(incident), why, extra=said
                )

    def open(self) -> int:
        return sum(bool(course.firing) for course in self._courses.values())

    def _told(self, incident: str) -> None:
        """Take what is known of an incident for told: nothing more is owed but that it is open."""
        course = self._courses.get(incident)
        if course is not None:
            course.lapsed.clear()
            if not course.firing or course.is_once:
                del self._courses[incident]

    def _forget_old(self) -> None:
        """Believe no longer that an incident is open of which nothing was told for long."""
        oldest_ms = self._now_ms() - self._horizon_ms
        old = [incident for incident, course in self._courses.items() if course.told_ms < oldest_ms]
        for incident in old:
            logger.warning(
                "receiver %s: nothing was told of incident %s for %g days, and it is not told again; "
                "set alerts.repeat_after below notify's `horizon`",
                *(self._name, shown(incident), self._horizon_ms / 86_400_000),
                extra=about(receiver=self._name),
            )
        self._drop(old)

    def _drop(self, incidents: Iterable[str]) -> None:
        for incident in list(incidents):
            del self._courses[incident]

    def _post(self, incidents: Sequence[str]) -> dict[str, str]:
        """Send all that is to be told of some incidents; return those refused, with the reason."""
        known = [incident for incident in incidents if incident in self._courses]
        if not known:
            return {}
        posts = [post for incident in known for post in self._posts(self._courses[incident])]
        why = self._poster.send(msgspec.json.encode(posts), _HEADERS)
        if why is None:
            return {}
        if len(known) == 1:
            return {known[0]: why}
        # One that is refused spoils those it came with.
        return {incident: said for each in known for incident, said in self._post([each]).items()}

    def _posts(self, course: _Course) -> list[dict[str, Any]]:
        alert, now_ms = course.alert, self._now_ms()
        # An event time may lie ahead of ours, and an end that does would not be one.
        ended_ms = min(alert.event_ms, now_ms)
        posts = []
        for severity in sorted(course.firing | course.lapsed):
            ends_ms = now_ms + self._ahead_ms if severity in course.firing else ended_ms
            post = {
                "labels": {**labels_of(alert), "severity": severity},
                "annotations": annotations_of(alert),
                "startsAt": iso(min(alert.opened_ms, ends_ms, now_ms)),
                "endsAt": iso(ends_ms),
            }
            if link := link_of(self._link, alert):
                post["generatorURL"] = link
            posts.append(post)
        return posts


def labels_of(alert: Alert) -> dict[str, str]:
    """Return the labels of an incident, but for its severity: the same in all its alerts."""
    kind = kind_of(alert)
    labels = {"alertname": _NAMES[kind], "kind": kind, "incident": shown(alert.incident)}
    labels["stream"] = shown(alert.stream)
    if alert.series:
        labels["series"] = shown(alert.series)
    for name, text in list(alert.fields.items())[:_MOST_FIELDS]:
        label = re.sub(r"[^A-Za-z0-9_]", "_", shown(name), flags=re.ASCII)
        if label in _RESERVED or label in labels or not re.match(r"[A-Za-z]", label):
            label = f"field_{label}"
        if text and label not in labels:
            labels[label] = shown(text)
    return labels


def annotations_of(alert: Alert) -> dict[str, str]:
    """Return what people read; it may change with each telling."""
    found = details(alert)
    del found["severity"]
    found["summary"] = headline(alert)
    if alert.series:
        found["series"] = shown(alert.series, _LONGEST_ANNOTATION)
    return {re.sub(r"[^A-Za-z0-9_]", "_", name, flags=re.ASCII): text for name, text in found.items()}
