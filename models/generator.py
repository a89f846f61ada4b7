"""Draws records and series that look like those that it was fitted to, in their units and on their grid.

Samples are drawn as `sampling` has it, in normal scores, and led back: scores to values of that rank
(`marginals`), values to the series' own scale, and onto the grid that the series' own rows show (`grid`).

A series is longer than a window: its windows follow each other as `walking` has it, and two that follow fade into
each other. No record is a copy: one that was there once only is drawn anew. What many share is nobody's secret,
and stays.

Legend: N records, R rows of a series, B windows of a chunk, T steps of a window, F features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.apart import as_values
from models.arrays import FloatArray, IntArray
from models.grid import Grid, snapped
from models.marginals import Marginals, OfPixels
from models.sampling import Sampler
from models.sampling_networks import flat
from models.spec import ModelSpec
from models.walking import Walk

_TRIES = 50
_CHUNK, _LEAST_CHUNK, _CHUNK_VALUES = 8_192, 16, 2**22


@dataclass
class Generator:
    """Draws records, series, and variations of windows."""

    spec: ModelSpec
    sampler: Sampler
    marginals: Marginals | OfPixels
    scale_of: Mapping[str, tuple[FloatArray, FloatArray]]
    """Centre and scale of each series."""
    grids_of: Mapping[str, Sequence[Grid]]
    series_N: IntArray
    """The number of each window's series, in the order of `scale_of`."""
    once: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, np.dtype("V1")))
    """Training records that were there once only."""
    redrawn: int = 0
    """Records that were copies and were drawn anew."""

    @property
    def _step(self) -> int:
        """Rows from a window to the next."""
        return self.spec.window - self.spec.window // 2

    @property
    def chunk(self) -> int:
        """Records that are drawn together, from a seed of their own: the first ones are the same however many are
        asked for."""
        return max(_LEAST_CHUNK, min(_CHUNK, _CHUNK_VALUES // len(self.spec.features)))

    @cached_property
    def _walk(self) -> Walk:
        return Walk(self.sampler, self._step)

    def records(self, count: int, seed: int) -> Iterator[FloatArray]:
        """Yield so many records, x_NF, some thousands at a time."""
        for number, begin in enumerate(range(0, count, self.chunk)):
            random = np.random.default_rng([seed, number])
            x_NF = self._records(self.chunk, random)
            for _ in range(_TRIES):
                copies = np.flatnonzero(np.isin(as_values(x_NF), self.once))
                if not len(copies):
                    break
                self.redrawn += len(copies)
                x_NF[copies] = self._records(len(copies), random)
            yield x_NF[: count - begin]

    def _records(self, count: int, random: np.random.Generator) -> FloatArray:
        source_B = random.integers(0, len(self.series_N), count)
        (name,) = self.scale_of
        return self.values(name, self.sampler.drawn(source_B, random))[:, 0]

    def series(self, name: str, rows: int, seed: int) -> Iterator[FloatArray]:
        """Yield so many rows of a series like the one of this name, x_RF, some windows at a time."""
        number = list(self.scale_of).index(name)
        random = np.random.default_rng([seed, number])
        own_N = np.flatnonzero(self.series_N == number)
        overlap, step = self.spec.window // 2, self._step
        rise_T1 = ((np.arange(overlap) + 0.5) / max(overlap, 1))[:, None]
        fading_TF: FloatArray | None = None
        for source_B, near_BK, normal_BK in self._walk.of(own_N, -(-rows // step), random):
            y_BTF = self.sampler.mixed(source_B, near_BK, normal_BK).numpy().astype(np.float64)
            parts = []
            for y_TF in y_BTF:
                if fading_TF is not None:
                    y_TF[:overlap] = (1 - rise_T1) * fading_TF + rise_T1 * y_TF[:overlap]
                parts.append(y_TF[:step])
                fading_TF = y_TF[step:]
            y_RF = np.concatenate(parts)[:rows]
            rows -= len(y_RF)
            yield self.values(name, torch.from_numpy(y_RF[None]))[0]

    def variations(self, name: str, x_TF: FloatArray, count: int, strength: float, seed: int) -> FloatArray:
        """Return so many variations of a window of a series, x_BTF; of a record, where series have no name.

        Args:
            x_TF: a record is a window of one row.
            strength: 0 is the window itself, 1 lies as far off as samples lie from the rows around them.
        """
        if strength == 0:
            # By way of scores a value that was never seen would come back as the nearest one that was.
            return np.repeat(x_TF[None], count, axis=0)
        random = np.random.default_rng([seed, len(self.scale_of)])
        center_F, scale_F = self.scale_of[name]
        y_TF = self.marginals.scores((x_TF - center_F) / scale_F).astype(np.float32)
        return self.values(name, self.sampler.around(torch.from_numpy(y_TF), count, random, strength))

    def values(self, name: str, y_BTF: Tensor, of_image: IntArray | None = None) -> FloatArray:
        """Return windows of scores in the units of a series and on its grid, x_BTF; images as bytes.

        Args:
            of_image: which values these are; None: all.
        """
        center_F, scale_F = (each if of_image is None else each[of_image] for each in self.scale_of[name])
        x_NF = center_F + scale_F * self.marginals.values(flat(y_BTF))
        if self.spec.image is None:
            return snapped(self.grids_of[name], x_NF).reshape(y_BTF.shape)
        (grid,) = self.grids_of[name]
        return cast(FloatArray, grid.snapped(x_NF).astype(np.uint8).reshape(y_BTF.shape))
