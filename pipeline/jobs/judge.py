"""One file -> its score file and its row of `metrics.csv`: what a worker process of `offkey evaluate` does.

A series' detector learns from the rows marked `train`, without labels, and scores the whole series; the rows
marked `scored` count. A window at their beginning reaches back into earlier rows. Scores are those of the trained
detector alone: nothing is learned while scoring.

A table has no split of its own. Setting S learns from a seeded half of the normal rows, U from a seeded and
stratified 70% of all rows, anomalies among them; both score the rest.

Legend: N rows, T rows of a series, B windows, F features.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.calibration import alert_threshold
from models.dataset import Columns
from models.detector import Detector, check_options, fit_detector
from models.evaluation import auc_pr, auroc
from models.scaling import Scaling
from models.spec import ModelSpec
from pipeline.config import parse_budget
from pipeline.connectors.parquet import Labelled, read_labelled, write_scores
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.false_incidents import FalseIncidents, false_incidents
from pipeline.jobs.results import CAUSAL, SETTLED, Result, series_measures

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

PER_DAY, PER_1000 = parse_budget("1 per day"), parse_budget("1 per 1000 points")
_SHORT_S = 0.2
"""A run that took less is timed again: the first one pays for what is set up once."""
_CONTAMINATED_SHARE = 0.7


@dataclass(frozen=True)
class Task:
    """A file to judge, and by what."""

    path: Path
    scores: Path
    """Where its score file goes."""
    architecture: str
    seed: int
    setting: str
    """`S` or `U`; a series takes no notice of it."""
    window: int
    delays: tuple[int, ...]
    configuration: str


def judge(task: Task) -> Result:
    """Train, score, write the score file, measure.

    Raises:
        ConfigError: the file cannot be evaluated.
        SnapshotError: it holds too little to train on.
    """
    rows = read_labelled(task.path)
    result = Result(
        rows.group,
        rows.name,
        task.architecture,
        task.seed,
        setting="" if rows.train_N is not None else f"{task.setting}:{task.seed}",
        rows=len(rows.x_NF),
        features=len(rows.features),
        configuration=task.configuration,
    )
    try:
        return _judge_series(task, rows, result) if rows.train_N is not None else _judge_table(task, rows, result)
    except ValueError as error:
        raise SnapshotError(f"{task.path}: {error}") from error


def check_architecture(architecture: str, seed: int) -> None:
    """Raises:
    ConfigError: there is no such architecture, or it takes no such seed.
    """
    try:
        check_options(_network_of(architecture), {"seed": seed})
    except ValueError as error:
        raise ConfigError(f"--architecture {architecture}: {error}") from error


def split_table(label_N: BoolArray, setting: str, seed: int) -> tuple[IntArray, IntArray]:
    """Return (rows to learn from, rows to score) of a table, in the order of the file."""
    random = np.random.default_rng(seed)
    normal, strange = (random.permutation(np.flatnonzero(label_N == value)) for value in (False, True))
    if setting == "S":
        half = len(normal) // 2
        return np.sort(normal[:half]), np.sort(np.concatenate([normal[half:], strange]))
    cuts = [round(len(part) * _CONTAMINATED_SHARE) for part in (normal, strange)]
    learned = np.concatenate([normal[: cuts[0]], strange[: cuts[1]]])
    return np.sort(learned), np.sort(np.concatenate([normal[cuts[0] :], strange[cuts[1] :]]))


def _judge_series(task: Task, rows: Labelled, result: Result) -> Result:
    assert rows.train_N is not None
    spec = ModelSpec("series", rows.features, task.window)
    columns = {rows.name: (rows.time_ms_N[rows.train_N], rows.x_NF[rows.train_N])}
    started_s = time.perf_counter()
    detector = _fit(spec, task, columns)
    fit_s = time.perf_counter() - started_s
    both, score_s = _timed(lambda: _score_series(detector, rows.name, rows.x_NF, (0, None)))
    found = {CAUSAL: both[0], SETTLED: both[None]}
    if task.delays:
        more = _score_series(detector, rows.name, rows.x_NF, task.delays)
        found |= {f"delay_{delay}": more[delay] for delay in task.delays}
    scored_N = rows.scored_N
    scores = {name: score_T[scored_N] for name, score_T in found.items()}
    _check_finite(task.path, scores)
    label_N, time_ms_N = rows.label_N[scored_N], rows.time_ms_N[scored_N]
    write_scores(task.scores, time_ms_N, label_N, scores, task.configuration)
    result = replace(
        result,
        fit_s=fit_s,
        points_per_s=len(rows.x_NF) / score_s,
        train_rows=int(rows.train_N.sum()),
        scored_rows=len(label_N),
        labelled_rows=int(label_N.sum()),
    )
    result = _incidents(result, detector, rows.name, time_ms_N, scores[CAUSAL], label_N)
    return series_measures(result, label_N, scores, rows.x_NF[scored_N, 0])


def _incidents(
    result: Result, detector: Detector, name: str, time_ms_N: IntArray, causal_N: FloatArray, label_N: BoolArray
) -> Result:
    """Add the false incidents under both budgets, with the threshold that a worker would use."""
    calibration = detector.calibration
    interval_ms = calibration.interval_of(name) or calibration.interval_ms
    counted: list[FalseIncidents] = []
    thresholds = []
    for budget in (PER_DAY, PER_1000):
        points = np.array([float(budget.points_per_incident(interval_ms))])
        thresholds.append(float(alert_threshold(points, calibration.cluster_points)[0]))
        counted.append(
            false_incidents(
                time_ms_N,
                causal_N,
                label_N,
                threshold=thresholds[-1],
                window=detector.spec.window,
                budget=budget,
                interval_ms=interval_ms,
            )
        )
    return replace(
        result,
        false_incidents_per_week=counted[0].per_week(interval_ms),
        false_incidents_1_per_day=counted[0].opened,
        allowed_incidents_1_per_day=counted[0].allowed,
        false_incidents_1_per_1000=counted[1].opened,
        allowed_incidents_1_per_1000=counted[1].allowed,
        threshold_1_per_day=thresholds[0],
    )


def _judge_table(task: Task, rows: Labelled, result: Result) -> Result:
    learned, scored = split_table(rows.label_N, task.setting, task.seed)
    label_N = rows.label_N[scored]
    if label_N.all() or not label_N.any():
        raise ValueError(f"the scored rows of setting {task.setting} are all of one label; it takes more rows")
    started_s = time.perf_counter()
    detector = _fit(ModelSpec("features", rows.features, 1), task, {"": (learned, rows.x_NF[learned])})
    fit_s = time.perf_counter() - started_s
    score_N, score_s = _timed(lambda: _score_rows(detector, rows.x_NF[scored]))
    _check_finite(task.path, {CAUSAL: score_N})
    write_scores(task.scores, scored, label_N, {CAUSAL: score_N, SETTLED: score_N}, task.configuration)
    points_per_incident = float(PER_1000.points_per_incident(1.0))
    threshold = float(alert_threshold(np.array([points_per_incident]), detector.calibration.cluster_points)[0])
    return replace(
        result,
        auc_pr_causal=auc_pr(label_N, score_N),
        auc_pr_settled=auc_pr(label_N, score_N),
        auroc=auroc(label_N, score_N),
        auroc_causal=auroc(label_N, score_N),
        fit_s=fit_s,
        points_per_s=len(scored) / score_s,
        false_incidents_1_per_1000=int((score_N[~label_N] >= threshold).sum()),
        allowed_incidents_1_per_1000=float((~label_N).sum() / points_per_incident),
        train_rows=len(learned),
        scored_rows=len(scored),
        labelled_rows=int(label_N.sum()),
    )


def _timed(score: Callable[[], Any]) -> tuple[Any, float]:
    """Return (what `score` returns, its seconds)."""
    started_s = time.perf_counter()
    scored = score()
    seconds = time.perf_counter() - started_s
    if seconds < _SHORT_S:
        started_s = time.perf_counter()
        score()
        seconds = min(seconds, time.perf_counter() - started_s)
    return scored, seconds


def _check_finite(path: Path, scores: dict[str, FloatArray]) -> None:
    for name, score_N in scores.items():
        assert np.isfinite(score_N).all(), (
            f"{path}: {int((~np.isfinite(score_N)).sum())} {name} scores are not finite"
        )


def _fit(spec: ModelSpec, task: Task, columns: Columns) -> Detector:
    return fit_detector(
        spec, _network_of(task.architecture), {"seed": task.seed}, columns, device=torch.device("cpu")
    )


# A stand-in from here to the end, until detectors have views: one view, its causal scores for every delay.


def _network_of(architecture: str) -> str:
    return "vanilla" if architecture == "default" else architecture


def _score_series(
    detector: Detector, name: str, x_TF: FloatArray, delays: Sequence[int | None]
) -> dict[int | None, FloatArray]:
    pair = detector.scaling.for_series(name)
    assert pair is not None
    z_TF = Scaling.apply(x_TF, *pair)
    window = detector.spec.window
    padded = np.concatenate([np.repeat(z_TF[:1], window - 1, axis=0), z_TF])
    z_BTF = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).transpose(0, 2, 1)
    score_T = _surprise(detector, z_BTF)
    return dict.fromkeys(delays, score_T)


def _score_rows(detector: Detector, x_NF: FloatArray) -> FloatArray:
    z_NF = Scaling.apply(x_NF, detector.scaling.center_F, detector.scaling.scale_F)
    return _surprise(detector, z_NF[:, None])


@torch.inference_mode()
def _surprise(detector: Detector, z_BTF: npt.NDArray[np.float32]) -> FloatArray:
    parts = [
        detector.score(torch.from_numpy(z_BTF[low : low + 1024].copy())).surprise_B.numpy()
        for low in range(0, len(z_BTF), 1024)
    ]
    return np.concatenate(parts).astype(np.float64)
