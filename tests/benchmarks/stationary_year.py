"""False incidents in a year in which nothing happens: `python -m tests.benchmarks.stationary_year`.

Twenty seeded series of several kinds of noise and seasons, a point every ten minutes. One model learns from their
first month; the other eleven are scored as a worker scores them and counted by the stage of incidents. Printed are
the false incidents of each kind and of all, as multiples of each budget, with the worker's recalibration, which
accepts levels after a day, and with the trained one alone, and how far the trained tail had to be extrapolated. A
budget of the stream allows so many of all twenty series together.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from models.arrays import FloatArray
from models.detector import Judgement
from models.fitting import fit_detector
from models.online_tail import SERIES_PACE
from models.plan import plan_of
from pipeline.budgets import Budget, parse_budget
from pipeline.jobs.false_incidents import false_incidents
from pipeline.stages.thresholds import halvings_of

INTERVAL_MS, DAY = 600_000, 144
TRAINED, POINTS, EACH = 30 * DAY, 365 * DAY, 4
BUDGETS = ("1 per day", "1 per 1000 points", "1 per week")
STREAM_BUDGETS = ("1 per day", "1 per week")
"""For series that may each raise one incident a day."""


def year() -> Mapping[str, FloatArray]:
    """Return the series [POINTS] by kind and number; each is as strange in December as in January."""
    random = np.random.default_rng(0)
    at = np.arange(POINTS)
    day, week = 2 * np.pi * at / DAY, 2 * np.pi * at / (7 * DAY)

    def season() -> FloatArray:
        phase = random.uniform(0, 2 * np.pi, 3)
        return np.asarray(np.sin(day + phase[0]) + 0.4 * np.sin(2 * day + phase[1]) + 0.5 * np.sin(week + phase[2]))

    def persistent(share: float) -> FloatArray:
        noise, level, series = random.standard_normal(POINTS), 0.0, np.empty(POINTS)
        for place, shock in enumerate(noise.tolist()):
            level = share * level + shock
            series[place] = level
        return series

    kinds: dict[str, Callable[[], FloatArray]] = {
        "white": lambda: random.standard_normal(POINTS),
        "heavy": lambda: random.standard_t(4, POINTS),
        "persistent": lambda: persistent(0.9),
        "seasonal": lambda: season() + 0.3 * random.standard_normal(POINTS),
        "counts": lambda: random.poisson(20 * np.exp(0.5 * season())).astype(np.float64),
    }
    return {f"{kind}-{number}": draw() for kind, draw in kinds.items() for number in range(EACH)}


def main() -> None:
    began_s = time.perf_counter()
    drawn, cpu = year(), torch.device("cpu")
    time_ms = INTERVAL_MS * np.arange(POINTS)
    columns = {name: (time_ms[:TRAINED], x[:TRAINED, None]) for name, x in drawn.items()}
    detector = fit_detector("series", ["value"], plan_of("series", 1, "default", {}), columns, device=cpu)
    judgement = detector.calibration.of(0)
    scores: dict[str, dict[str, FloatArray]] = {"as in a worker": {}, "as trained": {}}
    levels = 0
    for name, x in drawn.items():
        surprise = detector.score_series(name, x[:, None], (0,))[0][TRAINED:]
        tail = judgement.online_tail(cpu, SERIES_PACE, accepting=True)
        tail.begin(np.array([0]), [name])
        points = detector.points_to_accept(float(INTERVAL_MS * DAY), np.array([float(INTERVAL_MS)]))
        tail.accept_after(np.array([0]), points)
        followed, accepted = tail.follow(np.zeros(len(surprise), np.int64), torch.from_numpy(surprise).float())
        scores["as in a worker"][name] = followed.numpy().astype(np.float64)
        levels += int(accepted.sum())
        scores["as trained"][name] = surprise
    found: dict[str, Any] = {"levels accepted": levels}
    for text in BUDGETS:
        budget = parse_budget(text)
        points = np.array([float(budget.points_per_incident(float(INTERVAL_MS)))])
        threshold = {name: float(judgement.thresholds([name], points)[0]) for name in drawn}
        found[text] = {
            **{how: of_budget(own, threshold, budget, detector.spec.window) for how, own in scores.items()},
            "thresholds": [round(min(threshold.values()), 1), round(max(threshold.values()), 1)],
            "training rows beyond the highest": int(TRAINED * 10 ** (-max(threshold.values()) / 10)),
        }
    for text in STREAM_BUDGETS:
        found[f"stream {text}"] = of_stream(scores["as in a worker"], judgement, text, detector.spec.window)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({**found, "seconds": round(time.perf_counter() - began_s), "machine": machine}))


def of_budget(
    scores: Mapping[str, FloatArray], threshold: Mapping[str, float], budget: Budget, window: int
) -> dict[str, float]:
    """Return the false incidents as multiples of the budget, by kind and of all."""
    ratios: dict[str, list[float]] = {}
    for name, score in scores.items():
        counted = false_incidents(
            INTERVAL_MS * np.arange(len(score)),
            score,
            np.zeros(len(score), np.bool_),
            threshold=threshold[name],
            window=window,
            budget=budget,
            interval_ms=float(INTERVAL_MS),
        )
        for kind in (name.rsplit("-", 1)[0], "all"):
            ratios.setdefault(kind, []).append(counted.opened / counted.allowed)
    return {kind: round(float(np.mean(each)), 2) for kind, each in ratios.items()}


def of_stream(
    scores: Mapping[str, FloatArray], judgement: Judgement, text: str, window: int
) -> dict[str, float | int]:
    """Return the false incidents of all series as a multiple of the stream's budget, by the stage of thresholds."""
    each, whole = parse_budget(BUDGETS[0]), parse_budget(text)
    points, allowed_points = (float(one.points_per_incident(float(INTERVAL_MS))) for one in (each, whole))
    halvings = int(halvings_of(np.array([len(scores)]), points / allowed_points)[0])
    asked = np.array([points * 2.0**halvings])
    threshold = {name: float(judgement.thresholds([name], asked)[0]) for name in scores}
    ratio = of_budget(scores, threshold, whole, window)["all"] * len(scores)
    return {"halvings": halvings, "false incidents": round(ratio, 2)}


if __name__ == "__main__":
    main()
