"""Numbers of each series, as rows of one array: a model of a million series holds fourteen such tables.

Legend: S series of the table, N names that are asked for, K numbers of each.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray


class BySeries(Mapping[str, tuple[float, ...]]):
    """A row of numbers for each series, in the order of the names."""

    def __init__(self, row_of: Mapping[str, int], rows_SK: npt.NDArray[Any]) -> None:
        """`row_of` may be shared by several tables.

        Raises:
            ValueError: there are not as many rows as names.
        """
        if len(row_of) != len(rows_SK):
            raise ValueError(f"there are {len(rows_SK)} rows for {len(row_of)} series")
        self._row_of, self._rows_SK = row_of, rows_SK

    @classmethod
    def of(cls, rows: Mapping[str, Sequence[float]]) -> "BySeries":
        """Make a table of what is not in one yet."""
        return cls({name: row for row, name in enumerate(rows)}, np.array([*rows.values()], np.float64))

    def __getitem__(self, name: str) -> tuple[float, ...]:
        return tuple(self._rows_SK[self._row_of[name]].tolist())

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_of)

    def __len__(self) -> int:
        return len(self._row_of)

    def take(self, names: Sequence[str], otherwise: Sequence[float]) -> FloatArray:
        """Return the rows [N, K] of some names; `otherwise` is that of an unknown one."""
        row_N = np.array([self._row_of.get(name, -1) for name in names], np.int64)
        found_NK = np.tile(np.asarray(otherwise, np.float64), (len(names), 1))
        known_N = row_N >= 0
        # A table without rows has no columns either.
        if known_N.any():
            found_NK[known_N] = self._rows_SK[row_N[known_N]]
        return found_NK
