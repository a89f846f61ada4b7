"""Parquet files of `offkey evaluate`: labelled series and tables in, scores out.

A series has the columns `timestamp` (ms, or a Parquet time), `train` (rows that a detector may learn from),
`scored` (rows that count), `label` (0 or 1), and its features. A table of independent rows has `label` and its
features. The folder names the group, the file the series.

What would make a figure meaningless is refused: no label, no training rows, values that are no numbers, time in
disorder. What a person should know and may have meant is remarked upon.

Legend: N rows, F features.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray
from models.spec import shortened
from pipeline.connectors.parquet import Array, Coded, Columns, ParquetError, Reader, encode, of_user
from pipeline.errors import ConfigError
from pipeline.fields import is_called_like_a_label

ROLES = ("timestamp", "train", "scored", "label")
_MOST_STEPS_BACK = 0.01
"""Share of a series' steps that may stand still or go back, as at the end of summer time; more is disorder."""
_CONFIGURATION = "offkey.configuration"


@dataclass(frozen=True)
class Labelled:
    """The rows of one file; of a table every row counts, and none has a time."""

    group: str
    name: str
    features: tuple[str, ...]
    x_NF: FloatArray
    label_N: BoolArray
    time_ms_N: IntArray
    """Of a table: the row's number."""
    train_N: BoolArray | None
    """None for a table: its setting says which rows are learned from."""
    scored_N: BoolArray
    remarks: tuple[str, ...] = field(default=())

    @property
    def kind(self) -> str:
        """`series` or `table`."""
        return "table" if self.train_N is None else "series"


def read_labelled(path: Path) -> Labelled:
    """Return what one file holds, checked.

    Raises:
        ConfigError: it cannot be read, or not be evaluated; the text says which column, and what to do.
    """
    table = _table(path)
    names = table.names
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigError(f"{path}: column {doubled[0]!r} is there twice; rename or drop one")
    if "label" not in names:
        raise ConfigError(
            f"{path}: there is no column `label` (0 normal, 1 anomalous), so nothing can be measured; add it, or "
            f"use `offkey train` for data without labels. There are: {shortened(names)}"
        )
    lacking = [role for role in ROLES[:3] if role not in names]
    if 0 < len(lacking) < 3:
        raise ConfigError(
            f"{path}: there is no column `{lacking[0]}`; a series has timestamp, train, scored, label and "
            "features, a table of independent rows label and features"
        )
    if not table.rows:
        raise ConfigError(f"{path}: holds no rows")
    features = tuple(name for name in names if name not in ROLES)
    if not features:
        raise ConfigError(f"{path}: there is no feature beside {', '.join(names)}")
    label_N = _flags(path, table, "label")
    x_NF = np.column_stack([_feature(path, table, name) for name in features])
    remarks = _leaks(path, features, x_NF, label_N)
    group, rows = path.resolve().parent.name, table.rows
    if lacking:
        scored_N = np.ones(rows, np.bool_)
        _check_labels(path, label_N, scored_N)
        return Labelled(group, path.stem, features, x_NF, label_N, np.arange(rows), None, scored_N, tuple(remarks))
    train_N, scored_N = _flags(path, table, "train"), _flags(path, table, "scored")
    if not train_N.any():
        raise ConfigError(f"{path}: no row is marked `train`, so there is nothing to learn from; mark some")
    if not scored_N.any():
        raise ConfigError(f"{path}: no row is marked `scored`, so there is nothing to measure; mark some")
    _check_labels(path, label_N, scored_N)
    time_ms_N, more = _time(path, table)
    remarks += more
    if (train_N & scored_N).any():
        both = int((train_N & scored_N).sum())
        remarks.append(f"{path}: {both:,} rows are both `train` and `scored`; figures of rows learned from flatter")
    return Labelled(group, path.stem, features, x_NF, label_N, time_ms_N, train_N, scored_N, tuple(remarks))


