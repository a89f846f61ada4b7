"""The recurrent architecture against a plain LSTM autoencoder: `python -m tests.benchmarks.recurrent_speed [DATA]`.

The plain one is what a textbook has (Malhotra et al., 2016): an `nn.LSTM` reads the window step by step, a second
one writes it back from the last state, and a linear layer turns states into values. Its states are 64 wide, a
usual size, and once more 16, half as wide as ours. All score the same windows on one thread: the plain ones at
the chunk size that suits them best of several, ours at the chunk size of the product, by `forward` and mean
squared error. Windows of 64 points of 3 features, and those of the default's views. Medians of several runs, in
turn, in processor time: other work on the machine counts little.

Quality: all learn by the same loop from the same series and are judged by the same view and calibration, VUS-PR
of causal and settled scores. On a seeded labelled series and, if DATA is given, on every ninth series of each of
its folders that has at most 3,000 rows to learn from: the plain ones take minutes for one.

Legend: B windows, T steps, C channels, H hidden.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from models import architectures
from models.architectures import Architecture, squared_error
from models.detector import windows_of_rows
from models.evaluation import period, vus
from models.fitting import fit_detector
from models.plan import plan_of
from pipeline.connectors.labelled import Labelled, read_labelled
from tests.benchmarks.robust_training import drawn

SHAPES = ((64, 3), (50, 3), (32, 6), (128, 1), (50, 38), (32, 76))
"""Steps and channels: the shape that was asked for, then those of the default's views of 1, 3 and 38 features."""
CHUNKS = (32, 64, 128, 256, 512, 1024, 2048)
WINDOWS, RUNS = 4_096, 7
WINDOW, EPOCHS, SEEDS, EVERY, MOST_ROWS = 64, 15, (0, 1), 9, 3_000
LEGS: Mapping[str, tuple[str, int]] = {
    "ours": ("recurrent", 32),
    "plain, 64 wide": ("plain", 64),
    "plain, 16 wide": ("plain", 16),
}
"""Architecture and width of each."""
CPU = torch.device("cpu")


class PlainLstm(Architecture):
    """An LSTM encoder and an LSTM decoder over single steps."""

    @dataclass(frozen=True)
    class Config:
        hidden: int = 64
        """Width of both states; the encoder's last one is the code."""

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        super().__init__()
        self.steps = shape[0]
        self.encoder = nn.LSTM(channels, config.hidden, batch_first=True)
        self.decoder = nn.LSTM(config.hidden, config.hidden, batch_first=True)
        self.to_values = nn.Linear(config.hidden, channels)

    def encode(self, x_BTC: Tensor) -> Tensor:
        code_BH: Tensor = self.encoder(x_BTC)[1][0][0]
        return code_BH

    def decode(self, z_BL: Tensor) -> Tensor:
        states_BTH, _ = self.decoder(z_BL.unsqueeze(1).expand(-1, self.steps, -1))
        x_BTC: Tensor = self.to_values(states_BTH)
        return x_BTC


@contextmanager
def known() -> Iterator[None]:
    """Make the plain one known as another distribution would."""
    plain = EntryPoint("plain", "tests.benchmarks.recurrent_speed:PlainLstm", architectures.ENTRY_POINTS)
    with mock.patch.object(architectures, "_added", return_value={"plain": plain}):
        yield


def built(leg: str, steps: int, channels: int) -> Architecture:
    name, hidden = LEGS[leg]
    return architectures.build(name, (steps,), channels, architectures.configure(name, {"hidden": hidden})).eval()


@torch.no_grad()
def seconds(network: Architecture, chunks: Sequence[Tensor]) -> float:
    """Return the processor time that it takes to score all windows, chunk by chunk."""
    began_s = time.process_time()
    for x_BTC in chunks:
        squared_error(network(x_BTC), x_BTC)
    return time.process_time() - began_s


def best_chunks(network: Architecture, each_BTC: Tensor) -> Sequence[Tensor]:
    """Return the windows in the chunks that the network is fastest with."""
    tried = [torch.split(each_BTC, size) for size in CHUNKS]
    took_s = [min(seconds(network, chunks) for _ in range(2)) for chunks in tried]
    best: Sequence[Tensor] = tried[took_s.index(min(took_s))]
    return best


