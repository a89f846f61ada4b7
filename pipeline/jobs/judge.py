"""One file -> its score file and its row of `metrics.csv`: what a worker process of `offkey evaluate` does.

A series' detector learns from the rows marked `train`, without labels, and scores the whole series; the rows
marked `scored` count. A window at their beginning reaches back into earlier rows. Scores are those of the trained
detector alone: nothing is learned while scoring, unless `Online` is asked for. Then the rows that were not trained
on run through the recalibration of a worker, in their order, from where training leaves it.

A table has no split of its own. Setting S learns from a seeded half of the normal rows, U from a seeded and
stratified 70% of all rows, anomalies among them; both score the rest.

Legend: N rows, F features.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.arrays import BoolArray, FloatArray, IntArray
from models.dataset import Columns, TooFewRows
from models.detector import Detector
from models.evaluation import auc_pr, auroc
from models.fitting import fit_detector
from models.mapping import Delay
from models.online_tail import SERIES_PACE
from models.plan import DEFAULT, Plan, plan_of
from models.spec import Kind
from pipeline.budgets import parse_budget
from pipeline.connectors.labelled import Labelled, read_labelled, write_scores
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.false_incidents import FalseIncidents, false_incidents
from pipeline.jobs.results import CAUSAL, SETTLED, Result, series_measures

PER_DAY, PER_1000 = parse_budget("1 per day"), parse_budget("1 per 1000 points")
_SHORT_S = 0.2
"""A run that took less is timed again: the first one pays for what is set up once."""
_CONTAMINATED_SHARE = 0.7
_UNHURRIED_S = 1e9


@dataclass(frozen=True)
class Online:
    """Scores of series are recalibrated as they go on; those of tables, whose rows have no order, are not."""

    accept_after_s: float | None
    """How long a level stays until it is accepted; None: none is."""

    @property
    def text(self) -> str:
        return "never" if self.accept_after_s is None else f"{self.accept_after_s:g} s"


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
    delays: tuple[int, ...]
    configuration: str
    online: Online | None = None


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
        online=task.online.text if task.online and rows.train_N is not None else "",
        rows=len(rows.x_NF),
        features=len(rows.features),
        configuration=task.configuration,
    )
    try:
        return _judge_series(task, rows, result) if rows.train_N is not None else _judge_table(task, rows, result)
    except TooFewRows as error:
        more = "mark more rows `train`" if rows.train_N is not None else "it takes a longer table"
        raise SnapshotError(f"{task.path}: {error}; {more}") from error
    except ValueError as error:
        raise SnapshotError(f"{task.path}: {error}") from error


def check_architecture(architecture: str, seed: int) -> None:
    """Raises:
    ConfigError: there is no such architecture, or it takes no such seed.
    """
    try:
        for kind in ("series", "features"):
            _plan(kind, 2, architecture, seed)
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
    columns = {rows.name: (_going_on(rows.time_ms_N[rows.train_N]), rows.x_NF[rows.train_N])}
    started_s = time.perf_counter()
    detector = _fit("series", rows.features, task, columns)
    fit_s = time.perf_counter() - started_s
    both, score_s = _timed(lambda: detector.score_series(rows.name, rows.x_NF, (0, None)))
    both |= detector.score_series(rows.name, rows.x_NF, task.delays) if task.delays else {}
    found = {name: both[delay] for name, delay in _delays(task).items()}
    scored_N, accepted_N = rows.scored_N, np.zeros(len(rows.x_NF), np.bool_)
    if task.online:
        live_N = scored_N | ~rows.train_N
        for name, delay in _delays(task).items():
            surprise_N = found[name][live_N]
            found[name][live_N], accepted = _recalibrated(detector, rows.name, delay, surprise_N, task.online)
            if name == CAUSAL:
                accepted_N[live_N] = accepted
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
    result = _incidents(result, detector, rows.name, time_ms_N, scores[CAUSAL], label_N, accepted_N[scored_N])
    return series_measures(result, label_N, scores, rows.x_NF[scored_N, 0])


def _delays(task: Task) -> dict[str, Delay]:
    """Return the scores that are measured, by name, and the later rows that each has seen."""
    return {CAUSAL: 0, SETTLED: None, **{f"delay_{delay}": delay for delay in task.delays}}


def _recalibrated(
    detector: Detector, name: str, delay: Delay, surprise_N: FloatArray, online: Online
) -> tuple[FloatArray, BoolArray]:
    """Return (scores, the rows with which a level was accepted) as a worker finds them in a stream of them."""
    slot, after_s = np.array([0]), online.accept_after_s
    tail = detector.calibration.of(delay).online_tail(torch.device("cpu"), SERIES_PACE, accepting=True)
    tail.begin(slot, [name])
    interval_ms = np.array([_interval_ms(detector, name)])
    tail.accept_after(slot, detector.points_to_accept(None if after_s is None else 1000 * after_s, interval_ms))
    score_N, accepted_N = tail.follow(np.zeros(len(surprise_N), np.int64), torch.from_numpy(surprise_N).float())
    return score_N.numpy().astype(np.float64), accepted_N.numpy()


def _interval_ms(detector: Detector, name: str) -> float:
    return detector.calibration.interval_of(name) or detector.calibration.interval_ms


def _going_on(time_ms_T: IntArray) -> IntArray:
    """Return times of which each is later than the one before: where some are not, rows a usual step apart.

    The rows of a file count in its order, though its clock may have gone back, as at the end of summer time.
    """
    steps_ms = np.diff(time_ms_T)
    if (steps_ms > 0).all():
        return time_ms_T
    usual_ms = max(1, int(np.median(steps_ms)))
    return np.asarray(time_ms_T[0] + usual_ms * np.arange(len(time_ms_T)), np.int64)


def _incidents(
    result: Result,
    detector: Detector,
    name: str,
    time_ms_N: IntArray,
    causal_N: FloatArray,
    label_N: BoolArray,
    accepted_N: BoolArray,
) -> Result:
    """Add the false incidents under both budgets, with the threshold that a worker would use."""
    calibration = detector.calibration
    interval_ms = _interval_ms(detector, name)
    counted: list[FalseIncidents] = []
    thresholds = []
    for budget in (PER_DAY, PER_1000):
        points = np.array([float(budget.points_per_incident(interval_ms))])
        thresholds.append(float(calibration.of(0).thresholds([name], points)[0]))
        counted.append(
            false_incidents(
                time_ms_N,
                causal_N,
                label_N,
                threshold=thresholds[-1],
                window=detector.spec.window,
                budget=budget,
                interval_ms=interval_ms,
                accepted_N=accepted_N,
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
    detector = _fit("features", rows.features, task, {"": (learned, rows.x_NF[learned])})
    fit_s = time.perf_counter() - started_s
    score_N, score_s = _timed(lambda: detector.score_rows(rows.x_NF[scored]))
    _check_finite(task.path, {CAUSAL: score_N})
    write_scores(task.scores, scored, label_N, {CAUSAL: score_N, SETTLED: score_N}, task.configuration)
    points_per_incident = float(PER_1000.points_per_incident(1.0))
    threshold = float(detector.calibration.of(0).thresholds([""], np.array([points_per_incident]))[0])
    precision, ranked = auc_pr(label_N, score_N), auroc(label_N, score_N)
    return replace(
        result,
        auc_pr_causal=precision,
        auc_pr_settled=precision,
        auroc=ranked,
        auroc_causal=ranked,
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


def _fit(kind: Kind, features: Sequence[str], task: Task, columns: Columns) -> Detector:
    plan = _plan(kind, len(features), task.architecture, task.seed)
    return fit_detector(kind, features, plan, columns, device=torch.device("cpu"), delays=task.delays)


def _plan(kind: Kind, features: int, architecture: str, seed: int) -> Plan:
    """Return the default's plan, with the architecture as the network of its views.

    Training has the time that it takes: figures must not depend on what else the machine has to do.
    """
    network = {} if architecture == DEFAULT else {"network": architecture}
    return plan_of(kind, features, DEFAULT, {"seed": seed, "max_seconds": _UNHURRIED_S, **network})
