"""Whether more samples pay in the score of `variational`: `python -m tests.benchmarks.variational_samples FILE...`

Its score is the error of what the mean code decodes to. Instead, codes could be drawn from the distribution that
the encoder gives, and the errors of what they decode to averaged (the reconstruction probability of An and Cho,
"Variational Autoencoder based Anomaly Detection using Reconstruction Probability", 2015). The network is trained in
the default's views, calibrated and scored with either, on seeded series with labelled anomalies and on the labelled
files that are named. Prints VUS-PR, causal and settled, as means of each kind of series, and the time of scoring.

Legend: B windows, J judged rows, C channels.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from models.architectures.variational import Autoencoder
from models.arrays import BoolArray, FloatArray
from models.evaluation import period, vus
from models.fitting import fit_detector
from models.mapping import Delay
from models.plan import DEFAULT, plan_of
from models.views import View
from pipeline.connectors.labelled import read_labelled
from tests.benchmarks.robust_training import drawn

KINDS, SEEDS, SAMPLES = ("outages", "faults", "spikes"), (0, 1, 2), (1, 4, 16)
DELAYS: tuple[Delay, ...] = (0, None)
CPU = torch.device("cpu")

Series = tuple[str, FloatArray, FloatArray, BoolArray]
"""Kind, rows to learn from, rows to score, their labels."""


def errors_of(samples: int) -> Callable[[View, Tensor], tuple[Tensor, Tensor]]:
    """Return what stands in for `View.squared_errors`: the mean over so many drawn codes."""

    def squared_errors(view: View, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        network, judged = view.network, view.config.judged
        assert isinstance(network, Autoencoder)
        mean_BL, log_spread_BL = network.encoder(x_BTC.flatten(1)).chunk(2, dim=1)
        spread_BL = log_spread_BL.clamp(-6, 6).exp()
        each = [
            network.decode(mean_BL + spread_BL * torch.randn_like(mean_BL))[:, -judged:] for _ in range(samples)
        ]
        e_BJC = torch.stack([(x_BTC[:, -judged:] - rebuilt_BJC).square() for rebuilt_BJC in each]).mean(dim=0)
        return e_BJC, torch.stack(each).mean(dim=0)[:, -1]

    return squared_errors


def series_of(paths: Sequence[Path]) -> Iterator[Series]:
    for kind in KINDS:
        for seed in SEEDS:
            learned_NF, _ = drawn(seed, kind, 0.0)
            fresh_NF, label_N = drawn(1000 + seed, kind, 0.03)
            yield f"seeded: {kind}", learned_NF, fresh_NF, label_N == 1
    for path in paths:
        rows = read_labelled(path)
        assert rows.train_N is not None
        yield rows.group, rows.x_NF[rows.train_N], rows.x_NF[rows.scored_N], rows.label_N[rows.scored_N]


def measured(series: Series) -> tuple[list[float], float]:
    """Return (VUS-PR for each delay, seconds of scoring)."""
    _, learned_NF, x_NF, label_N = series
    features = learned_NF.shape[1]
    names = [f"f{number}" for number in range(features)]
    plan = plan_of("series", features, DEFAULT, {"network": "variational", "max_seconds": 1e6})
    columns = {"s": (60_000 * np.arange(len(learned_NF)), learned_NF)}
    detector = fit_detector("series", names, plan, columns, device=CPU)
    began_s = time.process_time()
    scores = detector.score_series("s", x_NF, DELAYS)
    taken_s = time.process_time() - began_s
    widest = period(x_NF[:, 0])
    return [vus(label_N, scores[delay], widest).pr for delay in DELAYS], taken_s


def main(paths: Sequence[Path]) -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[list[float]]]] = {}
    seconds: dict[str, float] = {}
    for series in series_of(paths):
        for samples in (0, *SAMPLES):
            way = f"{samples} drawn" if samples else "mean code"
            judged_by = errors_of(samples) if samples else View.squared_errors
            torch.manual_seed(0)
            with mock.patch.object(View, "squared_errors", judged_by):
                values, taken_s = measured(series)
            found.setdefault(series[0], {}).setdefault(way, []).append(values)
            seconds[way] = seconds.get(way, 0.0) + taken_s
        print(series[0], {way: values[-1] for way, values in found[series[0]].items()}, file=sys.stderr, flush=True)
    names = ["causal", "settled"]
    means = {
        kind: {
            way: dict(zip(names, np.mean(values, axis=0).round(3).tolist(), strict=True))
            for way, values in ways.items()
        }
        for kind, ways in found.items()
    }
    relative = {way: round(value / seconds["mean code"], 2) for way, value in seconds.items()}
    print(json.dumps({**means, "seconds of scoring": relative}))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
