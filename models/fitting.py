"""From training rows to a detector: scale, train each view, calibrate.

Legend: N training rows, T window length, F features, C channels, V views.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.calibration import (
    CLUSTER_LEVELS,
    SERIES_PACE,
    STREAM_PACE,
    cluster_sizes,
    fit_pooled_tail,
    quantiles,
    rescored,
)
from models.dataset import (
    Columns,
    TooFewRows,
    check_features,
    checked,
    padded,
    split_by_time,
    usable_rows,
    windows_of,
)
from models.detector import Calibration, Detector, Judgement, errors_of_rows, windows_of_rows
from models.mapping import DELAYS, Delay, Reach, reach_of
from models.plan import Plan
from models.reader import Reader
from models.scaling import LIMIT, Scaling, fit_features, fit_series
from models.spec import Kind, ModelSpec
from models.training import store_and_trim, train
from models.views import DIFFERENCE_WEIGHT, View

_HELD_OUT = 0.15
_LEAST_ROWS = 50
_LEAST_WINDOWS = 100
"""With fewer windows that lie whole within their series, those that reach back before it count too."""
_USUAL = 0.99
_CALIBRATION_VALUES = 2**25
"""Most errors kept to calibrate by, 128 MiB of them; of more rows, the latest of each series serve."""

Scaled = list[npt.NDArray[np.float32]]


def fit_detector(
    kind: Kind,
    features: Sequence[str],
    plan: Plan,
    columns: Columns,
    *,
    device: torch.device,
    delays: Iterable[Delay] = (),
    progress: Callable[[float], None] = lambda share: None,
) -> Detector:
    """Scale, train and calibrate on each series' rows, which may hold some anomalies.

    Args:
        columns: the series; for features one entry of independent rows.
        delays: what to calibrate for beside the usual `DELAYS`.

    Raises:
        ValueError: too few rows (`TooFewRows`), a feature without a finite value, or times that do not go on.
    """
    spec = ModelSpec(kind, tuple(features), plan.window)
    usable = _usable(spec, plan, columns)
    if kind == "series":
        scaling = fit_series({name: x_TF for name, (_, x_TF) in usable.items()})
        pairs = [scaling.for_series(name) for name in usable]
    else:
        scaling = fit_features(next(iter(usable.values()))[1])
        pairs = [(scaling.center_F, scaling.scale_F)]
    scaled = [
        Scaling.apply(x_TF, *pair).clip(-LIMIT, LIMIT)
        for (_, x_TF), pair in zip(usable.values(), pairs, strict=True)
        if pair is not None
    ]
    views, trained = [], []
    for number, config in enumerate(plan.views):
        torch.manual_seed(plan.training.seed)
        config = dataclasses.replace(config, stored=min(config.stored, sum(len(z_TF) for z_TF in scaled)))
        view = View(len(features), config).to(device)
        view.step_F.copy_(torch.from_numpy(_usual_steps(scaled) / DIFFERENCE_WEIGHT))
        windows = windows_of(scaled, config.window)
        parts = _split([len(z_TF) for z_TF in scaled], config.window)
        if view.nearest is not None:
            usual_N = store_and_trim(view, windows, plan.training.seed)
            parts = (parts[0][usual_N[parts[0]]], parts[1][usual_N[parts[1]]])
        seconds = plan.training.max_seconds / len(plan.views)
        trained.append(
            train(
                view,
                windows,
                *parts,
                dataclasses.replace(plan.training, max_seconds=seconds),
                lambda share, number=number: progress((number + share) / (len(plan.views) + 1)),  # type: ignore[misc]
            )
        )
        views.append(view)
    calibration = _calibrate(spec, views, scaled, usable, {*DELAYS, *delays} if kind == "series" else {0})
    progress(1.0)
    trained_on = {
        "rows": int(sum(len(x_TF) for _, x_TF in usable.values())),
        "first_ms": int(min(time_ms_T.min() for time_ms_T, _ in usable.values())),
        "last_ms": int(max(time_ms_T.max() for time_ms_T, _ in usable.values())),
        "views": [dataclasses.asdict(each) for each in trained],
        **dataclasses.asdict(plan.training),
    }
    return Detector(spec, views, scaling, calibration, trained_on)


def _usable(spec: ModelSpec, plan: Plan, columns: Columns) -> Columns:
    if spec.kind == "series":
        return checked(columns, min(view.window for view in plan.views), spec.features)
    if not columns:
        raise TooFewRows(f"there are no records; training needs {_LEAST_ROWS}")
    (name, (time_ms_N, x_NF)), *_ = columns.items()
    finite_N = usable_rows(x_NF)
    if finite_N.sum() < _LEAST_ROWS:
        check_features([x_NF], spec.features)
        raise TooFewRows(f"{int(finite_N.sum())} records with finite values; training needs {_LEAST_ROWS}")
    return {name: (time_ms_N[finite_N], x_NF[finite_N])}


def _usual_steps(scaled: Scaled) -> npt.NDArray[np.float32]:
    """Return the standard deviation of each feature's first differences, never zero."""
    count = sum(len(z_TF) - 1 for z_TF in scaled)
    square_F = sum(np.square(np.diff(z_TF.astype(np.float64), axis=0)).sum(axis=0) for z_TF in scaled) / max(
        count, 1
    )
    mean_F = sum(z_TF[-1].astype(np.float64) - z_TF[0] for z_TF in scaled) / max(count, 1)
    std_F = np.sqrt(np.maximum(square_F - np.square(mean_F), 0))
    return np.where(std_F > 1e-6, std_F, 1.0).astype(np.float32)