def write_scores(
    path: Path, time_ms_N: IntArray, label_N: BoolArray, scores: Mapping[str, FloatArray], configuration: str
) -> None:
    """Write a score file, whole or not at all; `configuration` says later what it was made with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Array | Coded] = {"timestamp": time_ms_N, "label": label_N.astype(np.int8), **scores}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(encode(columns, {_CONFIGURATION: configuration}))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_scores(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a score file."""
    table = _table(path)
    return {name: table.array(name) for name in table.names}


def configuration_of(path: Path) -> str | None:
    """Return what a score file was made with; None where there is no such file, or it is none of ours."""
    try:
        return Reader(path).facts.get(_CONFIGURATION)
    except (FileNotFoundError, ParquetError):
        return None


def _table(path: Path) -> Columns:
    with of_user(path, "write it with pyarrow or pandas"):
        return Reader(path).read()


def _feature(path: Path, table: Columns, name: str) -> FloatArray:
    x_N = table.floats(name)
    if x_N is None:
        kind = table.kind(name)
        raise ConfigError(f"{path}: column {name!r} holds {kind}, not numbers; drop it or encode it as numbers")
    bad = np.flatnonzero(~np.isfinite(x_N))
    if len(bad):
        raise ConfigError(
            f"{path}: column {name!r} holds {len(bad):,} empty or infinite values, the first in row {bad[0]:,}; "
            "fill them or drop those rows"
        )
    return x_N


def _flags(path: Path, table: Columns, name: str) -> BoolArray:
    value_N = table.floats(name)
    if value_N is None:
        raise ConfigError(f"{path}: column `{name}` holds {table.kind(name)}; it takes 0 and 1")
    bad = np.flatnonzero((value_N != 0) & (value_N != 1))
    if len(bad):
        raise ConfigError(f"{path}: column `{name}` takes 0 and 1; row {bad[0]:,} holds {value_N[bad[0]]:g}")
    return np.asarray(value_N == 1, np.bool_)


def _check_labels(path: Path, label_N: BoolArray, scored_N: BoolArray) -> None:
    anomalies = int(label_N[scored_N].sum())
    if anomalies == 0:
        raise ConfigError(f"{path}: no scored row is labelled 1, so nothing can be found; leave the file out")
    if anomalies == int(scored_N.sum()):
        raise ConfigError(f"{path}: all scored rows are labelled 1; normal is 0, anomalous is 1")


def _time(path: Path, table: Columns) -> tuple[IntArray, list[str]]:
    time_ms_N = table.whole_ms("timestamp")
    if time_ms_N is None:
        raise ConfigError(f"{path}: column `timestamp` takes whole milliseconds, none of them empty")
    step_N = np.diff(time_ms_N)
    still = np.flatnonzero(step_N <= 0)
    if not len(still):
        return time_ms_N, []
    row = int(still[0]) + 1
    if len(still) > _MOST_STEPS_BACK * len(step_N):
        raise ConfigError(
            f"{path}: `timestamp` repeats or goes back {len(still):,} times, first in row {row:,}; sort the rows "
            "by time, keep one of equal ones, and one series a file"
        )
    return time_ms_N, [
        f"{path}: `timestamp` repeats or goes back {len(still):,} times, first in row {row:,}; rows count in the "
        "order of the file"
    ]


def _leaks(path: Path, features: tuple[str, ...], x_NF: FloatArray, label_N: BoolArray) -> list[str]:
    """Return a warning for each feature that is the label, or is called like one."""
    remarks = []
    for name, x_N in zip(features, x_NF.T, strict=True):
        if is_called_like_a_label(name):
            remarks.append(f"{path}: feature {name!r} is called like a label; drop it if it is one")
        elif label_N.any() and not label_N.all() and _tells_apart(x_N, label_N):
            remarks.append(f"{path}: feature {name!r} is the label under another name; drop it")
    return remarks


def _tells_apart(x_N: FloatArray, label_N: BoolArray) -> bool:
    """Tell whether a column has one value on all labelled rows and another one on all others."""
    one, other = x_N[label_N], x_N[~label_N]
    return bool(one[0] != other[0] and (one == one[0]).all() and (other == other[0]).all())
