"""A detector: scaling, a view, and the calibration that gives its errors a meaning.

Legend: B windows, N training windows, T window length, F features, C channels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import architectures
from models.calibration import (
    SERIES_PACE,
    STREAM_PACE,
    OnlineTail,
    Pace,
    cluster_size,
    fit_pooled_tail,
    quantiles,
)
from models.dataset import Columns, Windows, checked, split_by_time, usable_rows, windows_of
from models.scaling import LIMIT, Scaling, fit_features, fit_series
from models.spec import ModelSpec
from models.training import split_options, train
from models.views import Inputs, View, ViewConfig

_HELD_OUT = 0.15
_CLUSTER_LEVEL = 25.0
_CLUSTER_GAP = 5
_LEAST_ROWS = 50
_CALIBRATION_VALUES = 2**25
"""Most errors kept to calibrate by, 128 MiB of them; of more rows, the latest of each series serve."""


@dataclass(frozen=True)
class PointScores:
    """What a detector says of the newest row of each window, on its device."""

    surprise_B: Tensor
    """-10 log10 of the share of the stream's training points with a larger error."""
    expected_BF: Tensor
    """Reconstructed values, in scaled units."""
    share_BF: Tensor
    """Each feature's part in the error; rows sum to one."""


@dataclass(frozen=True)
class Calibration:
    """What the training rows say about rates and usual strangeness."""

    interval_ms: float
    """Median time between two points of a series, or between two records of features."""
    cluster_points: float
    """Points that an incident holds on average."""
    interval_of_series: Mapping[str, float] = field(default_factory=dict)
    quantiles_of_series: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Where each series' `OnlineTail` starts; of features, that of the stream, under the name ""."""

    def interval_of(self, series: str) -> float | None:
        """Return a series' own interval in ms, or None where it was not there in training."""
        return self.interval_of_series.get(series)

    def online_tail(self, device: torch.device, pace: Pace) -> OnlineTail:
        """Return the recalibration for series that go on, each from where its training rows leave it."""
        return OnlineTail(device, pace, self.quantiles_of_series)


class Detector:
    """Scores windows that end in the row to judge; [B, 1, F] for records of features."""

    def __init__(
        self,
        spec: ModelSpec,
        view: View,
        scaling: Scaling,
        calibration: Calibration,
        training: Mapping[str, Any],
    ) -> None:
        """`training` says what the detector was trained on; it only travels along."""
        self.spec = spec
        self.training = training
        self.view = view.eval()
        self.scaling = scaling
        self.calibration = calibration

    def to(self, device: torch.device) -> "Detector":
        """Move it; returns itself."""
        self.view = self.view.to(device)
        assert self.view.tail is not None
        self.view.tail = self.view.tail.to(device)
        return self

    def score(self, z_BTF: Tensor) -> PointScores:
        """Judge the newest row of each window of scaled values, by itself and what came before it."""
        tail = self.view.tail
        assert tail is not None
        e_BC, expected_BF = self.view.errors(z_BTF.clamp(-LIMIT, LIMIT))
        error_B, share_BF = self.view.point_errors(e_BC)
        return PointScores(tail.surprise(error_B), expected_BF, share_BF)


