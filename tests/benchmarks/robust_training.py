"""What anomalies in training cost, with and without trimming: `python -m tests.benchmarks.robust_training`.

Each network learns from a seeded series of which none, 1% or 3% of the rows belong to an anomaly: an outage or a
fault as long as its window, the same each time, or a spike of three rows. It is judged by fresh rows, of which 3%
are labelled anomalies of that kind: VUS-PR, mean of the seeds, of the network's own squared error, which training
alone decides, and of the detector's causal score, whose calibration sees the same contaminated rows. Beside the
two trainings stands one that was told which windows hold an anomaly and learned from none of them, which is as
much as trimming could bring.

A second figure is of a pattern that is rare but normal, 4% of the rows: the median score of such rows, which
trimming must not raise by much.

Legend: N rows of a series, F features.
"""

import json
import platform
import sys
import time
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from models import fitting
from models.architectures import squared_error
from models.arrays import BoolArray, FloatArray, IntArray
from models.dataset import Windows, padded
from models.detector import Detector
from models.evaluation import vus
from models.plan import plan_of
from models.training import Trained, TrainingConfig, train
from models.views import View

NETWORKS = ("vanilla", "sparse", "denoising", "variational", "convolutional", "recurrent")
KINDS, RATES, SEEDS = ("outages", "faults", "spikes"), (0.0, 0.01, 0.03), (0, 1)
MEASURES, WAYS = ("own error", "score"), ("all windows", "trimmed", "told which")
TRIMMED = TrainingConfig().trimmed
ROWS, FEATURES, WINDOW, SPIKE = 6_000, 3, 32, 3
_APART = 3 * WINDOW
CPU = torch.device("cpu")

Rows = IntArray


def drawn(seed: int, kind: str, rate: float) -> tuple[FloatArray, npt.NDArray[np.int8]]:
    """Return noisy seasons x_NF of which a share of the rows is strange, and which rows those are."""
    random = np.random.default_rng(seed)
    phase_NF = np.arange(ROWS)[:, None] / np.array([7.0, 19.0, 31.0]) + np.arange(FEATURES)
    x_NF = np.sin(phase_NF) + 0.1 * random.standard_normal((ROWS, FEATURES))
    label_N = np.zeros(ROWS, np.int8)
    length = SPIKE if kind == "spikes" else WINDOW
    fault_TF = np.random.default_rng(0).choice([-1.0, 1.0], (WINDOW, FEATURES))
    places = random.permutation(np.arange(_APART, ROWS - _APART, _APART // 2))[: round(rate * ROWS / length)]
    for first in places:
        rows = slice(first, first + length)
        label_N[rows] = 1
        # What is the same each time can be learned; a spike has a size of its own.
        if kind != "spikes":
            usual = -1.0 if kind == "outages" else fault_TF
            x_NF[rows] = usual + 0.02 * random.standard_normal((length, FEATURES))
        else:
            x_NF[rows, random.integers(FEATURES)] += random.uniform(1, 2)
    return np.asarray(x_NF), label_N


def fitted(network: str, trimmed: float, seed: int, x_NF: FloatArray, learned_N: BoolArray) -> Detector:
    """Return a detector trained on a series; its network learns only from windows that end in `learned_N` rows."""
    plan = plan_of("series", FEATURES, network, {"seed": seed, "trimmed": trimmed, "max_epochs": 15}, WINDOW)
    names = [f"f{number}" for number in range(FEATURES)]

    def told(view: View, windows: Windows, learning_N: Rows, stopping_N: Rows, *how: Any) -> Trained:
        return train(view, windows, learning_N[learned_N[learning_N]], stopping_N, *how)

    with mock.patch.object(fitting, "train", told):
        return fitting.fit_detector("series", names, plan, {"s": (60_000 * np.arange(ROWS), x_NF)}, device=CPU)


@torch.no_grad()
def own_error(detector: Detector, x_NF: FloatArray) -> FloatArray:
    """Return the network's mean squared error of the window that ends in each row."""
    scaling = detector.scaling.for_series("s")
    assert scaling is not None
    z_NF = torch.from_numpy(padded(detector.scaling.apply(x_NF, *scaling), WINDOW - 1))
    view = detector.views[0]
    x_BTC = view.inputs(z_NF.unfold(0, WINDOW, 1).transpose(1, 2))
    return squared_error(view.network(x_BTC), x_BTC).double().numpy()


def contaminated(network: str, kind: str, rate: float, seed: int) -> list[tuple[float, float]]:
    """Return VUS-PR of (own error, score) for each way to train."""
    x_NF, label_N = drawn(seed, kind, rate)
    fresh_NF, fresh_label_N = drawn(1000 + seed, kind, 0.03)
    clean_N = np.convolve(label_N, np.ones(WINDOW))[:ROWS] == 0
    found = []
    for trimmed, learned_N in ((0.0, np.ones_like(clean_N)), (TRIMMED, np.ones_like(clean_N)), (0.0, clean_N)):
        detector = fitted(network, trimmed, seed, x_NF, learned_N)
        scores = own_error(detector, fresh_NF), detector.score_series("s", fresh_NF, (0,))[0]
        found.append((vus(fresh_label_N, scores[0], WINDOW).pr, vus(fresh_label_N, scores[1], WINDOW).pr))
    return found


def rare(network: str, seed: int) -> list[float]:
    """Return the median score of rows of a rare normal pattern, without and with trimming."""
    x_NF, fresh_NF = (drawn(seed + more, "spikes", 0.0)[0] for more in (0, 1000))
    ramp_TF = np.linspace(0, 2, WINDOW)[:, None] * np.array([1, -1, 0.5])
    rare_N = np.zeros(ROWS, np.bool_)
    for first in range(150, ROWS - WINDOW, WINDOW * 25):
        rare_N[first : first + WINDOW] = True
    for number, rows_NF in enumerate((x_NF, fresh_NF)):
        noise = 0.1 * np.random.default_rng([seed, number]).standard_normal((rare_N.sum(), FEATURES))
        rows_NF[rare_N] = np.tile(ramp_TF, (rare_N.sum() // WINDOW, 1)) + noise
    every_N = np.ones_like(rare_N)
    detectors = [fitted(network, trimmed, seed, x_NF, every_N) for trimmed in (0.0, TRIMMED)]
    return [float(np.median(each.score_series("s", fresh_NF, (0,))[0][rare_N])) for each in detectors]


def main() -> None:
    torch.set_num_threads(1)
    began_s = time.perf_counter()
    found: dict[str, Any] = {}
    for network in NETWORKS:
        for kind in KINDS:
            for rate in RATES:
                mean = np.mean([contaminated(network, kind, rate, seed) for seed in SEEDS], axis=0)
                cell = {
                    name: dict(zip(WAYS, own, strict=True))
                    for name, own in zip(MEASURES, rounded(mean.T), strict=True)
                }
                found.setdefault(network, {}).setdefault(kind, {})[f"{rate:.0%}"] = cell
                print(network, kind, f"{rate:.0%}", cell, file=sys.stderr)
        mean = np.mean([rare(network, seed) for seed in SEEDS], axis=0)
        found[network]["score of a rare normal pattern"] = dict(zip(WAYS, rounded(mean), strict=False))
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({**found, "seconds": round(time.perf_counter() - began_s), "machine": machine}))


def rounded(values: FloatArray) -> Any:
    return np.round(values, 3).tolist()


if __name__ == "__main__":
    main()
