"""The stages of a stream of kind `features` or `images`: each record is judged by itself.

A record's error depends on nothing but the record. What is kept between polls is one `OnlineTail` for each
partition, which says how rare such an error has become: without it a mix of records that shifts over weeks
multiplies the alerts of a fixed threshold.

An image's features are the values of its pixels, thousands of them: alerts and feedback name its regions.

Legend: M accepted records, K alerting ones, F features, P what an alert names: features, or regions of an image.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from models.arrays import FloatArray, IntArray
from models.online_tail import STREAM_PACE
from pipeline.changes import Cut
from pipeline.feedback import Feedback
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages.alerts import Alert, FeatureView, PixelView, feature_views, feedback_view
from pipeline.stages.decode import Batch
from pipeline.stages.feedback import FeedbackEffect, Heeded, Kinds, Moved, signs_of
from pipeline.stages.incidents import SEVERITIES, derived_id, severity_of
from pipeline.stages.muting import Muted
from pipeline.stages.regions import Regions
from pipeline.stages.scoring import Explanations
from pipeline.stream import Measure, Outcome, Scored, StreamPlan, hash_of, reached_by
from pipeline.stream_model import StreamModel

_NOWHERE = TopicPartition("", -1)


class FeaturesPipeline:
    """Records of kind `features` or `images`: each is judged by itself; a tail is kept for each partition."""

    def __init__(self, plan: StreamPlan, model: StreamModel, device: torch.device) -> None:
        self._plan = plan
        self._tail = model.scorer.online_tail(STREAM_PACE)
        self._slots: dict[TopicPartition, int] = {}
        image = model.detector.spec.image
        self._regions = None if image is None else Regions(image)
        self._names = model.detector.spec.features if self._regions is None else self._regions.names
        self._feedback = FeedbackEffect(self._names)
        self.shape = f"features={hash_of(model.detector.spec.features)}"
        self.use(model)

    def use(self, model: StreamModel) -> None:
        """Have the records that come next judged by a model."""
        self._model, self._tail.initial = model, model.scorer.usual
        interval_ms = np.array([model.detector.calibration.interval_ms])
        self._threshold = float(model.thresholds([""], interval_ms, 0)[0])
        self._points_per_incident = float(self._plan.budget.points_per_incident(interval_ms)[0])

    series_held = 0
    open_incidents = 0

    def process(self, arrived: Sequence[PartitionRecords], measure: Measure = nullcontext) -> Outcome:
        with measure("decode"):
            decoded = [self._plan.decoder.decode(records) for records in arrived]
        # Sorted by slot, so that the records of a partition stand together.
        batches = sorted((batch for batch, _ in decoded), key=lambda batch: self._slot_of(batch.partition))
        scaling = self._model.detector.scaling
        with measure("scoring"):
            values_MF = np.concatenate([batch.values_NF for batch in batches])
            slot_M = np.repeat([self._slot_of(b.partition) for b in batches], [len(b) for b in batches])
            z_MF = scaling.apply(values_MF, scaling.center_F, scaling.scale_F)
            score_M, explain = self._model.scorer.score_vectors(slot_M, z_MF, self._tail)
        with measure("incidents"):
            heeded = self._heeded(batches, slot_M, values_MF, score_M, explain)
            hot = np.flatnonzero(score_M >= heeded.threshold_K).tolist()
            why = self._told(values_MF[hot], explain(hot))
            place_M = [(batch, row) for batch in batches for row in range(len(batch))] if hot else []
            alerts = [
                self._alert(
                    *place_M[i],
                    float(score_M[i]),
                    float(heeded.threshold_K[i]),
                    why.views(k),
                    heeded.moved.get(i),
                    why.pixels[k] if why.pixels else msgspec.UNSET,
                )
                for k, i in enumerate(hot)
            ]
        rejects = [reject for _, found in decoded for reject in found]
        alerts.sort(key=lambda alert: (alert.partition, alert.offset, alert.row))
        told = [alert for alert in alerts if not self._is_muted(alert)]
        return Outcome(
            told,
            rejects,
            lambda: _scored(batches, score_M, heeded.threshold_K),
            points_scored=len(score_M),
            reached=reached_by([score_M]),
            allowed=len(score_M) / self._points_per_incident,
            excused=heeded.excused,
            muted=[Muted(alert, "maintenance") for alert in alerts if self._is_muted(alert)],
        )

    def adopt_feedback(self, partition: TopicPartition, offset: int, said: Mapping[str, Feedback]) -> None:
        """Have what was said, by incident, act on a partition's records from an offset on, and nothing else."""
        self._feedback.adopt(partition, offset, said)

    def begin_chain(self, partition: TopicPartition) -> None:
        """Do nothing: each part holds the whole state, which is small."""

    def cut(self, partition: TopicPartition, memory: PartMemory, most_bytes: int) -> Cut:
        """Fill a part with the state of the partition's tail."""
        memory.begin(0, most_bytes)
        slots = np.array([self._slot_of(partition)])
        self._tail.gather(slots, memory.array)
        return Cut(slots, slots, slots[:0], closes=True, whole=True)

    def uncut(self, partition: TopicPartition, cut: Cut) -> None:
        """Do nothing: the next part holds it all again."""

    def snapshot(self, partition: TopicPartition) -> Arrays:
        """Return the state of the partition's tail."""
        return self._tail.gather(np.array([self._slot_of(partition)]))

    def restore(self, partition: TopicPartition, parts: Iterable[Mapping[str, npt.NDArray[Any]]]) -> None:
        """Put back what the last of the parts holds."""
        self.drop(partition)
        slots = np.array([self._slot_of(partition)])
        for arrays in list(parts)[-1:]:
            self._tail.scatter(slots, arrays)

    def divide(self, partition: TopicPartition, partitions: int) -> None:
        """Do nothing: records of features belong to no series."""

    def drop(self, partition: TopicPartition) -> None:
        """Forget a partition."""
        self._slots.pop(partition, None)
        self._feedback.drop(partition)

    def _is_muted(self, alert: Alert) -> bool:
        """Tell whether it falls into a maintenance window: it has no further course to be told of at its end."""
        return any(window.covers(alert.series, alert.event_ms) for window in self._plan.maintenance)

    def _heeded(
        self,
        batches: Sequence[Batch],
        slot_M: IntArray,
        values_MF: FloatArray,
        score_M: FloatArray,
        explain: Callable[[Sequence[int]], Explanations],
    ) -> Heeded:
        """Return the thresholds that feedback makes of the stream's."""
        place_of = {slot: partition for partition, slot in self._slots.items()}

        def kinds_of(positions: Sequence[int]) -> Kinds:
            found = explain(positions)
            why = self._told(values_MF[positions], found)
            return Kinds(why.share_KP, signs_of(why.observed_KP - why.expected_KP, why.band_KP, found.back_K))

        slots = range(1 + max(place_of))
        return self._feedback.heed(
            [place_of.get(slot, _NOWHERE) for slot in slots],
            [""] * len(slots),
            slot_M,
            np.arange(len(slot_M)),
            np.concatenate([batch.offset_N for batch in batches]),
            np.concatenate([batch.time_ms_N for batch in batches]),
            score_M,
            np.full(len(score_M), self._threshold),
            kinds_of,
        )

    def _told(self, observed_KF: FloatArray, why: Explanations) -> "_Why":
        """Return what explains some records, in units of their values."""
        scaling = self._model.detector.scaling
        expected_KF = why.expected_KF * scaling.scale_F + scaling.center_F
        band_KF = why.band_KF * scaling.scale_F
        if (regions := self._regions) is None:
            return _Why(self._names, observed_KF, expected_KF, band_KF, why.share_KF)
        return _Why(
            self._names,
            regions.means(observed_KF),
            regions.means(expected_KF),
            regions.means(band_KF),
            regions.sums(why.share_KF),
            [regions.strangest(*each) for each in zip(observed_KF, expected_KF, why.share_KF, strict=True)],
        )

    def _slot_of(self, partition: TopicPartition) -> int:
        slot = self._slots.get(partition)
        if slot is None:
            taken = set(self._slots.values())
            slot = next(free for free in range(len(taken) + 1) if free not in taken)
            self._slots[partition] = slot
            self._tail.begin(np.array([slot]), [""])
        return slot

    def _alert(
        self,
        batch: Batch,
        row: int,
        score: float,
        threshold: float,
        features: dict[str, FeatureView],
        moved: Moved | None,
        pixels: list[PixelView] | msgspec.UnsetType,
    ) -> Alert:
        time_ms, offset, inner = (
            int(batch.time_ms_N[row]),
            int(batch.offset_N[row]),
            int(batch.place_in_record_N[row]),
        )
        topic, partition = batch.partition
        return Alert(
            incident=derived_id(self._plan.name, batch.partition, offset, inner, "", "opened"),
            stream=self._plan.name,
            series="",
            fields={},
            state="opened",
            severity=SEVERITIES[severity_of(score, threshold)],
            score=round(score, 6),
            threshold=round(threshold, 6),
            opened_ms=time_ms,
            event_ms=time_ms,
            features=features,
            feedback=feedback_view(moved),
            pixels=pixels,
            model_version=self._model.version,
            topic=topic,
            partition=partition,
            offset=offset,
            row=inner,
        )


class _Why(NamedTuple):
    """What explains some records, in units of their values."""

    names: Sequence[str]
    observed_KP: FloatArray
    expected_KP: FloatArray
    band_KP: FloatArray
    share_KP: FloatArray
    pixels: Sequence[list[PixelView]] = ()
    """Of images."""

    def views(self, k: int) -> dict[str, FeatureView]:
        """Return what an alert tells of each feature or region."""
        each = (of_KP[k] for of_KP in (self.observed_KP, self.expected_KP, self.band_KP, self.share_KP))
        return feature_views(self.names, *each)


def _scored(batches: Sequence[Batch], score_M: FloatArray, threshold_M: FloatArray) -> Scored:
    return Scored(
        ("",) * len(score_M),
        np.concatenate([batch.time_ms_N for batch in batches]),
        np.concatenate([batch.offset_N for batch in batches]),
        score_M,
        threshold_M,
        np.concatenate([batch.place_in_record_N for batch in batches]),
    )