def check_options(architecture: str, options: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: no such architecture, or no such option of it or of the training.
    """
    architectures.configure(architecture, split_options(options)[1])


def fit_detector(
    spec: ModelSpec,
    architecture: str,
    options: Mapping[str, Any],
    columns: Columns,
    *,
    device: torch.device,
    progress: Callable[[float], None] = lambda share: None,
) -> Detector:
    """Scale, train and calibrate on each series' rows, which may hold some anomalies.

    Args:
        options: of the architecture and of `TrainingConfig`, by name.
        columns: the series; for features one entry of independent rows.

    Raises:
        ValueError: too few rows, or an option that is not there.
    """
    training, chosen = split_options(options)
    # All options are written out, so that a later default does not change what a saved model is built from.
    own_options = dataclasses.asdict(architectures.configure(architecture, chosen))
    usable = _usable(spec, columns)
    torch.manual_seed(training.seed)
    inputs: Inputs = "values and differences" if spec.kind == "series" else "values"
    if spec.kind == "series":
        scaling = fit_series({name: x_TF for name, (_, x_TF) in usable.items()})
        pairs = [scaling.for_series(name) for name in usable]
    else:
        scaling = fit_features(next(iter(usable.values()))[1])
        pairs = [(scaling.center_F, scaling.scale_F)]
    scaled = [
        Scaling.apply(x_TF, *pair)
        for (_, x_TF), pair in zip(usable.values(), pairs, strict=True)
        if pair is not None
    ]
    windows = windows_of(scaled, spec.window)
    view = View(spec, ViewConfig(architecture, own_options, inputs)).to(device)
    if view.differences:
        view.step_F.copy_(torch.from_numpy(_usual_steps(scaled)))
    learning_N, stopping_N = _split(scaled, spec)
    trained = train(view, windows, learning_N, stopping_N, training, progress)
    calibration = _calibrate(view, windows, spec, usable)
    trained_on = {
        "rows": int(sum(len(x_TF) for _, x_TF in usable.values())),
        "first_ms": int(min(time_ms_T.min() for time_ms_T, _ in usable.values())),
        "last_ms": int(max(time_ms_T.max() for time_ms_T, _ in usable.values())),
        **dataclasses.asdict(trained),
        **dataclasses.asdict(training),
    }
    return Detector(spec, view, scaling, calibration, trained_on)


def _usable(spec: ModelSpec, columns: Columns) -> Columns:
    if spec.kind == "series":
        return checked(columns, spec.window)
    if not columns:
        raise ValueError(f"there are no records; training needs {_LEAST_ROWS}: let some arrive")
    (name, (time_ms_N, x_NF)), *_ = columns.items()
    finite_N = usable_rows(x_NF)
    if finite_N.sum() < _LEAST_ROWS:
        raise ValueError(f"{int(finite_N.sum())} usable records; training needs {_LEAST_ROWS}: let more arrive")
    return {name: (time_ms_N[finite_N], x_NF[finite_N])}


def _usual_steps(scaled: list[Any]) -> Any:
    """Return the standard deviation of each feature's first differences, never zero."""
    step_NF = np.concatenate([np.diff(z_TF, axis=0) for z_TF in scaled]).astype(np.float64)
    std_F = step_NF.std(axis=0)
    return np.where(std_F > 1e-6, std_F, 1.0).astype(np.float32)


def _split(scaled: list[Any], spec: ModelSpec) -> tuple[Any, Any]:
    """Return the windows of the earlier part of every series, and those of its last part."""
    learning, stopping, first = [], [], 0
    for z_TF in scaled:
        count = max(len(z_TF) - spec.window + 1, 0)
        early, late = split_by_time(count, _HELD_OUT)
        learning.append(np.arange(first, first + count)[early])
        stopping.append(np.arange(first, first + count)[late])
        first += count
    return np.concatenate(learning), np.concatenate(stopping)


@torch.no_grad()
def _calibrate(view: View, windows: Windows, spec: ModelSpec, usable: Columns) -> Calibration:
    """Measure each feature's usual error, the tail of the points' errors, and how they cluster."""
    device = view.step_F.device
    latest = _latest_windows(
        [max(len(x_TF) - spec.window + 1, 0) for _, x_TF in usable.values()], len(view.usual_C)
    )
    chosen_N = np.concatenate(latest)
    parts = [
        view.errors(torch.from_numpy(windows.take(chosen_B)).to(device).clamp(-LIMIT, LIMIT))[0].cpu()
        for chosen_B in np.array_split(chosen_N, max(1, len(chosen_N) // 1024))
    ]
    e_NC = torch.cat(parts)
    high_C = torch.from_numpy(np.quantile(e_NC.numpy(), 0.99, axis=0).astype(np.float32))
    view.usual_C.copy_((high_C + 0.1 * high_C.median()).clamp(min=1e-9))
    error_N = view.point_errors(e_NC.to(device))[0].cpu().numpy().astype(np.float64)
    view.tail = fit_pooled_tail(error_N).to(device)
    surprise_N = view.tail.surprise(torch.from_numpy(error_N).float().to(device)).cpu().numpy().astype(np.float64)
    if spec.kind == "features":
        time_ms_N = next(iter(usable.values()))[0]
        interval_ms = max(float(time_ms_N.max() - time_ms_N.min()) / max(len(time_ms_N) - 1, 1), 1e-3)
        usual = quantiles(surprise_N, STREAM_PACE)
        return Calibration(interval_ms, 1.0, {"": interval_ms}, {"": usual})
    return _series_calibration(usable, surprise_N, [len(own_N) for own_N in latest])


def _latest_windows(counts: list[int], channels: int) -> list[Any]:
    """Return for each series the numbers of its latest windows; of all together, so many as memory allows."""
    each = max(1, _CALIBRATION_VALUES // (channels * len(counts)))
    ends = np.cumsum(counts)
    return [np.arange(end - min(count, each), end) for count, end in zip(counts, ends, strict=True)]


def _series_calibration(usable: Columns, surprise_N: Any, counts: list[int]) -> Calibration:
    intervals: dict[str, float] = {}
    usual: dict[str, tuple[float, float]] = {}
    first, points, clusters = 0, 0, 0
    for (name, (time_ms_T, _)), count in zip(usable.items(), counts, strict=True):
        own_N = surprise_N[first : first + count]
        first += count
        intervals[name] = max(float(np.median(np.diff(time_ms_T))), 1.0)
        usual[name] = quantiles(own_N, SERIES_PACE)
        hot, runs = cluster_size(own_N, _CLUSTER_LEVEL, _CLUSTER_GAP)
        points, clusters = points + hot, clusters + runs
    # A handful of pretended single points keeps a short history from claiming huge clusters.
    cluster_points = (points + 5) / (clusters + 5)
    return Calibration(float(np.median(list(intervals.values()))), cluster_points, intervals, usual)
