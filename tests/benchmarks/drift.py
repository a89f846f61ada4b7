"""A stream that drifts, with and without retraining: `python -m tests.benchmarks.drift`.

Six seeded series of three features, a point every ten minutes. For four weeks they stay as they are; then, within
sixteen weeks, a level rises, a daily season grows and comes later, and a load doubles. The frozen model has learned
the first four weeks. The other one is retrained every second week on the last four, by `pipeline.retrain`, with
gate and registry, and serves where it is accepted. The last two weeks are judged, in which nothing else happens:
false incidents as trained, where nothing is learned while scoring; the same in a worker, whose online tail follows
each series; and the anomalies of `pipeline.held_out` that are found in a worker.

In an outage all features of a series are zero for three hours. One lies where the model that serves at the end was
trained, named as the span of a confirmed incident, and one in the weeks that are judged. `outage_found`: the share
of series in which an incident of a worker begins in the later one; `outage_in_training_found`: in the earlier one,
by the model that was trained around it.
"""

import json
import platform
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import torch

from models.arrays import FloatArray
from models.dataset import Columns
from models.detector import Detector
from models.injection import Anomaly, Injected
from pipeline.budgets import parse_budget
from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryRegistry
from pipeline.excluded import Span
from pipeline.held_out import HeldOut, Round, rounds_of
from pipeline.history import Read
from pipeline.jobs.false_incidents import followed
from pipeline.lanes import load_champion
from pipeline.retrain import retrain_stream
from pipeline.stages.incidents import STARTS
from pipeline.train import fit_stream, publish
from pipeline.trial import LATE, Trial, tried

CPU = torch.device("cpu")
BEGIN_MS, INTERVAL_MS, DAY = 1_700_000_000_000, 600_000, 144
WEEK, MONTH, WEEKS, EVERY = 7 * DAY, 28 * DAY, 16, 2
SERIES, FEATURES = [f"s{number}" for number in range(6)], ("cpu", "memory", "latency")
POINTS = MONTH + WEEKS * WEEK
LAST = POINTS - EVERY * WEEK
"""The last retraining, and the first point that is judged."""
OUTAGE = DAY // 8
EARLIER, LATER = LAST - 4 * WEEK + DAY, LAST + WEEK
BUDGET = parse_budget("1 per week")
SETTINGS = StreamSettings.model_validate({"topic": "metrics", "features": list(FEATURES)})


def drifting() -> FloatArray:
    """Return the series [S, POINTS, F] without outages."""
    random = np.random.default_rng(0)
    at = np.arange(POINTS)
    moved = np.clip((at - MONTH) / (WEEKS * WEEK), 0, 1)
    x_STF = np.empty((len(SERIES), POINTS, len(FEATURES)))
    for series in range(len(SERIES)):
        phase = random.uniform(0, 2 * np.pi, 2)
        day = 2 * np.pi * (at / DAY - moved / 12)
        season = np.sin(day + phase[0]) + 0.4 * np.sin(2 * day + phase[1])
        load = (1 + moved) * np.clip(season + 0.5, 0, None) + 0.3 * random.standard_normal(POINTS)
        noise = 0.3 * random.standard_normal((3, POINTS))
        memory, latency = 5 + 2 * moved + 0.5 * season, (1 + moved / 2) * season + 0.3 * load**2
        x_STF[series] = np.column_stack([load, memory, latency]) + noise.T
    return x_STF


def columns_of(x_STF: FloatArray, begin: int, end: int) -> Columns:
    time_ms = BEGIN_MS + INTERVAL_MS * np.arange(begin, end)
    return {name: (time_ms, x_TF[begin:end]) for name, x_TF in zip(SERIES, x_STF, strict=True)}


def held_of(x_STF: FloatArray, begin: int, end: int) -> HeldOut:
    """Return these points, after the four weeks that a worker's tail has followed."""
    columns = columns_of(x_STF, begin - MONTH, end)
    counted = dict.fromkeys(SERIES, np.ones(end - begin, np.bool_))
    return HeldOut("series", FEATURES, columns, dict.fromkeys(SERIES, MONTH), counted)


