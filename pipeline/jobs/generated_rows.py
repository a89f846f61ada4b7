"""Made-up rows as Parquet files, with anomalies where they are asked for, in the columns of `offkey evaluate`.

A series is a file of `timestamp`, `train` (its first half), `scored` (the rest), `label`, and its features; records
are one of `label` and their features. What was injected, where, and how far the values moved stands in
`anomalies.jsonl`. Rows are written as they are made: memory holds one stretch of them.

Legend: N rows of a stretch, F features.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from models.arrays import FloatArray
from models.grid import Grid
from models.injection import Anomaly, Fault, Injected, inject, spread_of
from pipeline.connectors.labelled import ROLES
from pipeline.connectors.parquet import Array, Coded, Writer
from pipeline.errors import ConfigError
from pipeline.jobs.blocks import Block, recut

STRETCH = 65_536
VARIATION = "variation"


@dataclass(frozen=True)
class Injection:
    """What anomalies to put in."""

    count: int = 0
    """Into each series, or into all records."""
    faults: tuple[Fault, ...] = ()
    size: float = 6.0
    """In spreads of the features."""
    points: int = 1
    """Rows of each."""
    gap: int = 1
    """Rows between two at least."""
    seed: int = 0

    def seed_of(self, number: int) -> int:
        """Return the seed of one part of what anomalies are put into."""
        return int(np.random.default_rng([self.seed, number]).integers(2**32))

    def numbered(self, begin: int, end: int) -> list[Anomaly]:
        """Return the anomalies from number `begin` to before `end`: each fault in turn."""
        sizes = {"flat": 0.0}
        faults = [self.faults[number % len(self.faults)] for number in range(begin, end)]
        return [Anomaly(fault, sizes.get(fault, self.size), self.points) for fault in faults]


class Labels:
    """Writes what was injected, a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w")
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, told: dict[str, Any]) -> None:
        self._file.write(json.dumps(told) + "\n")
        self.count += 1


@dataclass(frozen=True)
class Times:
    """Event times of a series that goes on."""

    series: str
    first_ms: int
    interval_ms: int

    def at(self, row: int) -> int:
        return self.first_ms + row * self.interval_ms


def write_rows(
    path: Path,
    parts: Iterable[FloatArray],
    rows: int,
    grids: Mapping[str, Grid],
    injection: Injection,
    labels: Labels,
    times: Times | None,
) -> Iterator[int]:
    """Write a file of so many rows, which come in parts; yield how many are written, each time that there are more.

    Args:
        grids: of each feature.
        times: of a series; None: rows are records.

    Raises:
        OSError: it cannot be written, as where the disk is full.
    """
    writer = Writer({"offkey.generated": times.series if times else "records"}, path)
    features, free, done = list(grids), rows // 2 if times else 0, 0
    # Many rows at a time: an anomaly needs rows around it.
    for number, block in enumerate(recut((Block({}, x_NF) for x_NF in parts), STRETCH)):
        x_NF, end = block.values_NF, done + len(block)
        free_N = np.arange(done, end) >= free
        label_N = np.zeros(len(x_NF), np.int8)
        if injection.count:
            # As many as there is free room in this stretch, of all.
            share = [max(0, place - free) * injection.count // (rows - free) for place in (done, end)]
            asked = injection.numbered(share[0], share[1])
            seed = injection.seed_of(number)
            changed_NF, found = inject(x_NF, free_N, asked, injection.gap, spread_of(x_NF), seed)
            for each in found:
                span = slice(each.begin, each.end)
                label_N[span] = 1
                for column in each.features:
                    changed_NF[span, column] = grids[features[column]].stepped(changed_NF[span, column])
                labels.add(_label(each, done, features, times))
            x_NF = changed_NF
        columns: dict[str, Array | Coded] = {}
        if times:
            train_N = ~free_N
            columns = {"timestamp": times.first_ms + np.arange(done, end) * times.interval_ms}
            columns |= {"train": train_N.astype(np.int8), "scored": free_N.astype(np.int8)}
        columns["label"] = label_N
        writer.add(columns | dict(zip(features, np.ascontiguousarray(x_NF.T), strict=True)))
        done = end
        yield done
    writer.close()


def _label(injected: Injected, first: int, features: Sequence[str], times: Times | None) -> dict[str, Any]:
    """Return what is told of an anomaly in a stretch that begins with row `first`."""
    begin, end = first + injected.begin, first + injected.end
    told: dict[str, Any] = {"series": times.series} if times else {}
    told |= {"fault": injected.anomaly.fault, "size": injected.anomaly.size, "begin": begin, "end": end}
    if times:
        told |= {"begin_ms": times.at(begin), "end_ms": times.at(end)}
    return {**told, "features": [features[column] for column in injected.features], "moved": injected.moved}


def write_variations(path: Path, x_BTF: FloatArray, features: Sequence[str], times: Times | None) -> None:
    """Write windows, or records, that are variations of one, below each other; raises as `write_rows` does."""
    count, steps, _ = x_BTF.shape
    columns: dict[str, Array | Coded] = {VARIATION: np.repeat(np.arange(count, dtype=np.int32), steps)}
    if times:
        columns["timestamp"] = np.tile(times.first_ms + np.arange(steps) * times.interval_ms, count)
    columns["label"] = np.zeros(count * steps, np.int8)
    flat_NF = x_BTF.reshape(count * steps, -1)
    writer = Writer({"offkey.generated": "variations"}, path)
    writer.add(columns | dict(zip(features, np.ascontiguousarray(flat_NF.T), strict=True)))
    writer.close()


def check_names(features: Sequence[str]) -> None:
    """See that no feature has the name of a column that says something else.

    Raises:
        ConfigError: one has.
    """
    taken = [name for name in features if name in (*ROLES, VARIATION)]
    if taken:
        raise ConfigError(
            f"feature {taken[0]!r} has the name of a column of generated files; leave it out of the stream's "
            "`features`"
        )
