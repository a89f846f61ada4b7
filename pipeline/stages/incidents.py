"""Scores -> incidents: opened, worsened, repeated, resolved, reopened, accepted or stale.

An incident opens with the first score at or above its series' threshold. It goes on while scores come back to a
lower bound, `hysteresis` under the threshold, within `quiet_points` points, and is resolved after that many quiet
ones. It worsens when its score reaches the next severity band: each band is ten times rarer than the one before.
Unchanged, it is repeated after `repeat_after`. It is accepted with the point that makes its level the series'
usual one, and a point that does so opens none. It is stale where its series stopped: see
`pipeline.stages.silence`.

A score at or above the threshold within `merge_points` points after a resolution opens the same incident again,
with its id and a severity of its own: who has closed it has to know, and what belongs together stays together.
Openings and reopenings together are never more than without hysteresis and merging, so the budget of false
incidents, which the threshold follows from, holds for both together.

Everything is decided from a series' points in offset order, so a replay decides the same. Open incidents are rows
of a table: where nothing can happen to one in a poll, as to most in a storm, all are moved on together.

Records of kind `features` are judged by themselves: each at or above the threshold is an incident that opens and
has no further course.

Legend: M points, K scored points of open incidents, S slots, E rows of open incidents.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray
from pipeline.protocols import TopicPartition
from pipeline.stages.runs import runs
from pipeline.stages.series import Points
from pipeline.stages.silence import Quiet

State = Literal["opened", "reopened", "worsened", "repeated", "resolved", "accepted", "silent", "stale", "storm"]
STARTS: tuple[State, ...] = ("opened", "reopened", "silent", "storm")
"""With one of these an incident begins, or begins again."""
ENDS: tuple[State, ...] = ("resolved", "accepted", "stale")
"""After one of these an incident has no further course, but that a resolved one may be reopened."""
Severity = Literal["minor", "major", "critical"]
SEVERITIES: tuple[Severity, ...] = ("minor", "major", "critical")
SILENCE_SEVERITY: Severity = "major"
"""Of a series that sends nothing: no score says how bad that is."""
LEAST_BOUND = 10.0
"""Hysteresis goes no lower than the lowest threshold: one normal point in ten reaches it."""
SEVERITY_STEP = 10.0
"""A score this much over the threshold is of the next severity: ten times rarer in a normal series."""


class OpenIncident(msgspec.Struct):
    """An incident that has not ended, or that may be reopened; checkpoints hold it in this form."""

    incident: str
    opened_ms: int
    threshold: float
    peak: float
    severity: int
    quiet: int = 0
    told_ms: int = -1
    """Event time of its last alert; where a checkpoint tells none, as the first ones do, that of the opening."""
    ended_index: int = -1
    """Of a resolved one: how many points the series had had before the one that resolved it."""

    def __post_init__(self) -> None:
        if self.told_ms < 0:
            self.told_ms = self.opened_ms


class Transition(msgspec.Struct, frozen=True):
    """What the point at `position`, or the end of its series, did to an incident."""

    position: int
    """-1: no point did it, but `stop`."""
    state: State
    incident: str
    opened_ms: int
    threshold: float
    score: float
    severity: int
    stop: Quiet | None = None


Stops = dict[int, list[Quiet]]
"""By slot, in order: where series of a poll stopped. Each is taken out when it has been followed."""


class Incidents:
    """Open incidents of a stream's series, by slot."""

    def __init__(
        self,
        stream: str,
        quiet_points: int,
        *,
        hysteresis: float = 0.0,
        merge_points: int = 0,
        repeat_after_ms: float | None = None,
    ) -> None:
        self._stream = stream
        self._quiet_points = quiet_points
        self._hysteresis = hysteresis
        self._merge_points = merge_points
        self._repeat_after_ms = math.inf if repeat_after_ms is None else repeat_after_ms
        self._open = _OpenTable()
        self._recent: dict[int, OpenIncident] = {}
        """Resolved ones that may be reopened."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def open(self) -> dict[int, OpenIncident]:
        """The open incidents, in the order of their slots."""
        return {slot: self._open.of(slot) for slot in self._open.slots()}

    def open_among(self, slots: IntArray) -> dict[int, OpenIncident]:
        """Return those of these slots."""
        return self._open.among(slots)

    def follow(
        self,
        points: Points,
        score_M: FloatArray,
        threshold_M: FloatArray,
        names: Sequence[str],
        partitions: Sequence[TopicPartition],
        accepted_M: BoolArray,
        stops: Stops | None = None,
    ) -> list[Transition]:
        """Judge scored points (NaN: not scored); `names` and `partitions` are indexed by slot.

        Args:
            accepted_M: the points with which a series' level became its usual one.
            stops: where series stopped before some of these points; for what comes after them all, see `stop`.
        """
        stops = {} if stops is None else stops
        scored_M = ~np.isnan(score_M)
        stopped = np.fromiter(stops, np.int64, len(stops))
        eventful = self._eventful(points, score_M, threshold_M, accepted_M, scored_M, stopped)
        transitions: list[Transition] = []
        followed: OpenIncident | None = None
        slot = -1
        for position in np.flatnonzero(np.isin(points.slot_M, eventful) & scored_M).tolist():
            if points.slot_M[position] != slot:
                self._keep(slot, followed)
                slot = int(points.slot_M[position])
                followed = self._open.of(slot) if slot in self._open else None
            offset, row = int(points.offset_M[position]), int(points.inner_M[position])
            while stops and slot in stops and stops[slot][0].until <= (offset, row):
                transitions += self._stop(slot, followed, stops)
                followed = None
            score, threshold = float(score_M[position]), float(threshold_M[position])
            time_ms, index = int(points.time_ms_M[position]), int(points.index_M[position])
            state: State | None = None
            if followed is not None:
                state = self._continue(followed, score, time_ms, accepted=bool(accepted_M[position]))
            elif score >= threshold and not accepted_M[position]:
                followed = self._recent.pop(slot, None)
                state = "reopened"
                if followed is None or index - followed.ended_index > self._merge_points:
                    opening = derived_id(self._stream, partitions[slot], offset, row, names[slot], "opened")
                    followed = OpenIncident(opening, time_ms, threshold, score, severity_of(score, threshold))
                    state = "opened"
                _begin(followed, score, threshold, time_ms)
            if followed is not None and state is not None:
                transitions.append(_transition(position, state, followed))
                if state in ENDS:
                    if state == "resolved" and self._merge_points:
                        followed.ended_index = index
                        self._recent[slot] = followed
                    followed = None
        self._keep(slot, followed)
        return transitions

    def stop(self, stops: Stops) -> list[Transition]:
        """End the incidents of series that stopped after all points of a poll."""
        transitions: list[Transition] = []
        for slot in list(stops):
            while slot in stops:
                transitions += self._stop(slot, self._open.of(slot) if slot in self._open else None, stops)
                self._open.remove(slot)
        return transitions

    def forget(self, slots: IntArray) -> None:
        """Drop what is known of slots that lost their series."""
        for slot in slots[self._open.entry_of(slots) >= 0].tolist():
            self._open.remove(slot)
        for slot in self._recent.keys() & slots.tolist() if self._recent else ():
            del self._recent[slot]

    def restore(self, opened: Mapping[int, OpenIncident], recent: Mapping[int, OpenIncident]) -> None:
        """Put open incidents and resolved ones back, by slot."""
        for slot, incident in opened.items():
            self._open.put(slot, incident)
        self._recent.update(recent)

    def recent_among(self, slots: IntArray, next_index_S: IntArray) -> dict[int, OpenIncident]:
        """Return those of these slots' resolved incidents that may still be reopened, and forget the others.

        Args:
            slots: of which series.
            next_index_S: how many points each series has had, by slot.
        """
        found = self._recent.keys() & slots.tolist() if self._recent else ()
        for slot in [s for s in found if next_index_S[s] - self._recent[s].ended_index > self._merge_points]:
            del self._recent[slot]
        return {slot: self._recent[slot] for slot in sorted(found) if slot in self._recent}

    def _eventful(
        self,
        points: Points,
        score_M: FloatArray,
        threshold_M: FloatArray,
        accepted_M: BoolArray,
        scored_M: BoolArray,
        stopped: IntArray,
    ) -> IntArray:
        """Return the slots whose points may do more than go on with an incident; of the others' that is done."""
        hot_M = score_M >= threshold_M
        entry_M = self._open.entry_of(points.slot_M)
        eventful = [stopped, np.unique(points.slot_M[hot_M & (entry_M < 0)])]
        at_K = np.flatnonzero((entry_M >= 0) & scored_M)
        if len(at_K):
            table, entry_K, score_K = self._open.columns, entry_M[at_K], score_M[at_K]
            start_E, length_E, _ = runs(points.slot_M[at_K])
            end_E, entry_E = start_E + length_E, entry_K[start_E]
            threshold_K = table["threshold"][entry_K]
            warm_K = score_K >= self._bound(threshold_K)
            above_K = score_K >= threshold_K
            band_K = np.minimum(np.floor_divide(score_K - threshold_K, SEVERITY_STEP), len(SEVERITIES) - 1)
            told_K = accepted_M[at_K] | (above_K & (band_K > table["severity"][entry_K]))
            told_K |= warm_K & (points.time_ms_M[at_K] - table["told_ms"][entry_K] >= self._repeat_after_ms)
            cold_E = length_E - np.add.reduceat(warm_K.astype(np.int64), start_E)
            may_end_E = table["quiet"][entry_E] + cold_E >= self._quiet_points
            slot_E = points.slot_M[at_K][start_E]
            calm_E = ~(np.logical_or.reduceat(told_K, start_E) | may_end_E | np.isin(slot_E, stopped))
            last_warm_E = np.maximum.reduceat(np.where(warm_K, np.arange(len(at_K)), -1), start_E)
            quiet_E = np.where(last_warm_E >= 0, end_E - 1 - last_warm_E, table["quiet"][entry_E] + length_E)
            highest_E = np.maximum.reduceat(np.where(above_K, score_K, -np.inf), start_E)
            calm = entry_E[calm_E]
            table["quiet"][calm] = quiet_E[calm_E]
            table["peak"][calm] = np.maximum(table["peak"][calm], highest_E[calm_E])
            eventful.append(slot_E[~calm_E])
        return np.concatenate(eventful)

    def _bound(self, threshold: Any) -> Any:
        """Return what a score has to reach for an incident to go on; arrays are fine."""
        return np.maximum(threshold - self._hysteresis, np.minimum(threshold, LEAST_BOUND))

    def _continue(self, incident: OpenIncident, score: float, time_ms: int, *, accepted: bool) -> State | None:
        state: State | None = None
        if score >= self._bound(incident.threshold):
            incident.quiet = 0
            if time_ms - incident.told_ms >= self._repeat_after_ms:
                state = "repeated"
        else:
            incident.quiet += 1
        if score >= incident.threshold:
            incident.peak = max(incident.peak, score)
            severity = severity_of(score, incident.threshold)
            if severity > incident.severity:
                incident.severity, state = severity, "worsened"
        if accepted:
            state = "accepted"
        elif incident.quiet >= self._quiet_points:
            state = "resolved"
        if state is not None:
            incident.told_ms = time_ms
        return state

    def _stop(self, slot: int, incident: OpenIncident | None, stops: Stops) -> list[Transition]:
        """Take the next stop of a series: its incident is over, and is not reopened."""
        stop = stops[slot].pop(0)
        if not stops[slot]:
            del stops[slot]
        self._recent.pop(slot, None)
        return [] if incident is None else [_transition(-1, "stale", incident, stop)]

    def _keep(self, slot: int, incident: OpenIncident | None) -> None:
        if incident is None:
            self._open.remove(slot)
        else:
            self._open.put(slot, incident)


