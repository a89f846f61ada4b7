"""A detector: scaling, one or more views, and the calibration that gives their errors a meaning.

Windows are read one by one (`errors`), which needs the newest rows of a series. A row is judged (`surprise`) by the
errors of the windows near it, as `mapping` has it: the view that finds it strangest decides, each measured by a
high quantile of its own errors in training, and the largest of them is calibrated once more, for each delay by
itself, so that a score keeps its meaning.

Legend: B windows or rows to judge, N rows of a series, R windows near a row, T window length, F features, V views.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import FloatArray
from models.by_series import BySeries
from models.calibration import PooledTail, alert_threshold
from models.dataset import padded
from models.mapping import Delay, Reach
from models.online_tail import OnlineTail, Pace
from models.reader import Reader
from models.scaling import LIMIT, Scaling
from models.spec import ModelSpec
from models.views import View

_CHUNK_VALUES = 2**19


@dataclass(frozen=True)
class Explanation:
    """What the strangest view makes of each window, on the detector's device, in scaled units."""

    expected_BF: Tensor
    """The newest row as reconstructed."""
    band_BF: Tensor
    """How far from the expected value is usual."""
    share_BF: Tensor
    """Each feature's part in the error; rows sum to one."""
    back_B: Tensor
    """How many rows before the newest one the error is largest."""


@dataclass(frozen=True)
class Judgement:
    """How errors become surprise for rows that may wait for `delay` later ones."""

    reach: Reach
    reference_V: Tensor
    """Each view's error that one training row in a hundred exceeds, plus the view's offset."""
    tail: PooledTail
    cluster_points: tuple[float, ...]
    """Points that an incident holds on average, at each of `CLUSTER_LEVELS`."""
    clusters_of_series: BySeries
    """The same of each series that was there in training."""
    quantiles_of_series: BySeries
    """Where each series' `OnlineTail` starts; of features, that of the stream, under the name ""."""
    points: int | None = None
    """Training rows that the tail was fitted to; None where an older model does not say."""

    @property
    def extrapolated_above(self) -> float:
        """Surprise above which the tail is a fitted line, for few training rows were stranger."""
        return float(self.tail.surprise_knots[-1])

    def surprise(self, error_BVR: Tensor) -> Tensor:
        """Return -10 log10 of the share of the stream's training rows that are stranger."""
        return self.of_points(self.reach.point_errors(error_BVR))

    def of_points(self, error_BV: Tensor) -> Tensor:
        return self.tail.surprise((error_BV - self.reference_V).amax(dim=1))

    def thresholds(self, names: Sequence[str], points_per_incident: FloatArray) -> FloatArray:
        """Return the alert threshold of each series, for so many of its points for each false incident."""
        sizes_NK = self.clusters_of_series.take(names, self.cluster_points)
        return alert_threshold(points_per_incident, sizes_NK)

    def online_tail(self, device: torch.device, pace: Pace, *, accepting: bool = False) -> OnlineTail:
        """Return the recalibration for series that go on, each from where its training rows leave it."""
        return OnlineTail(device, pace, self.quantiles_of_series, accepting=accepting)

    def to(self, device: torch.device) -> "Judgement":
        reach = replace(self.reach, fading_VR=self.reach.fading_VR.to(device))
        return replace(self, reach=reach, reference_V=self.reference_V.to(device), tail=self.tail.to(device))


@dataclass(frozen=True)
class Calibration:
    """What the training rows say about rates and usual strangeness."""

    interval_ms: float
    """Median time between two points of a series, or between two records of features."""
    judgements: Mapping[Delay, Judgement]
    interval_of_series: Mapping[str, float] = field(default_factory=dict)

    def interval_of(self, series: str) -> float | None:
        """Return a series' own interval in ms, or None where it was not there in training."""
        return self.interval_of_series.get(series)

    def of(self, delay: Delay) -> Judgement:
        """Return the judgement for a delay.

        Raises:
            ValueError: the model was not calibrated for it.
        """
        if delay not in self.judgements:
            known = ", ".join(str(each) for each in self.judgements if each is not None)
            raise ValueError(f"the model was calibrated for delays of {known} points, not {delay}")
        return self.judgements[delay]


