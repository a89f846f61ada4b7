"""Small labelled Parquet files, as `offkey evaluate` takes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

MINUTE_MS = 60_000


def series_columns(rows: int = 600, features: int = 2, seed: int = 0) -> dict[str, Any]:
    """Return noisy cycles, the first half to learn from, with two labelled spans that break them."""
    random = np.random.default_rng(seed)
    phase_N = np.arange(rows)[:, None] / 25 * 2 * np.pi + np.arange(features)
    x_NF = np.sin(phase_N) + 0.05 * random.standard_normal((rows, features))
    label_N = np.zeros(rows, np.int8)
    for first in (int(0.6 * rows), int(0.8 * rows)):
        label_N[first : first + 12] = 1
    x_NF[label_N == 1] += 3
    train_N = np.arange(rows) < rows // 2
    return {
        "timestamp": 1_700_000_000_000 + MINUTE_MS * np.arange(rows),
        "train": train_N,
        "scored": ~train_N,
        "label": label_N,
        **{f"f{n:02}": x_NF[:, n].astype(np.float32) for n in range(features)},
    }


def table_columns(rows: int = 400, seed: int = 0) -> dict[str, Any]:
    """Return rows of which every tenth lies apart, each in a direction of its own."""
    random = np.random.default_rng(seed)
    label_N = (np.arange(rows) % 10 == 3).astype(np.int8)
    x_NF = random.standard_normal((rows, 3)) + 4 * label_N[:, None] * random.choice([-1, 1], (rows, 3))
    return {"label": label_N, **{f"f{n:02}": x_NF[:, n].astype(np.float32) for n in range(3)}}


def write(path: Path, columns: dict[str, Any]) -> Path:
    """Write a file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path
