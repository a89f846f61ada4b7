"""The stages of a stream of kind `series`, and the state of its series between polls.

Legend: M admitted points, K alerting ones, S slots, T window length, F features.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from models.calibration import SERIES_PACE
from models.detector import Detector
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages.alerts import Alert, feature_views
from pipeline.stages.bounds import Evicted
from pipeline.stages.decode import REASONS, FloatArray, IntArray, Reject
from pipeline.stages.incidents import SEVERITIES, Incidents, OpenIncident
from pipeline.stages.scoring import Scorer, Scores
from pipeline.stages.series import Points, SeriesTable
from pipeline.stages.windows import Windows
from pipeline.stream import Arrays, Measure, Outcome, Scored, StreamPlan, hash_of, timed

_TAIL = "tail."


class SeriesPipeline:
    """Time series: every point is judged in its own window."""

    def __init__(self, plan: StreamPlan, detector: Detector, scorer: Scorer, device: torch.device) -> None:
        self._plan = plan
        self._detector = detector
        self._scorer = scorer
        spec = detector.spec
        self._table = SeriesTable(
            len(spec.features),
            spec.window,
            known_scaling=detector.scaling.for_series,
            known_interval_ms=detector.calibration.interval_of,
            hold_points=plan.hold_points,
            bounds=plan.bounds,
        )
        self._windows = Windows(
            self._table, estimate_scaling=detector.scaling.for_new, device=device, near=scorer.near
        )
        self._tail = scorer.online_tail(SERIES_PACE, accepting=plan.accept_after_ms is not None)
        self._incidents = Incidents(plan.name, plan.quiet_points)
        self._threshold_S = np.zeros(0)

    @property
    def shape(self) -> str:
        """What the state's arrays depend on."""
        spec = self._detector.spec
        return f"series window={spec.window} features={hash_of(spec.features)}"

    @property
    def series_held(self) -> int:
        return len(self._table)

    @property
    def open_incidents(self) -> int:
        return len(self._incidents.open)

    def process(self, arrived: Sequence[PartitionRecords], measure: Measure = nullcontext) -> Outcome:
        with measure("decode"):
            decoded = [self._plan.decoder.decode(records) for records in arrived]
            rejects = [reject for _, found in decoded for reject in found]
        with measure("series"):
            self._empty(self._table.take_evicted())
            admitted = self._table.admit([batch for batch, _ in decoded])
            self._begin_tails(self._table.take_new())
            records_of = {records.partition: records.records for records in arrived}
            rejects += [
                Reject(place, records_of[place][row], row, reason, REASONS[reason])
                for place, row, reason in admitted.lacking
            ]
            points = admitted.points
            # The tails are told how long a level has to stay before any of its points is scored.
            self._set_thresholds(np.unique(points.slot_M))
        alerts: list[Alert] = []
        judged: list[tuple[Points, FloatArray, FloatArray]] = []
        rounds = self._scorer.score_windows(points, self._windows, self._tail)
        for scores in timed(rounds, measure, "scoring"):
            with measure("incidents"):
                threshold_K = self._threshold_S[scores.judged.slot_M]
                alerts += self._alerts(scores, threshold_K)
                judged.append((scores.judged, scores.score_K, threshold_K))
        alerts += self._ended(admitted.evicted)
        names = self._table.names
        return Outcome(
            sorted(alerts, key=lambda alert: (alert.partition, alert.offset)),
            rejects,
            lambda: _scored(judged, names),
            points_scored=sum(len(score_K) for _, score_K, _ in judged),
            points_warming=int((points.index_M < self._table.window).sum()),
            late=admitted.late,
            held=int(points.held_M.sum()),
            series_moved=admitted.moved,
            evicted=[(self._table.partitions[each.slot], each.offset, each.reason) for each in admitted.evicted],
        )

    def snapshot(self, partition: TopicPartition) -> Arrays:
        """Return the state of a partition: names, the table's rows, buffers, tails, open incidents."""
        slots = self._table.held(partition)
        index_of = {slot: index for index, slot in enumerate(slots.tolist())}
        incidents = {
            index_of[slot]: incident for slot, incident in self._incidents.open.items() if slot in index_of
        }
        arrays: Arrays = self._table.snapshot(slots)
        arrays |= {_TAIL + name: column for name, column in self._tail.gather(slots).items()}
        arrays |= self._windows.snapshot(slots) | self._table.snapshot_bounds(partition, slots)
        names = list(map(self._table.names.__getitem__, slots.tolist()))
        arrays["names"] = np.frombuffer(msgspec.json.encode(names), np.uint8)
        arrays["incidents"] = np.frombuffer(msgspec.json.encode(incidents), np.uint8)
        return arrays

    def restore(self, partition: TopicPartition, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put a partition's state back; an empty mapping is the state before its first record."""
        self.drop(partition)
        if not arrays:
            return
        names = msgspec.json.decode(arrays["names"].tobytes(), type=list[str])
        slots = self._table.add_all(partition, names)
        self._begin_tails(self._table.take_new())
        known = {name: self._table.columns[name][slots] for name in ("learned", "center", "scale")}
        self._table.restore(slots, arrays)
        self._table.restore_bounds(partition, slots, arrays)
        self._windows.restore(slots, arrays)
        self._rescale(slots, known)
        self._tail.scatter(
            slots, {name.removeprefix(_TAIL): a for name, a in arrays.items() if name.startswith(_TAIL)}
        )
        incidents = msgspec.json.decode(arrays["incidents"].tobytes(), type=dict[int, OpenIncident])
        self._incidents.open |= {int(slots[index]): incident for index, incident in incidents.items()}

    def drop(self, partition: TopicPartition) -> None:
        """Forget a partition."""
        self._empty(self._table.drop(partition))

    def divide(self, partition: TopicPartition, partitions: int) -> None:
        """Say among how many partitions the series that the stream may hold are divided."""
        self._table.divide(partition, partitions)

    def _empty(self, freed: IntArray) -> None:
        """Forget what belonged to series that are gone."""
        if not len(freed):
            return
        self._threshold_S[freed[freed < len(self._threshold_S)]] = np.inf
        self._windows.free(freed)
        for slot in freed.tolist():
            self._incidents.open.pop(slot, None)

    def _ended(self, evicted: Sequence[Evicted]) -> list[Alert]:
        """End the incidents of series that had to leave: nobody would ever say that they are over."""
        alerts: list[Alert] = []
        for each in evicted:
            incident = self._incidents.open.pop(each.slot, None)
            if incident is not None:
                (topic, partition), series = self._table.partitions[each.slot], self._table.names[each.slot]
                alerts.append(
                    Alert(
                        incident=incident.incident,
                        stream=self._plan.name,
                        series=series,
                        fields=self._plan.fields_of(series),
                        state="resolved",
                        severity=SEVERITIES[incident.severity],
                        score=round(incident.peak, 6),
                        threshold=round(incident.threshold, 6),
                        opened_ms=incident.opened_ms,
                        event_ms=each.time_ms,
                        features={},
                        model_version=self._plan.model_version,
                        topic=topic,
                        partition=partition,
                        offset=each.offset,
                    )
                )
        return alerts

    def _begin_tails(self, new: list[int]) -> None:
        if new:
            names = self._table.names
            self._tail.begin(np.array(new, np.int64), [names[slot] for slot in new])

    def _rescale(self, slots: IntArray, known: Mapping[str, npt.NDArray[Any]]) -> None:
        """Move restored buffers to this model's own scaling, where it knows the series by another one."""
        columns = self._table.columns
        differs = known["learned"] & (
            (known["center"] != columns["center"][slots]) | (known["scale"] != columns["scale"][slots])
        ).any(axis=1)
        if differs.any():
            self._windows.rescale(slots[differs], known["center"][differs], known["scale"][differs])

    def _set_thresholds(self, slots: IntArray) -> None:
        """Give a threshold to each of these series whose interval is known and that has none."""
        more = self._table.capacity - len(self._threshold_S)
        self._threshold_S = np.concatenate([self._threshold_S, np.full(max(more, 0), np.inf)])
        interval_S = self._table.columns["interval_ms"]
        new = slots[np.isinf(self._threshold_S[slots]) & (interval_S[slots] > 0)]
        if len(new):
            # Before its first window is complete a series has no interval, and no score either.
            names = list(map(self._table.names.__getitem__, new.tolist()))
            self._threshold_S[new] = self._plan.thresholds(names, interval_S[new])
            if self._plan.accept_after_ms is not None:
                points = self._detector.points_to_accept(self._plan.accept_after_ms, interval_S[new])
                self._tail.accept_after(new, points)

    def _alerts(self, scores: Scores, threshold_K: FloatArray) -> list[Alert]:
        """Follow the incidents through these scores; return what is to be told of them."""
        table, judged = self._table, scores.judged
        transitions = self._incidents.follow(
            judged, scores.score_K, threshold_K, table.names, table.partitions, scores.accepted_K
        )
        if not transitions:
            return []
        columns, names = table.columns, self._detector.spec.features
        positions = [transition.position for transition in transitions]
        slot_K = judged.slot_M[positions]
        why = scores.explain(positions)
        expected_KF = why.expected_KF * columns["scale"][slot_K] + columns["center"][slot_K]
        band_KF = why.band_KF * columns["scale"][slot_K]
        alerts: list[Alert] = []
        for k, transition in enumerate(transitions):
            position, slot = transition.position, int(slot_K[k])
            topic, partition = self._table.partitions[slot]
            series = self._table.names[slot]
            observed_F = judged.values_MF[position]
            alerts.append(
                Alert(
                    incident=transition.incident,
                    stream=self._plan.name,
                    series=series,
                    fields=self._plan.fields_of(series),
                    state=transition.state,
                    severity=SEVERITIES[transition.severity],
                    score=round(transition.score, 6),
                    threshold=round(transition.threshold, 6),
                    opened_ms=transition.opened_ms,
                    event_ms=int(judged.time_ms_M[position]),
                    features=feature_views(names, observed_F, expected_KF[k], band_KF[k], why.share_KF[k]),
                    model_version=self._plan.model_version,
                    topic=topic,
                    partition=partition,
                    offset=int(judged.offset_M[position]),
                    points_back=int(why.back_K[k]),
                )
            )
        return alerts


def _scored(judged: Sequence[tuple[Points, FloatArray, FloatArray]], names: Sequence[str]) -> Scored:
    points = [each for each, _, _ in judged]
    return Scored(
        [names[slot] for each in points for slot in each.slot_M.tolist()],
        np.concatenate([np.zeros(0, np.int64), *(each.time_ms_M for each in points)]),
        np.concatenate([np.zeros(0, np.int64), *(each.offset_M for each in points)]),
        np.concatenate([np.zeros(0), *(score_K for _, score_K, _ in judged)]),
        np.concatenate([np.zeros(0), *(threshold_K for _, _, threshold_K in judged)]),
    )
