"""A first look at all rows: how many there are, and a bounded sample of them.

The sample is drawn by a hash of a row's number and the seed: the rows of the smallest hashes. So it is uniform
whatever the order of the rows, needs not know how many there are, and is the same at every look. Its rows are in
the order of their hashes, which is a shuffled one: the first part serves to learn from, the last one is held out.

Legend: N rows, S rows of the sample, F features.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray
from models.spec import shortened
from pipeline.connectors.parquet import Array, Coded
from pipeline.errors import SnapshotError
from pipeline.jobs.blocks import Block, Input, joined

HELD_OUT = 0.2
_LEAST_ROWS = 50
"""To learn from."""
_MOST_ROWS, _MOST_VALUES = 65_536, 2**23
"""Of the sample: 64 MiB of values at most."""
_WIDE_ROWS, _WIDE_VALUES = 1_000, 2**25
"""Of rows of very many values it has more all the same, for fewer teach little: 256 MiB at most."""


@dataclass(frozen=True)
class Look:
    """What was seen of an input."""

    rows: int
    unusable: int
    """Rows with a value that is empty, infinite or too large to reckon with."""
    digest: int
    """Of what names the rows: two looks at the same rows find the same."""
    sample: Block
    """Usable rows, in an order drawn at random."""

    @property
    def learning(self) -> Block:
        """The part of the sample to learn from."""
        return self.sample.cut(0, self._cut)

    @property
    def held_out(self) -> Block:
        """The rest, to judge by."""
        return self.sample.cut(self._cut, len(self.sample))

    @property
    def _cut(self) -> int:
        return len(self.sample) - int(HELD_OUT * len(self.sample))


def look(
    source: Input, seed: int, progress: Callable[[int], None], also: Callable[[Block], None] | None = None
) -> Look:
    """Read all rows once, and draw the sample.

    Args:
        progress: told how many rows were read.
        also: shown each block.
    """
    most = rows_of_sample(len(source.features))
    chosen: list[tuple[npt.NDArray[np.uint64], Block]] = []
    limit, held, rows, unusable, digest = np.uint64(2**64 - 1), 0, 0, 0, 0
    for block in source.blocks():
        key_N, usable_N = keys(rows, len(block), seed), block.usable_N
        rows, unusable = rows + len(block), unusable + int((~usable_N).sum())
        for column in block.columns.values():
            digest = zlib.crc32(_bytes(column), digest)
        digest = zlib.crc32(_bytes(block.values_NF[:1]), digest)
        taken = np.flatnonzero(usable_N & (key_N <= limit))
        if len(taken):
            chosen.append((key_N[taken], block.take(taken)))
            held += len(taken)
        if held >= 2 * most:
            chosen = [_smallest(chosen, most)]
            limit, held = chosen[0][0][-1], most
        if also is not None:
            also(block)
        progress(rows)
    if not chosen:
        nothing = Block({}, np.empty((0, len(source.features))))
        return Look(rows, unusable, digest, nothing)
    return Look(rows, unusable, digest, _smallest(chosen, most)[1])


def rows_of_sample(features: int) -> int:
    """Return how many rows a sample has at most."""
    least = max(_LEAST_ROWS, min(_WIDE_ROWS, _WIDE_VALUES // features))
    return min(_MOST_ROWS, max(least, _MOST_VALUES // features))


def require_rows(what: str, rows: int, unusable: int, features: Sequence[str]) -> None:
    """See that there are rows to learn from.

    Raises:
        SnapshotError: there are none, or too few that hold numbers only.
    """
    if not rows:
        raise SnapshotError(f"{what}: there are no rows; ask for more time, or see what is kept in `snapshots`")
    if rows - unusable < _LEAST_ROWS:
        raise SnapshotError(
            f"{what}: {rows - unusable:,} of {rows:,} rows hold a number for each of {shortened(features)}; "
            f"{_LEAST_ROWS} are needed: fill empty values, or name fewer `features`"
        )


def keys(first: int, count: int, seed: int) -> npt.NDArray[np.uint64]:
    """Return a hash of each of so many row numbers (splitmix64: Steele, Lea and Flood, OOPSLA 2014)."""
    golden = 0x9E3779B97F4A7C15
    start = np.uint64((first + 1 + (seed << 32)) * golden % 2**64)
    with np.errstate(over="ignore"):
        z_N = start + np.arange(count, dtype=np.uint64) * np.uint64(golden)
        z_N = (z_N ^ (z_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z_N = (z_N ^ (z_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z_N ^ (z_N >> np.uint64(31)))


def _smallest(
    chosen: list[tuple[npt.NDArray[np.uint64], Block]], most: int
) -> tuple[npt.NDArray[np.uint64], Block]:
    key_N = np.concatenate([keys for keys, _ in chosen])
    order = np.argsort(key_N)[:most]
    return key_N[order], joined([block for _, block in chosen]).take(order)


def _bytes(column: Array | Coded) -> Any:
    return np.ascontiguousarray(column.code_N if isinstance(column, Coded) else column).view(np.uint8)


def r_squared(values_NF: FloatArray, rebuilt_NF: FloatArray) -> FloatArray:
    """Return the share of each feature's variance that a reconstruction explains; NaN of one that is constant."""
    left_F = np.square(values_NF - rebuilt_NF).sum(axis=0)
    all_F = np.square(values_NF - values_NF.mean(axis=0)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(all_F > 0, 1 - left_F / all_F, np.nan)


def r_squared_of_all(values_NF: FloatArray, rebuilt_NF: FloatArray) -> FloatArray:
    """Return the share of the variance of all features together, which have one unit: one number."""
    left, all_ = np.square(values_NF - rebuilt_NF).sum(), np.square(values_NF - values_NF.mean(axis=0)).sum()
    return np.array([1 - left / all_ if all_ > 0 else np.nan])
