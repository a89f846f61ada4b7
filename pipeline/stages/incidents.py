"""Scores -> incidents: opened, worsened, resolved or accepted.

An incident opens with the first score at or above its series' threshold, lasts while scores come back to
it within `quiet_points` points, and is resolved after that many quiet ones. It worsens when its score
reaches the next severity band: each band is ten times rarer than the one before. It is accepted with the point
that makes its level the series' usual one, and a point that does so opens none. Everything is decided from a
series' points in offset order, so a replay decides the same.

Records of kind `features` are judged by themselves: each at or above the threshold is an incident that
opens and has no further course.

Legend: M points.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from pipeline.protocols import TopicPartition
from pipeline.stages.decode import FloatArray
from pipeline.stages.series import BoolArray, Points

State = Literal["opened", "worsened", "resolved", "accepted"]
ENDS: tuple[State, ...] = ("resolved", "accepted")
"""After one of these an incident has no further course."""
Severity = Literal["minor", "major", "critical"]
SEVERITIES: tuple[Severity, ...] = ("minor", "major", "critical")
SEVERITY_STEP = 10.0
"""A score this much over the threshold is of the next severity: ten times rarer in a normal series."""


class OpenIncident(msgspec.Struct):
    """An incident that has not ended."""

    incident: str
    opened_ms: int
    threshold: float
    peak: float
    severity: int
    quiet: int = 0


class Transition(msgspec.Struct, frozen=True):
    """What the point at `position` did to its series' incident."""

    position: int
    state: State
    incident: str
    opened_ms: int
    threshold: float
    score: float
    severity: int


class Incidents:
    """Open incidents of a stream's series, by slot."""

    def __init__(self, stream: str, quiet_points: int) -> None:
        self._stream = stream
        self._quiet_points = quiet_points
        self.open: dict[int, OpenIncident] = {}

    def follow(
        self,
        points: Points,
        score_M: FloatArray,
        threshold_M: FloatArray,
        names: Sequence[str],
        partitions: Sequence[TopicPartition],
        accepted_M: BoolArray,
    ) -> list[Transition]:
        """Judge scored points (NaN: not scored); `names` and `partitions` are indexed by slot.

        `accepted_M` marks the points with which a series' level became its usual one.
        """
        hot = np.unique(points.slot_M[score_M >= threshold_M])
        watched = np.union1d(hot, np.fromiter(self.open, np.int64, len(self.open)))
        transitions: list[Transition] = []
        for position in np.flatnonzero(np.isin(points.slot_M, watched) & ~np.isnan(score_M)).tolist():
            slot = int(points.slot_M[position])
            score, threshold = float(score_M[position]), float(threshold_M[position])
            incident = self.open.get(slot)
            state: State | None = None
            if incident is not None:
                state = self._continue(incident, score, accepted=bool(accepted_M[position]))
            elif score >= threshold and not accepted_M[position]:
                opening = derived_id(
                    self._stream,
                    partitions[slot],
                    int(points.offset_M[position]),
                    int(points.inner_M[position]),
                    names[slot],
                    "opened",
                )
                opened_ms = int(points.time_ms_M[position])
                incident = OpenIncident(opening, opened_ms, threshold, score, severity_of(score, threshold))
                self.open[slot] = incident
                state = "opened"
            if incident is not None and state is not None:
                transitions.append(_transition(position, state, incident))
                if state in ENDS:
                    del self.open[slot]
        return transitions

    def _continue(self, incident: OpenIncident, score: float, *, accepted: bool) -> State | None:
        worsened = False
        if score >= incident.threshold:
            incident.quiet = 0
            incident.peak = max(incident.peak, score)
            severity = severity_of(score, incident.threshold)
            worsened = severity > incident.severity
            incident.severity = max(severity, incident.severity)
        else:
            incident.quiet += 1
        if accepted:
            return "accepted"
        if incident.quiet >= self._quiet_points:
            return "resolved"
        return "worsened" if worsened else None


def severity_of(score: float, threshold: float) -> int:
    """Return the index in `SEVERITIES` of a score that is at or above the threshold."""
    return min(int((score - threshold) // SEVERITY_STEP), len(SEVERITIES) - 1)


def derived_id(stream: str, partition: TopicPartition, offset: int, row: int, series: str, state: State) -> str:
    """Return the id of an alert; equal input, equal id, whoever computes it."""
    key = msgspec.json.encode([stream, partition.topic, partition.partition, offset, row, series, state])
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def _transition(position: int, state: State, incident: OpenIncident) -> Transition:
    return Transition(
        position,
        state,
        incident.incident,
        incident.opened_ms,
        incident.threshold,
        incident.peak,
        incident.severity,
    )
