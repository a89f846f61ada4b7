"""From training rows to a detector: scale, train each view, calibrate.

Legend: N training rows, T window length, F features, C channels, V views.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import IntArray
from models.by_series import BySeries
from models.calibration import (
    CLUSTER_LEVELS,
    cluster_sizes,
    fit_pooled_tail,
)
from models.dataset import (
    Columns,
    TooFewRows,
    check_features,
    checked,
    padded,
    pieces_of,
    split_by_time,
    usable_rows,
    windows_of,
)
from models.detector import Calibration, Detector, Judgement, errors_of_rows, windows_of_rows
from models.helping import TrainingTask
from models.mapping import DELAYS, Delay, Reach, reach_of
from models.online_tail import SERIES_PACE, STREAM_PACE, quantiles, rescored
from models.plan import LEAST_WINDOWS, Plan, whole_windows
from models.ranks import ALONE, Ranks
from models.reader import Reader
from models.resume import Unfinished, hash_of
from models.scaling import Scaling, fit_features, fit_images, fit_series, tamed
from models.spec import ImageShape, Kind, ModelSpec
from models.training import Trained, solve, store_and_trim, train
from models.views import DIFFERENCE_WEIGHT, View, ViewConfig

_HELD_OUT = 0.15
LEAST_RECORDS = 50
_USUAL = 0.99
_LONG_HISTORY = 40
"""Windows' worth of rows from which on what is found in the rows learned is what comes after."""
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
    unfinished: Unfinished | None = None,
    begins_ms: Mapping[str, Sequence[int]] | None = None,
    least_records: int = LEAST_RECORDS,
    ranks: Ranks = ALONE,
    image: ImageShape | None = None,
) -> Detector:
    """Scale, train and calibrate on each series' rows, which may hold some anomalies.

    Args:
        columns: the series; for features and images one entry of independent rows.
        begins_ms: where something was taken out of a series, the first event time after it: no window holds rows
            of both sides.
        delays: what to calibrate for beside the usual `DELAYS`.
        unfinished: where the training is kept while it lasts; it goes on from there if it is the same one.
        least_records: of features and images, fewer are refused; of fewer than the default, scores mean little.
        ranks: processes that train together, of which this is the first; the others `help_training`.
        image: the size of images, whose values are the features.

    Raises:
        ValueError: too few rows (`TooFewRows`), a feature without a finite value, or times that do not go on.
    """
    begins_ms = begins_ms or {}
    usable = _usable(kind, plan, columns, features, begins_ms, least_records)
    pieces = [pieces_of(time_ms_T, begins_ms.get(name, ())) for name, (time_ms_T, _) in usable.items()]
    plan = plan.fitted_to([piece.stop - piece.start for own in pieces for piece in own])
    spec = ModelSpec(kind, tuple(features), plan.window, image)
    if unfinished:
        about: dict[str, Any] = {
            "kind": kind,
            "features": list(features),
            "plan": dataclasses.asdict(plan),
            "device": device.type,
        }
        if begins_ms:
            about["begins_ms"] = {name: list(begins) for name, begins in begins_ms.items()}
        unfinished.begin(hash_of(about, usable))
    scaling, whole = _scaled(kind, plan, usable, image)
    scaled = [z_TF[piece] for z_TF, own in zip(whole, pieces, strict=True) for piece in own]
    views, trained = [], []
    for number, config in enumerate(plan.views):

        def of_all(share: float, number: int = number) -> None:
            progress((number + share) / (len(plan.views) + 1))

        view, course = _trained_view(
            f"view{number}", config, plan, scaled, device, of_all, unfinished, ranks, image
        )
        views.append(view)
        trained.append(course)
    with one_thread():
        asked: set[Delay] = {*DELAYS, *delays} if kind == "series" else {0}
        calibration = _calibrate(spec, views, scaled, usable, asked, [len(own) for own in pieces])
    progress(1.0)
    trained_on = {
        "rows": int(sum(len(x_TF) for _, x_TF in usable.values())),
        "first_ms": int(min(time_ms_T.min() for time_ms_T, _ in usable.values())),
        "last_ms": int(max(time_ms_T.max() for time_ms_T, _ in usable.values())),
        "views": [dataclasses.asdict(each) for each in trained],
        **dataclasses.asdict(plan.training),
    }
    return Detector(spec, views, scaling, calibration, trained_on)