def in_worker(detector: Detector, held: HeldOut, rounds: list[Round]) -> Trial:
    return tried(detector, held, rounds, SETTINGS.alerts, [BUDGET])


def as_trained(detector: Detector, x_STF: FloatArray) -> int:
    """Return the incidents of the judged weeks by the scores of training alone."""
    opened, back = 0, 2 * detector.spec.window
    points = np.array([float(BUDGET.points_per_incident(float(INTERVAL_MS)))])
    for name, (time_ms_T, x_TF) in columns_of(x_STF, LAST - back, POINTS).items():
        score_N = detector.score_series(name, x_TF, (0,))[0][back:]
        threshold = float(detector.calibration.of(0).thresholds([name], points)[0])
        none_N = np.zeros(len(score_N), np.bool_)
        transitions = followed(time_ms_T[back:], score_N, none_N, threshold, SETTINGS.alerts)
        opened += sum(one.state in STARTS for one in transitions)
    return opened


def outage_found(detector: Detector, struck_STF: FloatArray, begin: int) -> float:
    """Return the share of series in which an incident begins in an outage."""
    where = Injected(Anomaly("level", 0.0, OUTAGE), DAY, DAY + OUTAGE, (0, 1, 2), 0.0)
    held = held_of(struck_STF, begin - DAY, begin + WEEK // 2)
    values = {name: x_TF[MONTH:] for name, (_, x_TF) in held.columns.items()}
    return float(in_worker(detector, held, [Round(values, [(name, where) for name in SERIES])]).found_I.mean())


def read_of(x_STF: FloatArray, begin: int, end: int) -> Read:
    return Read(columns_of(x_STF, begin, end), len(SERIES) * (end - begin), 0, 0, [], {})


def span_of(begin: int) -> Span:
    return Span("*", BEGIN_MS + INTERVAL_MS * begin, BEGIN_MS + INTERVAL_MS * (begin + OUTAGE), "incident")


def main() -> None:
    began_s = time.perf_counter()
    torch.set_num_threads(1)
    calm_STF = drifting()
    struck_STF = calm_STF.copy()
    for begin in (EARLIER, LATER):
        struck_STF[:, begin : begin + OUTAGE] = 0
    at, registry = datetime(2026, 1, 1, tzinfo=UTC), MemoryRegistry()
    history = read_of(struck_STF, 0, MONTH)
    frozen = fit_stream("s", SETTINGS, FEATURES, history, device=CPU, progress=lambda share: None)
    publish("s", frozen, registry, at)
    gate = {}
    for week in range(EVERY, WEEKS, EVERY):
        now = MONTH + week * WEEK
        done = retrain_stream(
            "s",
            SETTINGS,
            FEATURES,
            read_of(struck_STF, now - MONTH, now),
            registry,
            now=lambda week=week: at + timedelta(weeks=week),  # type: ignore[misc]
            device=CPU,
            progress=lambda name, share: None,
            spans=[span_of(EARLIER)],
        )
        gate[f"week {week}"] = [done.verdict.accepted, *done.verdict.reasons]
    retrained = load_champion("s", SETTINGS, registry)[0]
    judged = held_of(calm_STF, LAST, POINTS)
    rounds = rounds_of(judged, frozen.spec.window + 2 * LATE, LATE, 0)
    trials = {"frozen": in_worker(frozen, judged, rounds), "retrained": in_worker(retrained, judged, rounds)}
    result = {
        "false_incidents_frozen": as_trained(frozen, calm_STF),
        "false_incidents_retrained": as_trained(retrained, calm_STF),
        "budget": len(SERIES) * EVERY,
        "outage_found": outage_found(retrained, struck_STF, LATER),
        "outage_in_training_found": outage_found(retrained, struck_STF, EARLIER),
        **{f"{name}_in_worker": trial.opened[0] for name, trial in trials.items()},
        **{f"anomalies_found_{name}": round(float(trial.found_I.mean()), 3) for name, trial in trials.items()},
        "gate": gate,
    }
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({**result, "seconds": round(time.perf_counter() - began_s), "machine": machine}))


if __name__ == "__main__":
    main()
