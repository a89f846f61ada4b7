"""The stages of a stream of kind `series`, and the state of its series between polls.

Legend: M admitted points, K alerting ones, S slots, T window length, F features.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.arrays import FloatArray, IntArray
from models.online_tail import SERIES_PACE
from pipeline.changes import Cut
from pipeline.feedback import Feedback
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.series_parts import SeriesParts
from pipeline.stages.alerts import Alert, feature_views, feedback_view
from pipeline.stages.feedback import FeedbackEffect, Heeded, Kinds, signs_of
from pipeline.stages.incidents import (
    SEVERITIES,
    SILENCE_SEVERITY,
    STARTS,
    Incidents,
    Stops,
    Transition,
    derived_id,
)
from pipeline.stages.muting import Muting
from pipeline.stages.scoring import Scores
from pipeline.stages.series import Points, SeriesTable
from pipeline.stages.silence import Quiet, Silence
from pipeline.stages.thresholds import Thresholds
from pipeline.stages.windows import Windows
from pipeline.stream import Measure, Outcome, StreamPlan, hash_of, reached_by, scored_of, timed
from pipeline.stream_model import StreamModel


class SeriesPipeline:
    """Time series: every point is judged in its own window."""

    def __init__(self, plan: StreamPlan, model: StreamModel, device: torch.device) -> None:
        self._plan = plan
        self._model = model
        detector, scorer, spec = model.detector, model.scorer, model.detector.spec
        self._table = SeriesTable(
            len(spec.features),
            spec.window,
            known_scaling=detector.scaling.for_series,
            known_interval_ms=detector.calibration.interval_of,
            mark=model.mark,
            hold_points=plan.hold_points,
            bounds=plan.bounds,
        )
        self._windows = Windows(
            self._table, estimate_scaling=detector.scaling.for_new, device=device, near=scorer.near
        )
        self._tail = scorer.online_tail(SERIES_PACE, accepting=True)
        self._silence = Silence(self._table, plan.silence_intervals)
        self._incidents = Incidents(
            plan.name,
            plan.quiet_points,
            hysteresis=plan.hysteresis,
            merge_points=plan.merge_points,
            repeat_after_ms=plan.repeat_after_ms,
        )
        self._thresholds = Thresholds(self._table, model.thresholds, plan.series_in_budget)
        self._muting = Muting(
            plan.name, model.version, plan.fields_of, storm=plan.storm, maintenance=plan.maintenance
        )
        self._feedback = FeedbackEffect(spec.features, plan.quiet_points)
        self._parts = SeriesParts(
            self._table,
            self._windows,
            self._tail,
            self._silence,
            self._incidents,
            self._muting,
            self._feedback,
            begin=self._begin_tails,
            empty=self._empty,
        )
        self._accepting_S = np.zeros(0, np.bool_)
        """Whose tail has been told when to accept a level."""

    def use(self, model: StreamModel) -> None:
        """Have the records that come next judged by a model; each series follows at its next one."""
        if model is self._model:
            return
        self._model, detector = model, model.detector
        self._table.known_scaling, self._table.mark = detector.scaling.for_series, model.mark
        self._table.known_interval_ms = detector.calibration.interval_of
        self._windows.estimate_scaling = detector.scaling.for_new
        self._tail.initial = model.scorer.usual
        self._thresholds.of_budget = model.thresholds
        self._muting.model_version = model.version

    @property
    def shape(self) -> str:
        """What the state's arrays depend on."""
        spec = self._model.detector.spec
        return f"series window={spec.window} features={hash_of(spec.features)}"

    @property
    def series_held(self) -> int:
        return len(self._table)

    @property
    def open_incidents(self) -> int:
        return len(self._incidents) + self._silence.silent

    def process(self, arrived: Sequence[PartitionRecords], measure: Measure = nullcontext) -> Outcome:
        with measure("decode"):
            decoded = [self._plan.decoder.decode(records) for records in arrived]
            rejects = [reject for _, found in decoded for reject in found]
        with measure("series"):
            self._empty(self._table.take_evicted())
            batches = [batch for batch, _ in decoded]
            admitted = self._table.admit(batches)
            self._begin_tails()
            records_of = {records.partition: records.records for records in arrived}
            rejects += [
                self._plan.decoder.reject(place, records_of[place][row], row, inner, reason)
                for place, row, inner, reason in admitted.lacking
            ]
            points = admitted.points
            self._parts.changes.touch(admitted.seen)
            slots, points_S = np.unique(points.slot_M, return_counts=True)
            self._parts.changes.add_rows(slots, points_S)
            # While it warms, a series learns its scaling and its interval.
            self._parts.changes.alter(points.slot_M[points.index_M < self._table.window])
            self._follow_model(slots)
            # The tails are told how long a level has to stay before any of its points is scored.
            self._begin_accepting(slots)
        with measure("silence"):
            quiet = self._silence.follow(batches, points, admitted.place_M, admitted.evicted)
            self._parts.changes.touch(self._silence.altered)
            stops = _stops(quiet)
        alerts: list[Alert] = []
        judged: list[tuple[Points, FloatArray, FloatArray]] = []
        excused, allowed = 0, 0.0
        rounds = self._model.scorer.score_windows(points, self._windows, self._tail)
        for scores in timed(rounds, measure, "scoring"):
            with measure("incidents"):
                rows = scores.judged
                halvings_K = self._thresholds.halvings(rows.slot_M, rows.offset_M, self._silence.passed)
                own_K = self._thresholds.of(rows.slot_M, halvings_K)
                allowed += self._thresholds.allowed(rows.slot_M, halvings_K, self._plan.budget.points_per_incident)
                heeded = self._heeded(scores, own_K)
                excused += heeded.excused
                alerts += self._alerts(scores, heeded, stops)
                judged.append((rows, scores.score_K, heeded.threshold_K))
        with measure("incidents"):
            alerts += self._stale_alerts(self._incidents.stop(stops))
        # Sorting keeps the order of those with one record, row and series: what went before a silence comes first.
        alerts = (
            [alert for alert in alerts if alert.state == "stale"]
            + self._silence_alerts(quiet)
            + [alert for alert in alerts if alert.state != "stale"]
        )
        alerts.sort(key=lambda alert: (alert.partition, alert.offset, alert.row, alert.series))
        with measure("incidents"):
            told, muted = self._muting.follow(alerts, self._silence.passed)
        gone, partitions, names = (
            [each.slot for each in admitted.evicted],
            self._table.partitions,
            self._table.names,
        )
        self._feedback.forget((partitions[slot], names[slot]) for slot in gone)
        # What is left of them until their slots are given away belongs to no series.
        self._parts.note_gone(np.array(gone, np.int64))
        return Outcome(
            told,
            rejects,
            lambda: scored_of(judged, names),
            points_scored=sum(len(score_K) for _, score_K, _ in judged),
            reached=reached_by([score_K for _, score_K, _ in judged]),
            allowed=allowed,
            points_warming=int((points.index_M < self._table.window).sum()),
            late=admitted.late,
            held=int(points.held_M.sum()),
            series_moved=admitted.moved,
            muted=muted,
            excused=excused,
            evicted=[(partitions[each.slot], each.offset, each.reason) for each in admitted.evicted],
        )

    def adopt_feedback(self, partition: TopicPartition, offset: int, said: Mapping[str, Feedback]) -> None:
        """Have what was said, by incident, act on a partition's records from an offset on, and nothing else."""
        self._feedback.adopt(partition, offset, said)

    def begin_chain(self, partition: TopicPartition) -> None:
        """Have the parts that are cut from now on hold every series of a partition."""
        self._parts.begin_chain(partition)

    def cut(self, partition: TopicPartition, memory: PartMemory, most_bytes: int) -> Cut:
        """Fill a part with the series that have changed since the parts before, or with as many as fit in."""
        return self._parts.cut(partition, memory, most_bytes)

    def uncut(self, partition: TopicPartition, cut: Cut) -> None:
        """Have the next parts hold again what a part held that was not written."""
        self._parts.uncut(partition, cut)

    def snapshot(self, partition: TopicPartition) -> Arrays:
        """Return all of a partition's state as one part, in the order of names."""
        return self._parts.snapshot(partition)

    def restore(self, partition: TopicPartition, parts: Iterable[Mapping[str, npt.NDArray[Any]]]) -> None:
        """Put a partition's state back from its parts; of none, the state before its first record."""
        self.drop(partition)
        self._parts.restore(partition, parts)
        self._begin_accepting(self._table.held(partition))

    def drop(self, partition: TopicPartition) -> None:
        """Forget a partition."""
        freed = self._table.drop(partition)
        self._parts.changes.forget(partition, freed)
        self._empty(freed)
        self._silence.drop(partition, freed)
        self._muting.drop(partition)
        self._feedback.drop(partition)

    def divide(self, partition: TopicPartition, partitions: int) -> None:
        """Say among how many partitions the series that the stream may hold are divided."""
        self._table.divide(partition, partitions)

    def _empty(self, freed: IntArray) -> None:
        """Forget what belonged to series that are gone."""
        if not len(freed):
            return
        self._thresholds.forget(freed)
        self._accepting_S[freed[freed < len(self._accepting_S)]] = False
        self._windows.free(freed)
        self._incidents.forget(freed)

    def _begin_tails(self) -> None:
        """Give the series that are new to the table their tails."""
        if new := self._table.take_new():
            slots, names = np.array(new, np.int64), self._table.names
            self._tail.begin(slots, [names[slot] for slot in new])
            self._parts.changes.own(slots)

    def _follow_model(self, slots: IntArray) -> None:
        """Have those of these series that another model has judged take what the present one knows of them."""
        slots = self._table.of_other_models(slots)
        if not len(slots):
            return
        self._parts.changes.alter(slots)
        known, center_SF, scale_SF = self._table.known_to_model(slots)
        columns = self._table.columns
        differs = ((center_SF != columns["center"][known]) | (scale_SF != columns["scale"][known])).any(axis=1)
        self._windows.rescale(known[differs], center_SF[differs], scale_SF[differs])
        self._thresholds.forget(slots)

    def _begin_accepting(self, slots: IntArray) -> None:
        """Tell the tails of these series when to accept a level, once their interval is known."""
        more = self._table.capacity - len(self._accepting_S)
        if more:
            self._accepting_S = np.append(self._accepting_S, np.zeros(more, np.bool_))
        interval_ms_S = self._table.columns["interval_ms"]
        # Before its first window is complete a series has no interval, and no score either.
        new = slots[~self._accepting_S[slots] & (interval_ms_S[slots] > 0)]
        if len(new):
            self._accepting_S[new] = True
            self._parts.changes.alter(new)
            points = self._model.detector.points_to_accept(self._plan.accept_after_ms, interval_ms_S[new])
            self._tail.accept_after(new, points)

    def _heeded(self, scores: Scores, threshold_K: FloatArray) -> Heeded:
        """Return the thresholds that feedback makes of the series' own."""
        table, judged = self._table, scores.judged

        def kinds_of(positions: Sequence[int]) -> Kinds:
            why, slot_C = scores.explain(positions), judged.slot_M[positions]
            scale_CF = table.columns["scale"][slot_C]
            expected_CF = why.expected_KF * scale_CF + table.columns["center"][slot_C]
            off_CF = judged.values_MF[positions] - expected_CF
            return Kinds(why.share_KF, signs_of(off_CF, why.band_KF * scale_CF, why.back_K))

        return self._feedback.heed(
            table.partitions,
            table.names,
            judged.slot_M,
            judged.index_M,
            judged.offset_M,
            judged.time_ms_M,
            scores.score_K,
            threshold_K,
            kinds_of,
        )

    def _alerts(self, scores: Scores, heeded: Heeded, stops: Stops) -> list[Alert]:
        """Follow the incidents through these scores; return what is to be told of them."""
        table, judged = self._table, scores.judged
        transitions = self._incidents.follow(
            judged, scores.score_K, heeded.threshold_K, table.names, table.partitions, scores.accepted_K, stops
        )
        if not transitions:
            return []
        alerts = self._stale_alerts(transitions)
        transitions = [transition for transition in transitions if transition.stop is None]
        if not transitions:
            return alerts
        columns, names = table.columns, self._model.detector.spec.features
        positions = [transition.position for transition in transitions]
        slot_K = judged.slot_M[positions]
        why = scores.explain(positions)
        expected_KF = why.expected_KF * columns["scale"][slot_K] + columns["center"][slot_K]
        band_KF = why.band_KF * columns["scale"][slot_K]
        for k, transition in enumerate(transitions):
            position, slot = transition.position, int(slot_K[k])
            observed_F = judged.values_MF[position]
            alerts.append(
                self._alert(
                    slot,
                    incident=transition.incident,
                    state=transition.state,
                    severity=SEVERITIES[transition.severity],
                    score=round(transition.score, 6),
                    threshold=round(transition.threshold, 6),
                    opened_ms=transition.opened_ms,
                    event_ms=int(judged.time_ms_M[position]),
                    features=feature_views(names, observed_F, expected_KF[k], band_KF[k], why.share_KF[k]),
                    offset=int(judged.offset_M[position]),
                    row=int(judged.inner_M[position]),
                    points_back=int(why.back_K[k]),
                    feedback=feedback_view(heeded.moved.get(position) if transition.state in STARTS else None),
                )
            )
        return alerts

    def _stale_alerts(self, transitions: Sequence[Transition]) -> list[Alert]:
        """Return what is to be told of incidents whose series stopped."""
        return [
            self._alert(
                transition.stop.slot,
                incident=transition.incident,
                state="stale",
                severity=SEVERITIES[transition.severity],
                score=round(transition.score, 6),
                threshold=round(transition.threshold, 6),
                opened_ms=transition.opened_ms,
                event_ms=transition.stop.event_ms,
                features={},
                offset=transition.stop.offset,
                row=transition.stop.row,
            )
            for transition in transitions
            if transition.stop is not None
        ]

    def _silence_alerts(self, quiet: Sequence[Quiet]) -> list[Alert]:
        """Return what is to be told of silences; the first deadline and the series name the incident of one."""
        alerts: list[Alert] = []
        for one in quiet:
            if one.state != "stopped":
                place, series = self._table.partitions[one.slot], self._table.names[one.slot]
                alerts.append(
                    self._alert(
                        one.slot,
                        incident=derived_id(self._plan.name, place, one.opened_ms, 0, series, "silent"),
                        state=one.state,
                        severity=SILENCE_SEVERITY,
                        score=None,
                        threshold=None,
                        opened_ms=one.opened_ms,
                        event_ms=one.event_ms,
                        features={},
                        offset=one.offset,
                        row=one.row,
                    )
                )
        return alerts

    def _alert(self, slot: int, **told: Any) -> Alert:
        """Return an alert of a series with what is told beside its name and place."""
        (topic, partition), series = self._table.partitions[slot], self._table.names[slot]
        return Alert(
            stream=self._plan.name,
            series=series,
            fields=self._plan.fields_of(series),
            model_version=self._model.version,
            topic=topic,
            partition=partition,
            **told,
        )


def _stops(quiet: Sequence[Quiet]) -> Stops:
    stops: Stops = {}
    for one in quiet:
        if one.state in ("stopped", "silent"):
            stops.setdefault(one.slot, []).append(one)
    return stops
