"""What the training of networks takes and reaches: `python -m tests.benchmarks.early_stopping DATA/GROUP/SERIES...`

Each network, or those that `--networks` names, is trained in the default's views, on a seeded series and on the
labelled files that are named, without their labels: as it was before there was early stopping (30 epochs of large
batches, always), by today's configuration without early stopping, and by today's. Prints processor time and
held-out loss as shares of the first one's: sums of the seconds, geometric means of the losses.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.dataset import Columns
from models.fitting import fit_detector
from models.plan import plan_of
from pipeline.connectors.labelled import read_labelled

NETWORKS = ("vanilla", "sparse", "denoising", "variational", "convolutional", "recurrent")
WAYS: Mapping[str, Mapping[str, Any]] = {
    "before": {
        "max_epochs": 30,
        "patience": 10**9,
        "batch_windows": 256,
        "learning_rate": 2e-3,
        "trimmed_from": 1 / 3,
    },
    "never early": {"patience": 10**9},
    "today": {},
}
CPU = torch.device("cpu")


def seeded(seed: int) -> Columns:
    """Return noisy seasons of three features."""
    random = np.random.default_rng(seed)
    phase_TF = np.arange(4000)[:, None] / np.array([7.0, 19.0, 31.0]) + np.arange(3)
    x_TF = np.sin(phase_TF) + 0.1 * random.standard_normal(phase_TF.shape)
    return {"s": (60_000 * np.arange(len(x_TF)), x_TF)}


def learned(path: Path) -> Columns:
    rows = read_labelled(path)
    assert rows.train_N is not None
    count = int(rows.train_N.sum())
    return {rows.name: (60_000 * np.arange(count), rows.x_NF[rows.train_N])}


def measured(network: str, columns: Columns) -> dict[str, tuple[float, list[float], list[int]]]:
    """Return (seconds of the processor, held-out loss of each view, its epochs) for each way."""
    found = {}
    features = next(iter(columns.values()))[1].shape[1]
    for name, options in WAYS.items():
        plan = plan_of("series", features, "default", {"network": network, "max_seconds": 1e6, **options})
        started_s = time.process_time()
        names = [f"f{number}" for number in range(features)]
        views = fit_detector("series", names, plan, columns, device=CPU).training["views"]
        taken_s = time.process_time() - started_s
        found[name] = taken_s, [view["held_out_loss"] for view in views], [view["epochs"] for view in views]
    return found


def main(paths: Sequence[Path], networks: Sequence[str]) -> None:
    torch.set_num_threads(1)
    series = {"seeded": seeded(0), **{f"{path.parent.name}/{path.stem}": learned(path) for path in paths}}
    summary = {}
    for network in networks:
        each = []
        for name, columns in series.items():
            each.append(measured(network, columns))
            print(network, name, each[-1], file=sys.stderr, flush=True)
        seconds = {way: sum(one[way][0] for one in each) for way in WAYS}
        losses = {way: np.concatenate([one[way][1] for one in each]) for way in WAYS}
        summary[network] = {
            way: {
                "seconds": round(seconds[way] / seconds["before"], 2),
                "held-out loss": round(float(np.exp(np.log(losses[way] / losses["before"]).mean())), 3),
            }
            for way in WAYS
            if way != "before"
        }
    print(json.dumps({"series": list(series), **summary}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    asked = parser.parse_args()
    main(asked.paths, asked.networks)