class _OpenTable:
    """Open incidents as columns, one row an incident, found by slot."""

    _FIELDS = ("opened_ms", "threshold", "peak", "severity", "quiet", "told_ms")
    """Of an `OpenIncident` after its name, in their order."""

    def __init__(self) -> None:
        self._entry_S = np.full(0, -1, np.int32)
        self._names: list[str] = []
        self._free: list[int] = []
        self.columns: dict[str, npt.NDArray[Any]] = {
            "threshold": np.zeros(0),
            "peak": np.zeros(0),
            "opened_ms": np.zeros(0, np.int64),
            "told_ms": np.zeros(0, np.int64),
            "severity": np.zeros(0, np.int64),
            "quiet": np.zeros(0, np.int64),
        }

    def __len__(self) -> int:
        return len(self._names) - len(self._free)

    def __contains__(self, slot: int) -> bool:
        return 0 <= slot < len(self._entry_S) and self._entry_S[slot] >= 0

    def slots(self) -> list[int]:
        return np.flatnonzero(self._entry_S >= 0).tolist()

    def entry_of(self, slot_M: IntArray) -> IntArray:
        """Return the row of each slot's incident; -1: none is open."""
        self._reserve(int(slot_M.max(initial=-1)) + 1)
        return self._entry_S[slot_M].astype(np.int64)

    def of(self, slot: int) -> OpenIncident:
        entry = int(self._entry_S[slot])
        return OpenIncident(self._names[entry], **{name: c[entry].item() for name, c in self.columns.items()})

    def among(self, slots: IntArray) -> dict[int, OpenIncident]:
        """Return those of many slots."""
        entry_S = self.entry_of(slots)
        entry_E = entry_S[entry_S >= 0]
        rows = zip(*(self.columns[name][entry_E].tolist() for name in self._FIELDS), strict=True)
        incidents = (
            OpenIncident(self._names[entry], *row) for entry, row in zip(entry_E.tolist(), rows, strict=True)
        )
        return dict(zip(slots[entry_S >= 0].tolist(), incidents, strict=True))

    def put(self, slot: int, incident: OpenIncident) -> None:
        self._reserve(slot + 1)
        entry = int(self._entry_S[slot])
        if entry < 0:
            if not self._free:
                self._grow()
            entry = self._free.pop()
            self._entry_S[slot] = entry
        self._names[entry] = incident.incident
        for name, column in self.columns.items():
            column[entry] = getattr(incident, name)

    def remove(self, slot: int) -> None:
        """Take an incident out, if there is one."""
        if slot in self:
            entry = int(self._entry_S[slot])
            self._entry_S[slot] = -1
            self._names[entry] = ""
            self._free.append(entry)

    def _reserve(self, slots: int) -> None:
        more = slots - len(self._entry_S)
        if more > 0:
            more = max(more, len(self._entry_S) // 16, 64)
            self._entry_S = np.append(self._entry_S, np.full(more, -1, np.int32))

    def _grow(self) -> None:
        held = len(self._names)
        more = max(64, held)
        self._names += [""] * more
        self._free += reversed(range(held, held + more))
        for name, column in self.columns.items():
            self.columns[name] = np.append(column, np.zeros(more, column.dtype))


def severity_of(score: float, threshold: float) -> int:
    """Return the index in `SEVERITIES` of a score that is at or above the threshold."""
    return min(int((score - threshold) // SEVERITY_STEP), len(SEVERITIES) - 1)


def derived_id(stream: str, partition: TopicPartition, offset: int, row: int, series: str, state: State) -> str:
    """Return the id of an alert; equal input, equal id, whoever computes it."""
    key = msgspec.json.encode([stream, partition.topic, partition.partition, offset, row, series, state])
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def _begin(incident: OpenIncident, score: float, threshold: float, time_ms: int) -> None:
    """Begin an incident, or begin it again: threshold, highest score and severity are those of now."""
    incident.threshold, incident.peak = threshold, score
    incident.severity, incident.quiet = severity_of(score, threshold), 0
    incident.told_ms, incident.ended_index = time_ms, -1


def _transition(position: int, state: State, incident: OpenIncident, stop: Quiet | None = None) -> Transition:
    return Transition(
        position,
        state,
        incident.incident,
        incident.opened_ms,
        incident.threshold,
        incident.peak,
        incident.severity,
        stop,
    )