def speeds(steps: int, channels: int) -> dict[str, float]:
    """Return windows a second of each leg, its chunk size, and ours over the plain ones."""
    rows = torch.randn(WINDOWS + steps - 1, channels, generator=torch.Generator().manual_seed(0))
    each_BTC = rows.unfold(0, steps, 1).transpose(1, 2).contiguous()
    networks = {leg: built(leg, steps, channels) for leg in LEGS}
    chunks = {leg: best_chunks(network, each_BTC) for leg, network in networks.items() if leg != "ours"}
    chunks["ours"] = [part.contiguous() for part in windows_of_rows(rows, steps)]
    took_s: dict[str, list[float]] = {leg: [] for leg in LEGS}
    for _ in range(RUNS):
        for leg, network in networks.items():
            took_s[leg].append(seconds(network, chunks[leg]))
    median_s = {leg: statistics.median(own) for leg, own in took_s.items()}
    found: dict[str, float] = {}
    for leg in LEGS:
        found |= {f"{leg}: per s": round(WINDOWS / median_s[leg]), f"{leg}: chunk": len(chunks[leg][0])}
    ratios = {f"ours to {leg}": round(median_s[leg] / median_s["ours"], 1) for leg in LEGS if leg != "ours"}
    return found | ratios


def seeded(seed: int) -> Labelled:
    """Return noisy seasons to learn from, and then fresh ones with labelled faults and spikes."""
    clean_NF, _ = drawn(seed, "spikes", 0.0)
    parts = [drawn(100 + seed, "faults", 0.02), drawn(200 + seed, "spikes", 0.01)]
    x_NF = np.concatenate([clean_NF, *(x for x, _ in parts)])
    label_N = np.concatenate([np.zeros(len(clean_NF), np.bool_), *(label.astype(np.bool_) for _, label in parts)])
    train_N = np.arange(len(x_NF)) < len(clean_NF)
    return Labelled(
        group="seeded",
        name=str(seed),
        features=tuple(f"f{number}" for number in range(x_NF.shape[1])),
        x_NF=x_NF,
        label_N=label_N,
        time_ms_N=60_000 * np.arange(len(x_NF)),
        train_N=train_N,
        scored_N=~train_N,
    )


def quality(rows: Labelled) -> list[list[float]]:
    """Return VUS-PR of each leg, causal and settled."""
    assert rows.train_N is not None
    columns = {rows.name: (rows.time_ms_N[rows.train_N], rows.x_NF[rows.train_N])}
    widest, scored_N = period(rows.x_NF[rows.scored_N, 0]), rows.scored_N
    found = []
    for name, hidden in LEGS.values():
        plan = plan_of("series", len(rows.features), name, {"hidden": hidden, "max_epochs": EPOCHS}, WINDOW)
        detector = fit_detector("series", rows.features, plan, columns, device=CPU)
        scores = detector.score_series(rows.name, rows.x_NF, (0, None))
        found.append([vus(rows.label_N[scored_N], scores[at][scored_N], widest).pr for at in (0, None)])
    return found


def main(data: Path | None) -> None:
    torch.set_num_threads(1)
    began_s = time.perf_counter()
    with known():
        speed = {f"{steps} x {channels}": speeds(steps, channels) for steps, channels in SHAPES}
        groups = {"seeded": [quality(seeded(seed)) for seed in SEEDS]}
        for folder in sorted(data.iterdir()) if data else ():
            for path in sorted(folder.glob("*.parquet"))[::EVERY]:
                rows = read_labelled(path)
                if rows.train_N is not None and rows.train_N.sum() <= MOST_ROWS:
                    groups.setdefault(rows.group, []).append(quality(rows))
                    print(rows.group, rows.name, groups[rows.group][-1], file=sys.stderr)
    means: dict[str, Any] = {group: np.round(np.mean(own, axis=0), 3).tolist() for group, own in groups.items()}
    found = {
        "speed": speed,
        "VUS-PR, causal and settled": {group: dict(zip(LEGS, mean, strict=True)) for group, mean in means.items()},
        "series": {group: len(own) for group, own in groups.items()},
        "seconds": round(time.perf_counter() - began_s),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
