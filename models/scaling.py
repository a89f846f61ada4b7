"""Scaling: values of any unit -> numbers near 0 to 1, for each series and feature.

A series is scaled by the range of its own training values (`range`): that did best on NAB, SMAP, MSL, SMD, ASD and
SKAB, before mean and standard deviation (`standard`) and median and the range of nine tenths (`robust`); figures in
`tests/benchmarks/results/README.md`. A feature that was constant is scaled by its own magnitude, so that it stands
out when it moves.

What a series showed once in training is no habit: a single value far outside all others would leave no room for
them in the range, and none for the next such value to be strange. `tamed` draws it near.

Records of features are scaled by mean and standard deviation. A feature that is nearly always the same would be
blown up by that, and its rare other values would outweigh everything: its scale is at least half of the usual one,
as far as its own range allows. To reduce them to codes, where each feature is to count alike, it is the plain
standard deviation (`deviation`). Pixels of images are scaled channel by channel and all alike: scaled by itself, a
corner that is nearly always black would outweigh the image. Everything is finite and no scale is ever zero.

Legend: T time steps, N records, F features, P parts of a series.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import BoolArray, FloatArray
from models.dataset import LARGEST_VALUE
from models.spec import ImageShape

ScalingKind = Literal["range", "standard", "robust", "deviation"]
LIMIT = 1e4
"""Scaled values are clipped here, far outside anything seen in training, so that squares stay finite."""
_STRAIGHT = 4.0
"""Up to here a compressed value is the scaled one."""
_SAMPLED_VALUES, _SCALED_VALUES = 2**22, 2**22
"""Of pixels: by which images are scaled, and which are scaled at once."""
_LEAST_SCALE = 0.5
"""Of the median feature's standard deviation."""


@dataclass(frozen=True)
class Scaling:
    """Centre and scale of each feature; of each series, too, where there are series."""

    center_F: FloatArray
    """Pooled over all training rows."""
    scale_F: FloatArray
    kind: ScalingKind = "range"
    series: Mapping[str, int] = field(default_factory=dict)
    """Row of each series in the arrays below."""
    center_SF: FloatArray | None = None
    scale_SF: FloatArray | None = None

    def for_series(self, name: str) -> tuple[FloatArray, FloatArray] | None:
        """Return a series' own (centre, scale), or None where it was not there in training."""
        row = self.series.get(name)
        if row is None or self.center_SF is None or self.scale_SF is None:
            return None
        return self.center_SF[row], self.scale_SF[row]

    @property
    def of_all(self) -> tuple[FloatArray, FloatArray]:
        """Centres and scales of all series of training, in its order."""
        assert self.center_SF is not None
        assert self.scale_SF is not None
        return self.center_SF, self.scale_SF

    def for_new(self, x_TF: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (centre, scale) of a series that was not there in training, from its first rows.

        Where the training series are alike, theirs serve, widened to hold the rows. Where each has its own
        level, the rows decide; their scale is doubled, for a few rows seldom show all of it.
        """
        # The range of larger values overflows; training leaves such rows out.
        x_TF = x_TF.clip(-LARGEST_VALUE, LARGEST_VALUE)
        if self.kind != "range":
            center_F, scale_F = estimated(x_TF, self.kind)
            return np.where(self._alike_F, self.center_F, center_F), np.where(
                self._alike_F, self.scale_F, 2 * scale_F
            )
        low_F, high_F = x_TF.min(axis=0), x_TF.max(axis=0)
        pooled_low_F = np.minimum(self.center_F, low_F)
        pooled_width_F = np.maximum(self.center_F + self.scale_F, high_F) - pooled_low_F
        own_width_F = _never_zero(2 * (high_F - low_F), np.abs(high_F))
        alike_F = self._alike_F
        return (
            np.where(alike_F, pooled_low_F, low_F - own_width_F / 4),
            np.where(alike_F, pooled_width_F, own_width_F),
        )

    @cached_property
    def _alike_F(self) -> BoolArray:
        """Tell for each feature whether the training series share one level and one width."""
        if self.center_SF is None or self.scale_SF is None:
            return np.ones(len(self.center_F), bool)
        low_F, high_F = np.quantile(self.center_SF, [0.1, 0.9], axis=0)
        narrow_F, wide_F = np.quantile(self.scale_SF, [0.1, 0.9], axis=0)
        alike_F: BoolArray = (high_F - low_F <= self.scale_F) & (wide_F <= 4 * narrow_F)
        return alike_F

    @staticmethod
    def apply(x_NF: FloatArray, center_F: FloatArray, scale_F: FloatArray) -> npt.NDArray[np.float32]:
        """Scale in 64 bits, so that a large counter keeps its small steps, and clip."""
        if x_NF.dtype == np.uint8 and x_NF.size > _SCALED_VALUES:
            # Some images at a time: in 64 bits they take eight times what they are read as.
            parts = np.array_split(x_NF, -(-x_NF.size // _SCALED_VALUES))
            return np.concatenate([Scaling.apply(part_NF, center_F, scale_F) for part_NF in parts])
        with np.errstate(over="ignore"):
            z_NF = x_NF - center_F
            # In place: on many rows memory costs more than reckoning.
            z_NF /= scale_F
        return np.clip(z_NF, -LIMIT, LIMIT, out=z_NF).astype(np.float32)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what is saved."""
        saved: dict[str, npt.NDArray[Any]] = {"scaling.center": self.center_F, "scaling.scale": self.scale_F}
        if self.center_SF is not None and self.scale_SF is not None:
            saved |= {"scaling.series_center": self.center_SF, "scaling.series_scale": self.scale_SF}
        return saved

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], kind: ScalingKind, names: list[str]) -> "Scaling":
        return cls(
            arrays["scaling.center"],
            arrays["scaling.scale"],
            kind,
            {name: row for row, name in enumerate(names)},
            arrays.get("scaling.series_center"),
            arrays.get("scaling.series_scale"),
        )