def _scaled(kind: Kind, plan: Plan, usable: Columns, image: ImageShape | None) -> tuple[Scaling, Scaled]:
    """Return how values are scaled, and the scaled rows of each series."""
    if image is not None:
        ((_, x_NF),) = usable.values()
        scaling = fit_images(x_NF, image, plan.scaling)
        return scaling, [Scaling.apply(x_NF, scaling.center_F, scaling.scale_F)]
    if kind == "features":
        ((_, x_NF),) = usable.values()
        scaling = fit_features(x_NF, plan.scaling)
        return scaling, [Scaling.apply(x_NF, scaling.center_F, scaling.scale_F)]
    near = {name: tamed(x_TF) for name, (_, x_TF) in usable.items()}
    scaling = fit_series(near, plan.scaling)
    return scaling, [
        Scaling.apply(x_TF, center_F, scale_F)
        for x_TF, center_F, scale_F in zip(near.values(), *scaling.of_all, strict=True)
    ]


def _trained_view(
    name: str,
    config: ViewConfig,
    plan: Plan,
    scaled: Scaled,
    device: torch.device,
    progress: Callable[[float], None],
    unfinished: Unfinished | None,
    ranks: Ranks,
    image: ImageShape | None,
) -> tuple[View, Trained]:
    torch.manual_seed(plan.training.seed)
    features, stored = scaled[0].shape[1], min(config.stored, sum(map(len, scaled)))
    view = View(features, dataclasses.replace(config, stored=stored), image).to(device)
    if image is None:
        view.step_F.copy_(torch.from_numpy(_usual_steps(scaled) / DIFFERENCE_WEIGHT))
    windows = windows_of(scaled, config.window)
    parts = _split([len(z_TF) for z_TF in scaled], config.window)
    if view.nearest is not None:
        usual_N = store_and_trim(view, windows, plan.training.seed)
        parts = (parts[0][usual_N[parts[0]]], parts[1][usual_N[parts[1]]])
    seconds = plan.training.max_seconds / len(plan.views)
    training = dataclasses.replace(plan.training, max_seconds=seconds)
    if ranks.world_size > 1 and not view.network.closed_form:
        ranks.broadcast(TrainingTask(features, config, view.step_F.cpu().numpy(), scaled, parts, training, image))
    return view, train(view, windows, *parts, training, progress, unfinished, name, ranks=ranks)


def _usable(
    kind: Kind,
    plan: Plan,
    columns: Columns,
    features: Sequence[str],
    begins_ms: Mapping[str, Sequence[int]],
    least_records: int,
) -> Columns:
    if kind == "series":
        return checked(columns, plan.least_window, features, plan.least_rows, begins_ms)
    if not columns:
        raise TooFewRows(f"there are no records; training needs {least_records}")
    (name, (time_ms_N, x_NF)), *_ = columns.items()
    finite_N = usable_rows(x_NF)
    if finite_N.sum() < least_records:
        check_features([x_NF], features)
        raise TooFewRows(f"{int(finite_N.sum())} records with finite values; training needs {least_records}")
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


def _split(lengths: Sequence[int], window: int) -> tuple[IntArray, IntArray]:
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
    """Return for each series the first row to learn from: where few windows are whole, those before count too."""
    enough = whole_windows(lengths, window) >= LEAST_WINDOWS
    return [min(window - 1, length) if enough else 0 for length in lengths]


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread: a chunk of windows is too small for two.

    They would wait for each other at each of some hundred thousand small steps, and each wait costs a slice of the
    scheduler's time wherever another process wants the same core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _calibrate(
    spec: ModelSpec,
    views: Sequence[View],
    scaled: Scaled,
    usable: Columns,
    delays: set[Delay],
    pieces: Sequence[int],
) -> Calibration:
    """Measure each view's usual errors, the tail of the points' errors for each delay, and how they cluster.

    `scaled` holds so many `pieces` of each series.
    """
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
    fresh = _fresh_errors(views, scaled) if sum(map(len, scaled)) < _LONG_HISTORY * spec.window else None
    judgements = {
        delay: _judgement(spec, views, errors, begins, fresh, delay, list(usable), pieces)
        for delay in _in_order(delays)
    }
    if spec.kind != "series":
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


