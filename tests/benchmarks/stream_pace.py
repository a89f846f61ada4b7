"""How `STREAM_PACE` was chosen, without any label: `python -m tests.benchmarks.stream_pace`.

Surprise of streams that drift, widen, gain a mode or come in bursts is drawn, and scored under every setting of
a grid. The best one keeps the rate of alerts nearest to the budget of 1 in 1,000 over all streams, and still
sees the end of an outage of 2,500 records and a spike soon after it.
"""

import itertools
import json
import math
import platform
from typing import Any

import numpy as np
import torch

from models.arrays import BoolArray, FloatArray
from models.by_series import BySeries
from models.calibration import CLUSTER_LEVELS, DECIBEL, alert_threshold
from models.online_tail import STREAM_PACE, OnlineTail, Pace, quantiles

RECORDS, BUDGET = 300_000, 1_000
THRESHOLD = float(alert_threshold(np.array([float(BUDGET)]), (1.0,) * len(CLUSTER_LEVELS))[0])
GRID = itertools.product((0.002, 0.005, 0.01), (512, 1024, 2048, 4096), (1.0, 2.0, 4.0, 8.0), (2, 4, 8))
"""Share of the followed quantile, block, step, and most points above it as a multiple of the expected ones."""

Surprise = FloatArray
TRAINING: Surprise = np.random.default_rng(0).exponential(DECIBEL, RECORDS)


def streams() -> dict[str, Surprise]:
    """Return the surprise of each record by stream; all begin as normal ones, or nearly so."""
    random = np.random.default_rng(1)
    at = np.arange(RECORDS)

    def normal() -> Surprise:
        return random.exponential(DECIBEL, RECORDS)

    def with_mode(share: Any, mean: float, spread: float) -> Surprise:
        return np.where(random.random(RECORDS) < share, random.normal(mean, spread, RECORDS), normal())

    heavy = normal()
    return {
        "stationary": normal(),
        "a heavier tail": np.where(heavy > 20, 20 + 1.6 * (heavy - 20), heavy),
        "a mode that grows to 1%": with_mode(np.linspace(0, 0.01, RECORDS), 35, 3),
        "a mode of .4%, at once": with_mode(np.where(at > 60_000, 0.004, 0), 45, 5),
        "a shift": normal() + np.where(at > 60_000, 5, 0),
        "widening": normal() * (1 + np.linspace(0, 0.8, RECORDS)),
        "a daily cycle": normal() * (1 + 0.4 * np.sin(at * 2 * np.pi / 60_000)),
        "bursts": with_mode(np.where(at // 500 % 40 == 7, 0.2, 0), 38, 4),
    }


def alerting(pace: Pace, surprise_N: Surprise) -> BoolArray:
    """Tell which records reach the threshold, after a training without surprises."""
    tail = OnlineTail(torch.device("cpu"), pace, BySeries.of({"": quantiles(TRAINING, pace)}))
    tail.begin(np.array([0]), [""])
    with torch.inference_mode():
        score_N = tail.score(np.zeros(len(surprise_N), np.int64), torch.from_numpy(surprise_N).float())
    return (score_N >= THRESHOLD).numpy()


def sees_through_an_outage(pace: Pace) -> bool:
    surprise_N = np.random.default_rng(5).exponential(DECIBEL, RECORDS)
    surprise_N[150_000:152_500] = 60
    surprise_N[160_000:160_050] = 50
    hot_N = alerting(pace, surprise_N)
    return bool(hot_N[150_000:152_500].all() and hot_N[160_000:160_050].all())


def main() -> None:
    drawn = streams()
    tried: list[tuple[float, Pace, dict[str, float]]] = []
    for share, block, gap_step, factor in GRID:
        pace = Pace(share, block, gap_step, max(1, round(factor * share * block)), far_followed=False)
        if sees_through_an_outage(pace):
            rates = {name: float(alerting(pace, surprise_N).mean()) * BUDGET for name, surprise_N in drawn.items()}
            off = float(np.mean([abs(math.log2(max(rate, 0.05))) for rate in rates.values()]))
            tried.append((off, pace, rates))
    tried.sort(key=lambda entry: entry[0])
    best = [
        {
            "pace": vars(pace),
            "off_by_octaves": round(off, 3),
            "of_budget": {name: round(rate, 2) for name, rate in rates.items()},
        }
        for off, pace, rates in tried[:5]
    ]
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({"shipped": vars(STREAM_PACE), "best": best, "settings": len(tried), "machine": machine}))


if __name__ == "__main__":
    main()