class Detector:
    """Reads windows that end in the row to judge; [B, 1, F] for records of features."""

    def __init__(
        self,
        spec: ModelSpec,
        views: Sequence[View],
        scaling: Scaling,
        calibration: Calibration,
        training: Mapping[str, Any],
    ) -> None:
        """`training` says what the detector was trained on; it only travels along."""
        self.spec = spec
        self.training = training
        self.views = [view.eval() for view in views]
        self.scaling = scaling
        self.calibration = calibration
        self.golden_BV: FloatArray | None = None
        """What it made of the golden batch where it was made; None: that is not known. See `golden`."""
        self._reader = Reader(self.views, spec.window)

    @property
    def name(self) -> str:
        """Its architectures, for people."""
        return " + ".join(dict.fromkeys(view.config.architecture for view in self.views))

    @property
    def device(self) -> torch.device:
        """Where it reads."""
        return self._reader.device

    def to(self, device: torch.device) -> "Detector":
        """Move it; returns itself."""
        if device == self.device:
            # Making the reader is a third of what loading a model costs.
            return self
        self.views = [view.to(device) for view in self.views]
        self._reader = Reader(self.views, self.spec.window)
        moved = {delay: judgement.to(device) for delay, judgement in self.calibration.judgements.items()}
        self.calibration = replace(self.calibration, judgements=moved)
        return self

    def points_to_accept(self, accept_after_ms: float | None, interval_ms: FloatArray) -> FloatArray:
        """Return how many points of a series make this time, or three windows where it makes fewer; None: never.

        One strange point may make all windows strange that hold it, and of settled scores so many rows on either
        side: only what outlasts them is a level.
        """
        after_ms = math.inf if accept_after_ms is None else accept_after_ms
        return np.maximum(after_ms / interval_ms, 3.0 * self.spec.window)

    def errors(self, z_BTF: Tensor) -> Tensor:
        """Return every view's error of each window of scaled values, error_BV.

        It is a logarithm, by the error that a training row in a hundred exceeds. So it means the same under another
        model, and rows that one has read are judged with rows that the next one reads.
        """
        return self._reader.errors(z_BTF.clamp(-LIMIT, LIMIT))

    @torch.no_grad()
    def explain(self, z_BTF: Tensor) -> Explanation:
        """Explain windows of scaled values by the view that finds each strangest."""
        z_BTF = z_BTF.clamp(-LIMIT, LIMIT)
        row_B = torch.arange(len(z_BTF), device=z_BTF.device)
        view_B = torch.zeros_like(row_B)
        if len(self.views) > 1:
            view_B = (self._reader.errors(z_BTF) - self.calibration.of(0).reference_V).argmax(dim=1)
        each = [view.explain(z_BTF) for view in self.views]

        def of_strangest(part: str) -> Tensor:
            return torch.stack([getattr(found, part) for found in each])[view_B, row_B]

        return Explanation(
            of_strangest("expected_BF"),
            torch.stack([view.band_F for view in self.views])[view_B],
            of_strangest("share_BF"),
            of_strangest("back_B"),
        )

    def surprise(self, z_BTF: Tensor) -> Tensor:
        """Judge the newest row of each window as if nothing had come before the window."""
        return self.calibration.of(0).of_points(self.errors(z_BTF))

    @torch.no_grad()
    def score_series(
        self, name: str, x_NF: FloatArray, delays: Sequence[Delay] = (0, None)
    ) -> dict[Delay, FloatArray]:
        """Return the score of every row of a whole series, for each delay; unclipped and finite.

        The series is taken to have stood still before its first row. Scores are calibrated by training alone.

        Raises:
            ValueError: a value is not finite.
        """
        check_finite(x_NF, self.spec.features)
        own = self.scaling.for_series(name)
        center_F, scale_F = self.scaling.for_new(x_NF[: self.spec.window]) if own is None else own
        z_NF = padded(Scaling.apply(x_NF, center_F, scale_F), self.spec.window - 1)
        error_NV = self.errors_of_rows(z_NF)
        scores = {}
        for delay in delays:
            judgement = self.calibration.of(delay)
            surprise_N = judgement.of_points(judgement.reach.point_errors_of_series(error_NV))
            scores[delay] = surprise_N.cpu().numpy().astype(np.float64)
        return scores

    @torch.no_grad()
    def score_rows(self, x_NF: FloatArray) -> FloatArray:
        """Return the score of every record of features; unclipped and finite.

        Raises:
            ValueError: a value is not finite.
        """
        check_finite(x_NF, self.spec.features)
        z_NF = Scaling.apply(x_NF, self.scaling.center_F, self.scaling.scale_F)
        surprise_N = self.calibration.of(0).of_points(self.errors_of_rows(z_NF))
        return surprise_N.cpu().numpy().astype(np.float64)

    def errors_of_rows(self, z_NF: npt.NDArray[np.float32]) -> Tensor:
        """Return every view's error of each window of a scaled series, error_NV."""
        return errors_of_rows(self._reader, self.spec.window, z_NF)


def check_finite(x_NF: FloatArray, features: Sequence[str]) -> None:
    """Refuse rows with a value that is no number.

    Raises:
        ValueError: there is one; the text names the first.
    """
    finite_NF = np.isfinite(x_NF)
    # Where all are, which is nearly always, nothing is looked for.
    if not finite_NF.all():
        bad = np.argwhere(~finite_NF)
        row, column = bad[0].tolist()
        raise ValueError(
            f"row {row:,} holds {x_NF[row, column]} as {features[column]!r}, the first of {len(bad):,} "
            "such values; a model needs finite ones: fill them or leave those rows out"
        )


def errors_of_rows(reader: Reader, window: int, z_NF: npt.NDArray[np.float32]) -> Tensor:
    """Return every view's error of each window of `window` rows of a scaled series, error_NV."""
    rows_NF = torch.from_numpy(z_NF).to(reader.device).clamp_(-LIMIT, LIMIT)
    return torch.cat([reader.errors(part_BTF) for part_BTF in windows_of_rows(rows_NF, window)])


def windows_of_rows(rows_NF: Tensor, window: int) -> Iterator[Tensor]:
    """Yield all windows of a series, z_BTF, in chunks that stay in a processor's cache; nothing is copied."""
    features = rows_NF.shape[1]
    # A single row of so many values is a large image, and what a network makes of 16 takes gigabytes.
    least = 1 if window == 1 else 16
    count, chunk = len(rows_NF) - window + 1, max(least, _CHUNK_VALUES // (window * features))
    every_NTF = rows_NF.contiguous().as_strided((count, window, features), (features, features, 1))
    yield from torch.split(every_NTF, chunk)