def _fresh_errors(views: Sequence[View], scaled: Scaled) -> list[list[Tensor]] | None:
    """Return the errors of each half of a series under views that have learned the other halves, [parts of N, V].

    In a short history a network knows the very noise of the rows that it learned, and what is found in them is less
    than what comes after. None: where that cannot be had, of networks that are no matter of moments.
    """
    if any(not view.network.closed_form or view.nearest is not None for view in views):
        return None
    window = max(view.config.window for view in views)
    halves = [[z_TF[: len(z_TF) // 2] for z_TF in scaled], [z_TF[len(z_TF) // 2 :] for z_TF in scaled]]
    if min(whole_windows([len(z) for z in half], window) for half in halves) < 2:
        return None
    found: list[list[Tensor]] = [[] for _ in scaled]
    for known, unknown in (halves, halves[::-1]):
        others = [copy.deepcopy(view) for view in views]
        for other in others:
            learned_N = np.concatenate(_split([len(z_TF) for z_TF in known], other.config.window))
            solve(other, windows_of(known, other.config.window), learned_N, np.random.default_rng(0))
        reader = Reader(others, window)
        for parts, z_TF in zip(found, unknown, strict=True):
            if len(z_TF) >= window:
                parts.append(errors_of_rows(reader, window, z_TF))
    return found


def _in_order(delays: set[Delay]) -> list[Delay]:
    return sorted(delays, key=lambda delay: np.inf if delay is None else delay)


def _judgement(
    spec: ModelSpec,
    views: Sequence[View],
    errors: Sequence[Tensor],
    begins: Sequence[int],
    fresh: Sequence[Sequence[Tensor]] | None,
    delay: Delay,
    names: Sequence[str],
    pieces: Sequence[int],
) -> Judgement:
    device = views[0].step_F.device
    reach = reach_of([view.config for view in views], delay, device)
    points = [each[begin:] for each, begin in zip(map(reach.point_errors_of_series, errors), begins, strict=True)]
    offset_V = torch.tensor([view.config.offset for view in views], device=device)
    reference_V = _high(torch.cat(points).cpu()).to(device) + offset_V
    if fresh is not None:
        none = errors[0][:0]
        points = [torch.cat([none, *(reach.point_errors_of_series(part) for part in parts)]) for parts in fresh]
    strange_N = (torch.cat(points) - reference_V).amax(dim=1)
    tail = fit_pooled_tail(strange_N.cpu().numpy().astype(np.float64), spec.window).to(device)
    surprise_N = tail.surprise(strange_N).cpu().numpy().astype(np.float64)
    if spec.kind != "series":
        single = (1.0,) * len(CLUSTER_LEVELS)
        usual = {"": quantiles(surprise_N, STREAM_PACE)}
        return Judgement(reach, reference_V, tail, single, BySeries.of({}), BySeries.of(usual), len(surprise_N))
    first = np.cumsum([0, *(len(part) for part in points)])
    each = np.split(surprise_N, first[np.cumsum(pieces)[:-1]])
    usual = {name: quantiles(own_N, SERIES_PACE) for name, own_N in zip(names, each, strict=True)}
    # Clusters are those of scores, not of surprise: each series by its own measure, as a worker has it.
    pooled, own = cluster_sizes(
        [rescored(own_N, usual[name], SERIES_PACE) for name, own_N in zip(names, each, strict=True)]
    )
    clusters = BySeries.of(dict(zip(names, own, strict=True)))
    return Judgement(reach, reference_V, tail, pooled, clusters, BySeries.of(usual), len(surprise_N))
