"""Points a second on one thread, the default and the peer in turn: `python -m tests.benchmarks.scoring_speed`.

Legs on seeded series of 1, 8, 19 and 55 features: whole series by `score_series` (causal), the same points through
the rings of a worker's stages (64 series, decoded already), and, where PyOD is installed, its window-50 autoencoder
as `peer_pyod.py` builds it. Medians of five; ratios are of one run. In an environment without PyOD its figures and
the ratios are left out.
"""

import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from models.arrays import FloatArray
from models.detector import Detector
from models.fitting import fit_detector
from models.online_tail import SERIES_PACE
from models.plan import plan_of
from pipeline.protocols import TopicPartition
from pipeline.stages.decode import Batch
from pipeline.stages.scoring import Scorer
from pipeline.stages.series import SeriesTable
from pipeline.stages.windows import Windows

FEATURES, ROWS, SERIES, RUNS = (1, 8, 19, 55), 16_384, 64, 5
CPU = torch.device("cpu")


def drawn(features: int) -> FloatArray:
    """Return noisy seasons [ROWS, features]."""
    random = np.random.default_rng(features)
    phase = np.arange(ROWS)[:, None] / 40 + random.uniform(0, 6, features)
    return np.asarray(np.sin(phase) + 0.3 * random.standard_normal((ROWS, features)))


def through_rings(detector: Detector, x_NF: FloatArray) -> Callable[[], None]:
    """Return a run of all rows through the stages behind decoding, as 64 series in polls of all of them."""
    names = [f"s{number}" for number in range(SERIES)]
    each = ROWS // SERIES

    def run() -> None:
        scorer = Scorer(detector, CPU)
        table = SeriesTable(
            x_NF.shape[1],
            detector.spec.window,
            known_scaling=lambda name: detector.scaling.for_series("s"),
            known_interval_ms=lambda name: 60_000.0,
        )
        windows = Windows(table, estimate_scaling=detector.scaling.for_new, device=CPU, near=scorer.near)
        tail = scorer.online_tail(SERIES_PACE, accepting=True)
        tail.begin(np.arange(SERIES), names)
        tail.accept_after(np.arange(SERIES), np.full(SERIES, 1440.0))
        batch = Batch(
            TopicPartition("t", 0),
            names * each,
            np.repeat(60_000 * np.arange(each), SERIES),
            x_NF,
            np.arange(ROWS),
            np.arange(ROWS),
            np.full(ROWS, -1),
        )
        for _ in scorer.score_windows(table.admit([batch]).points, windows, tail):
            pass

    return run


def peer_run(x_NF: FloatArray) -> Callable[[], object]:
    """Return a run of PyOD's autoencoder over the same rows."""
    from tests.benchmarks.peer_pyod import peer, to_points, windows

    model: Any = peer(0)
    model.fit(windows(x_NF[:4000]))
    return lambda: to_points(model.decision_function(windows(x_NF)))


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for features in FEATURES:
        x_NF = drawn(features)
        names = [f"f{number}" for number in range(features)]
        columns = {"s": (60_000 * np.arange(4000), x_NF[:4000])}
        detector = fit_detector("series", names, plan_of("series", features, "default", {}), columns, device=CPU)
        legs: dict[str, Callable[[], object]] = {
            "series": partial(detector.score_series, "s", x_NF, (0,)),
            "rings": through_rings(detector, x_NF),
        }
        if importlib.util.find_spec("pyod"):
            legs["peer"] = peer_run(x_NF)
        seconds: dict[str, list[float]] = {leg: [] for leg in legs}
        for _ in range(RUNS):
            for leg, run in legs.items():
                began_s = time.perf_counter()
                run()
                seconds[leg].append(time.perf_counter() - began_s)
        rate = {leg: ROWS / statistics.median(each) for leg, each in seconds.items()}
        found[str(features)] = {f"{leg}_per_s": round(each) for leg, each in rate.items()}
        if "peer" in rate:
            found[str(features)] |= {
                f"{leg}_ratio": round(rate[leg] / rate["peer"], 2) for leg in ("series", "rings")
            }
    print(json.dumps({**found, "machine": f"{platform.machine()}, Python {platform.python_version()}"}))


if __name__ == "__main__":
    main()