def _split(lengths: Sequence[int], window: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of the earlier part of every series, and those of its last part; whole windows if it can."""
    learning, stopping, first = [], [], 0
    for length, begin in zip(lengths, _first_whole(lengths, window), strict=True):
        early, late = split_by_time(length - begin, _HELD_OUT)
        rows = np.arange(first + begin, first + length)
        learning.append(rows[early])
        stopping.append(rows[late])
        first += length
    return np.concatenate(learning), np.concatenate(stopping)


def _first_whole(lengths: Sequence[int], window: int) -> list[int]:
    """Return for each series the first row to learn from."""
    whole = sum(max(length - window + 1, 0) for length in lengths)
    return [min(window - 1, length) if whole >= _LEAST_WINDOWS else 0 for length in lengths]


@torch.no_grad()
def _calibrate(
    spec: ModelSpec, views: Sequence[View], scaled: Scaled, usable: Columns, delays: set[Delay]
) -> Calibration:
    """Measure each view's usual errors, the tail of the points' errors for each delay, and how they cluster."""
    latest = _latest([len(z_TF) for z_TF in scaled], max(len(view.usual_C) for view in views))
    history = [
        padded(z_TF, spec.window - 1)[-(rows + spec.window - 1) :]
        for z_TF, rows in zip(scaled, latest, strict=True)
    ]
    begins = _first_whole(latest, spec.window)
    for view in views:
        found = [_usual_errors(view, spec.window, z_TF) for z_TF in history]
        high_C, band_F = (
            _high(torch.cat([part[begin:] for part, begin in zip(parts, begins, strict=True)]))
            for parts in zip(*found, strict=True)
        )
        view.set_usual(high_C.to(view.step_F.device), band_F.to(view.step_F.device))
    reader = Reader(views, spec.window)
    errors = [errors_of_rows(reader, spec.window, z_TF) for z_TF in history]
    high_V = _high_errors(reach_of([view.config for view in views], 0, errors[0].device), errors, begins)
    for view, high in zip(views, high_V, strict=True):
        view.high_error.copy_(high)
    errors = [error_NV - high_V for error_NV in errors]
    judgements = {
        delay: _judgement(spec, views, errors, begins, delay, list(usable)) for delay in _in_order(delays)
    }
    if spec.kind == "features":
        time_ms_N = next(iter(usable.values()))[0]
        interval_ms = max(float(time_ms_N.max() - time_ms_N.min()) / max(len(time_ms_N) - 1, 1), 1e-3)
        return Calibration(interval_ms, judgements, {"": interval_ms})
    intervals = {name: max(float(np.median(np.diff(time_ms_T))), 1.0) for name, (time_ms_T, _) in usable.items()}
    return Calibration(float(np.median(list(intervals.values()))), judgements, intervals)


def _latest(lengths: Sequence[int], channels: int) -> list[int]:
    """Return how many of each series' latest rows serve; of all together, as many as memory allows."""
    each = max(1, _CALIBRATION_VALUES // (channels * len(lengths)))
    return [min(length, each) for length in lengths]


def _usual_errors(view: View, window: int, z_NF: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return (each channel's error e_NC, how far each newest value lies from the expected one off_NF)."""
    rows_NF = torch.from_numpy(z_NF).to(view.step_F.device)[window - view.config.window :]
    e_BC, off_BF = [], []
    for part_BTF in windows_of_rows(rows_NF, view.config.window):
        of_part_BC, of_part_BF = view.off(part_BTF)
        e_BC.append(of_part_BC.cpu())
        off_BF.append(of_part_BF.cpu())
    return torch.cat(e_BC), torch.cat(off_BF)


def _high(error_NC: Tensor) -> Tensor:
    return torch.from_numpy(np.quantile(error_NC.numpy(), _USUAL, axis=0).astype(np.float32))


def _high_errors(reach: Reach, errors: Sequence[Tensor], begins: Sequence[int]) -> Tensor:
    """Return the point error that one training row in a hundred exceeds, of each view."""
    points = [reach.point_errors_of_series(each)[begin:] for each, begin in zip(errors, begins, strict=True)]
    return _high(torch.cat(points).cpu()).to(points[0].device)


def _in_order(delays: set[Delay]) -> list[Delay]:
    return sorted(delays, key=lambda delay: np.inf if delay is None else delay)


def _judgement(
    spec: ModelSpec,
    views: Sequence[View],
    errors: Sequence[Tensor],
    begins: Sequence[int],
    delay: Delay,
    names: Sequence[str],
) -> Judgement:
    device = views[0].step_F.device
    reach = reach_of([view.config for view in views], delay, device)
    points = [each[begin:] for each, begin in zip(map(reach.point_errors_of_series, errors), begins, strict=True)]
    offset_V = torch.tensor([view.config.offset for view in views], device=device)
    reference_V = _high(torch.cat(points).cpu()).to(device) + offset_V
    strange_N = (torch.cat(points) - reference_V).amax(dim=1)
    tail = fit_pooled_tail(strange_N.cpu().numpy().astype(np.float64)).to(device)
    surprise_N = tail.surprise(strange_N).cpu().numpy().astype(np.float64)
    if spec.kind == "features":
        single = (1.0,) * len(CLUSTER_LEVELS)
        usual = {"": quantiles(surprise_N, STREAM_PACE)}
        return Judgement(reach, reference_V, tail, single, {}, usual, len(surprise_N))
    each = np.split(surprise_N, np.cumsum([len(part) for part in points])[:-1])
    usual = {name: quantiles(own_N, SERIES_PACE) for name, own_N in zip(names, each, strict=True)}
    # Clusters are those of scores, not of surprise: each series by its own measure, as a worker has it.
    pooled, own = cluster_sizes(
        [rescored(own_N, usual[name], SERIES_PACE) for name, own_N in zip(names, each, strict=True)]
    )
    return Judgement(reach, reference_V, tail, pooled, dict(zip(names, own, strict=True)), usual, len(surprise_N))
