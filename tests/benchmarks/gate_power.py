"""How often the gate errs: `python -m tests.benchmarks.gate_power [SEEDS]`.

Seeded streams of three series and two features, 1,500 points each, of which 300 are held out; the default model.
For each seed a champion and a challenger of which it is known which is better:

- `equal`: each has learned 600 points of its own, of the same course. Accepting one is needless, refusing it as
  worse or not calibrated is wrong.
- `outage`: half of what the challenger has learned was an outage. Accepting it is wrong.
- `noisy`: the challenger has learned twice the noise. Accepting it is wrong.
- `shift`: the champion has learned another level and season than the series have had since. Refusing is wrong.

Printed are the shares of seeds with each outcome: accepted, refused as not better, refused as worse, refused as not
calibrated; and, of a stream without a champion, the share of sound first models that are refused.
"""

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from models.arrays import FloatArray
from models.dataset import Columns
from models.detector import Detector
from models.fitting import fit_detector
from models.plan import plan_of
from pipeline.alert_settings import AlertSettings
from pipeline.gate import judge
from pipeline.held_out import HeldOut, cut_of, held_out_of
from pipeline.versions.origin import GateResult

CPU = torch.device("cpu")
NAMES, FEATURES = ["a", "b", "c"], ["cpu", "mem"]
ROWS, CUT, LEARNED = 1500, 1200, 600
ALERTS = AlertSettings(budget="1 per day")


def course(seed: int, noise: float = 0.1, level: float = 0.0, pace: float = 1.0) -> FloatArray:
    random = np.random.default_rng(seed)
    at = pace * np.arange(ROWS)[None, :, None] / 20 + np.arange(len(NAMES))[:, None, None]
    cycle = np.sin(at + np.array([0.0, 1.0]))
    return np.asarray(cycle + level + noise * random.standard_normal((len(NAMES), ROWS, 2)))


def columns_of(x_STF: FloatArray) -> Columns:
    return {name: (60_000 * np.arange(len(x_TF)), x_TF) for name, x_TF in zip(NAMES, x_STF, strict=True)}


def learned(x_STF: FloatArray, begin: int, end: int) -> Detector:
    rows = {name: (time_ms_T[begin:end], x_TF[begin:end]) for name, (time_ms_T, x_TF) in columns_of(x_STF).items()}
    return fit_detector("series", FEATURES, plan_of("series", 2, "default", {}), rows, device=CPU)


def held_of(x_STF: FloatArray) -> HeldOut:
    columns = columns_of(x_STF)
    return held_out_of("series", FEATURES, columns, cut_of("series", columns), [], 50, 0)


def outcome(verdict: GateResult) -> str:
    """Name it by its first reason."""
    return "accepted" if verdict.accepted else verdict.reasons[0].partition(":")[0]


def judged(seed: int) -> dict[str, str]:
    x_STF = course(seed)
    held, champion = held_of(x_STF), learned(x_STF, 0, LEARNED)
    struck_STF = x_STF.copy()
    struck_STF[:, 700:950] = 0
    struck_STF[:, 1000:1050] += 6
    shifted_STF = x_STF.copy()
    shifted_STF[:, :LEARNED] = course(seed, level=2.0, pace=0.5)[:, :LEARNED]
    pairs = {
        "equal": (champion, learned(x_STF, LEARNED, CUT), held),
        "outage": (champion, learned(struck_STF, LEARNED, CUT), held),
        "noisy": (champion, learned(course(seed + 1000, noise=0.2), LEARNED, CUT), held),
        "shift": (learned(shifted_STF, 0, LEARNED), learned(x_STF, LEARNED, CUT), held_of(shifted_STF)),
        "first": (None, champion, held),
    }
    return {name: outcome(judge(*pair, ALERTS, seed=seed)) for name, pair in pairs.items()}


def main(arguments: Sequence[str]) -> None:
    began_s = time.perf_counter()
    torch.set_num_threads(1)
    seeds = int(arguments[0]) if arguments else 20
    each = [judged(seed) for seed in range(seeds)]
    found = {
        name: {said: round(count / seeds, 3) for said, count in Counter(one[name] for one in each).items()}
        for name in each[0]
    }
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(
        json.dumps({"seeds": seeds, **found, "seconds": round(time.perf_counter() - began_s), "machine": machine})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
