"""PyOD's autoencoder on windows of 50 rows, on the files of `offkey evaluate` and in the same columns.

It is the peer that the default is compared with, as one would use it: the defaults of `AutoEncoder` (64-32 hidden
units, batch norm, ten epochs, standardised inputs, distance as the score) on flattened windows. A row's settled
score is the maximum over the windows that cover it, its causal one that of the window which ends there.

PyOD is no dependency of this project; in an environment of its own:

    pip install torch pyod==3.6.7 pyarrow tqdm
    OMP_NUM_THREADS=1 python -m tests.benchmarks.peer_pyod PATH... --out DIR --seeds 0 1 2

A run that was stopped goes on where it was. Series only; tables are left out.

Legend: N rows, T window, F features, B windows.
"""

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.arrays import FloatArray
from pipeline.connectors.labelled import Labelled, configuration_of, read_labelled, write_scores
from pipeline.jobs.results import CAUSAL, SETTLED, Result, read_results, series_measures, write_results

NAME, WINDOW = "pyod-window-50", 50


def windows(x_NF: FloatArray) -> FloatArray:
    """Return every window, flattened: [B, T * F]."""
    z_BFT = np.lib.stride_tricks.sliding_window_view(x_NF, WINDOW, axis=0)
    return z_BFT.transpose(0, 2, 1).reshape(len(z_BFT), -1)


def to_points(score_B: FloatArray) -> dict[str, FloatArray]:
    """Return causal and settled scores of rows; rows before the first whole window take its score."""
    before, after = np.repeat(score_B[:1], WINDOW - 1), np.full(WINDOW - 1, -np.inf)
    covering = np.lib.stride_tricks.sliding_window_view(np.concatenate([before, score_B, after]), WINDOW)
    return {CAUSAL: np.concatenate([before, score_B]), SETTLED: covering.max(axis=1)}


def peer(seed: int) -> Any:
    """Return PyOD's detector, at its defaults."""
    library = import_module("pyod.models.auto_encoder")
    return library.AutoEncoder(random_state=seed, verbose=0, device=torch.device("cpu"))


def judge(rows: Labelled, seed: int, scores: Path, configuration: str) -> Result:
    """Train, score, write the score file, measure."""
    assert rows.train_N is not None
    started_s = time.perf_counter()
    detector = peer(seed).fit(windows(rows.x_NF[rows.train_N]))
    fit_s = time.perf_counter() - started_s
    seconds = []
    for _ in range(2):
        started_s = time.perf_counter()
        points = to_points(detector.decision_function(windows(rows.x_NF)))
        seconds.append(time.perf_counter() - started_s)
    scored_N = rows.scored_N
    found = {name: score_N[scored_N].astype(np.float64) for name, score_N in points.items()}
    write_scores(scores, rows.time_ms_N[scored_N], rows.label_N[scored_N], found, configuration)
    result = Result(rows.group, rows.name, NAME, seed)
    result = series_measures(result, rows.label_N[scored_N], found, rows.x_NF[scored_N, 0])
    return replace(
        result,
        fit_s=fit_s,
        points_per_s=len(rows.x_NF) / min(seconds),
        rows=len(rows.x_NF),
        train_rows=int(rows.train_N.sum()),
        scored_rows=int(scored_N.sum()),
        labelled_rows=int(rows.label_N[scored_N].sum()),
        features=len(rows.features),
        configuration=configuration,
    )


def files(paths: Sequence[Path]) -> list[Path]:
    return [one for path in paths for one in (sorted(path.rglob("*.parquet")) if path.is_dir() else [path])]


def main() -> None:
    parser = argparse.ArgumentParser(description="PyOD's autoencoder on windows of 50 rows.")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    metrics = asked.out / "metrics.csv"
    results = {result.key: result for result in read_results(metrics)} if metrics.exists() else {}
    for seed in asked.seeds:
        for path in files(asked.paths):
            rows = read_labelled(path)
            if rows.train_N is None:
                continue
            parts = (path.read_bytes(), Path(__file__).read_bytes(), str(seed).encode(), version("pyod").encode())
            configuration = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
            scores = asked.out / f"seed-{seed}" / "scores" / rows.group / f"{rows.name}.parquet"
            known = results.get((rows.group, rows.name, NAME, seed, "", ""))
            if known and known.configuration == configuration == configuration_of(scores):
                continue
            result = judge(rows, seed, scores, configuration)
            results[result.key] = result
            write_results(metrics, results.values())
            print(
                f"seed {seed} {rows.group}/{rows.name}: VUS-PR causal {result.vus_pr_causal:.3f}, "
                f"settled {result.vus_pr_settled:.3f}; {result.points_per_s:,.0f} points/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