def estimated(x_TF: FloatArray, kind: ScalingKind) -> tuple[FloatArray, FloatArray]:
    """Return (centre, scale) of each feature from some rows."""
    low_F, high_F = x_TF.min(axis=0), x_TF.max(axis=0)
    center_F, width_F = low_F, high_F - low_F
    if kind in ("standard", "deviation"):
        center_F, width_F = x_TF.mean(axis=0), x_TF.std(axis=0)
    elif kind == "robust":
        lower_F, center_F, upper_F = np.quantile(x_TF, [0.05, 0.5, 0.95], axis=0)
        # Nearly always the same: the range is all that is left.
        width_F = np.where(_real(upper_F - lower_F, np.abs(high_F)), upper_F - lower_F, width_F)
    return center_F, _never_zero(width_F, np.abs(high_F))


_EVENT_ROWS, _LEAST_PARTS = 16, 32


def tamed(x_TF: FloatArray) -> FloatArray:
    """Clip what one short event showed, more than one range beyond all that the rest of a series showed.

    The series is cut into parts of 16 rows. A feature's largest value is measured by the parts away from it, and
    so is its smallest (winsorising: Tukey, "The Future of Data Analysis", 1962). What another part confirms is
    usual, however rare.
    """
    size = max(1, min(_EVENT_ROWS, len(x_TF) // _LEAST_PARTS))
    starts = np.arange(0, len(x_TF), size)
    if len(starts) < _LEAST_PARTS:
        return x_TF
    high_F = _largest_elsewhere(np.maximum.reduceat(x_TF, starts, axis=0))
    low_F = -_largest_elsewhere(np.maximum.reduceat(-x_TF, starts, axis=0))
    width_F = high_F - low_F
    # A feature that moved once only has no other range.
    return np.where(width_F > 0, np.clip(x_TF, low_F - width_F, high_F + width_F), x_TF)


def _largest_elsewhere(high_PF: FloatArray) -> FloatArray:
    """Return the largest value of all parts but the one with the very largest, and its neighbours."""
    away_PF = np.abs(np.arange(len(high_PF))[:, None] - high_PF.argmax(axis=0))
    largest_F: FloatArray = np.where(away_PF <= 1, -np.inf, high_PF).max(axis=0)
    return largest_F


def fit_series(columns: Mapping[str, FloatArray], kind: ScalingKind = "range") -> Scaling:
    """Fit one (centre, scale) a series from its rows x_TF, and a pooled one."""
    each = [estimated(x_TF, kind) for x_TF in columns.values()]
    center_SF = np.stack([center_F for center_F, _ in each])
    scale_SF = np.stack([scale_F for _, scale_F in each])
    rows = {name: row for row, name in enumerate(columns)}
    return Scaling(np.median(center_SF, axis=0), np.median(scale_SF, axis=0), kind, rows, center_SF, scale_SF)


def fit_features(x_NF: FloatArray, kind: ScalingKind = "standard") -> Scaling:
    """Fit one (centre, scale) for independent rows; of kind standard: the standard deviation or a little more.

    A feature that was constant then takes the median feature's, or its own magnitude where all were.
    """
    if kind != "standard":
        return Scaling(*estimated(x_NF, kind), kind)
    center_F, std_F, range_F = x_NF.mean(axis=0), x_NF.std(axis=0), np.ptp(x_NF, axis=0)
    moves_F = _real(std_F, np.abs(center_F))
    if not moves_F.any():
        return Scaling(center_F, _never_zero(std_F, np.abs(center_F)), kind)
    median = np.median(std_F[moves_F])
    scale_F = np.where(moves_F, np.maximum(std_F, np.minimum(_LEAST_SCALE * median, range_F)), median)
    return Scaling(center_F, scale_F, kind)


def fit_images(x_NF: npt.NDArray[Any], shape: ImageShape, kind: ScalingKind = "standard") -> Scaling:
    """Fit one (centre, scale) for each channel, from images that lie evenly among these; it serves all pixels."""
    every = max(1, -(-x_NF.size // _SAMPLED_VALUES))
    center_C, scale_C = estimated(x_NF[::every].reshape(-1, shape.channels).astype(np.float64), kind)
    pixels = shape.height * shape.width
    return Scaling(np.tile(center_C, pixels), np.tile(scale_C, pixels), kind)


def compressed(z: Tensor) -> Tensor:
    """Return scaled values with large ones as logarithms: straight to 4 on either side, without a bend there."""
    beyond = z.abs() - _STRAIGHT
    return torch.where(beyond > 0, z.sign() * (_STRAIGHT + torch.log1p(beyond.clamp(min=0))), z)


def expanded(y: Tensor) -> Tensor:
    """Return the scaled values that `compressed` took; infinite beyond what 32 bits hold."""
    beyond = y.abs() - _STRAIGHT
    return torch.where(beyond > 0, y.sign() * (_STRAIGHT + torch.expm1(beyond.clamp(min=0))), y)


def _real(width_F: FloatArray, magnitude_F: FloatArray) -> BoolArray:
    # A width lost in rounding is no width: scaling by it would blow up the last bits.
    real_F: BoolArray = (width_F > 4 * np.finfo(np.float64).eps * magnitude_F) & (width_F > 0)
    return real_F


def _never_zero(width_F: FloatArray, magnitude_F: FloatArray) -> FloatArray:
    return np.where(_real(width_F, magnitude_F), width_F, np.where(magnitude_F > 0, magnitude_F, 1.0))
