"""State that stays on the GPU against windows that are copied there: `python -m tests.benchmarks.gpu_residency`.

The stages behind decoding score the same polls of 10,000 series of three features in three ways: with buffers,
calibration and scoring on the GPU (`resident`), with all of it on the CPU but the reading of windows, which are
copied to the GPU, and their errors back, in each chunk (`copied`), and on the CPU alone (`cpu`). Legs in turn,
median of three. Needs a CUDA device; `--device cpu` plays all of it on the CPU: it says nothing but that it runs.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.detector import Detector
from models.fitting import fit_detector
from models.online_tail import SERIES_PACE
from models.plan import plan_of
from pipeline.protocols import TopicPartition
from pipeline.stages.decode import Batch
from pipeline.stages.scoring import Scorer
from pipeline.stages.series import SeriesTable
from pipeline.stages.windows import Windows

FEATURES, TRAINED, POLLS, RUNS = 3, 400, 20, 3
CPU = torch.device("cpu")
INTERVAL_MS = 60_000


def drawn(series: int, rows: int, seed: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """Return noisy cycles [row, series, feature]."""
    random = np.random.default_rng(seed)
    phase = np.arange(rows)[:, None, None] / 20 + np.arange(series)[None, :, None] + np.arange(FEATURES)
    return np.asarray(np.sin(phase) + 0.1 * random.standard_normal(phase.shape))


def model(architecture: str) -> Detector:
    x = drawn(50, TRAINED, 0)
    columns = {f"s{n}": (INTERVAL_MS * np.arange(TRAINED), x[:, n]) for n in range(x.shape[1])}
    names = [f"f{number}" for number in range(FEATURES)]
    return fit_detector("series", names, plan_of("series", FEATURES, architecture, {}), columns, device=CPU)


def leg(
    detector: Detector, device: torch.device, series: int, read: Callable[[Tensor], Tensor] | None = None
) -> float:
    """Return points a second; windows are read by `read` in place of the detector."""
    scorer = Scorer(detector, device)
    if read is not None:
        scorer._read = read
    table = SeriesTable(
        FEATURES,
        detector.spec.window,
        known_scaling=lambda name: (np.zeros(FEATURES), np.ones(FEATURES)),
        known_interval_ms=lambda name: float(INTERVAL_MS),
    )
    windows = Windows(table, estimate_scaling=detector.scaling.for_new, device=device, near=scorer.near)
    tail = scorer.online_tail(SERIES_PACE, accepting=True)
    names, rows = [f"s{number}" for number in range(series)], detector.spec.window + POLLS
    tail.begin(np.arange(series), names)
    tail.accept_after(np.arange(series), np.full(series, 1440.0))
    x = drawn(series, rows, 1)
    began_s = 0.0
    for row in range(rows):
        if row == detector.spec.window:
            began_s = time.perf_counter()
        number = np.arange(row * series, (row + 1) * series)
        time_ms = np.full(series, INTERVAL_MS * (row + 1))
        batch = Batch(TopicPartition("t", 0), names, time_ms, x[row], number, number, np.full(series, -1))
        for _ in scorer.score_windows(table.admit([batch]).points, windows, tail):
            pass
    return series * POLLS / (time.perf_counter() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--series", type=int, default=10_000)
    asked = parser.parse_args()
    device, series = torch.device(asked.device), asked.series
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is here; this benchmark is about one")
    torch.set_num_threads(1)
    printed: dict[str, object] = {}
    for architecture in ("vanilla", "default", "recurrent"):
        here, there = model(architecture), model(architecture).to(device)

        def through(z_BTF: Tensor, there: Detector = there) -> Tensor:
            return there.errors(z_BTF.to(device)).cpu()

        legs: dict[str, Callable[[], float]] = {
            "resident": lambda there=there: leg(there, device, series),  # type: ignore[misc]
            "copied": lambda here=here, through=through: leg(here, CPU, series, through),  # type: ignore[misc]
            "cpu": lambda here=here: leg(here, CPU, series),  # type: ignore[misc]
        }
        runs: dict[str, list[float]] = {name: [] for name in legs}
        for _ in range(RUNS):
            for name, run in legs.items():
                runs[name].append(run())
        printed[architecture] = {f"{name}_points_per_s": round(statistics.median(runs[name])) for name in legs}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    print(json.dumps({**printed, "series": series, "machine": f"{platform.machine()}, {name}"}))


if __name__ == "__main__":
    main()
