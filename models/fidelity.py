"""How much made-up rows are like real ones, and that they are no copies: plain measures, each in a number.

Real rows are such as nothing was learned from, but for privacy: there, what was learned from is what might be
copied.

Legend: N real rows or windows, M made-up ones, F features, T steps of a window, S training rows.
"""

from dataclasses import dataclass

import numpy as np

from models.apart import Span, deviations, distances, itself
from models.arrays import FloatArray

_MOST_USUAL = 8_192


@dataclass(frozen=True)
class Privacy:
    """Distances to the nearest training row, in standard deviations of the features; equal rows count once."""

    median: float
    """Of samples; copies are left out, and counted."""
    median_among_training: float
    copies: int
    """Distinct samples that equal a training row."""
    copies_of_one: int
    """Of these, those that only one training row equals."""
    samples: int
    """Distinct ones."""

    @property
    def kept(self) -> bool:
        """Whether samples lie at least as far off as training rows from one another."""
        return self.median >= self.median_among_training


def privacy(
    made_MD: FloatArray, training_SD: FloatArray, without: Span | None = None, unit_D: FloatArray | None = None
) -> Privacy:
    """Measure distances of samples to training rows; rows that are nobody's other `without` do not count.

    Args:
        unit_D: what distances are measured in, in place of standard deviations.
    """
    unit_D = deviations(training_SD) if unit_D is None else unit_D
    made_MD = np.unique(made_MD, axis=0)
    alone_SD, same_S, count_S = np.unique(training_SD, axis=0, return_inverse=True, return_counts=True)
    if without is None:
        without = itself(len(alone_SD))
    else:
        alone_SD, count_S = training_SD, count_S[same_S.ravel()]
    found_M = distances(made_MD / unit_D, alone_SD / unit_D)
    # Of some, evenly spaced, to all: the median needs no more.
    some = np.arange(0, len(alone_SD), -(-len(alone_SD) // _MOST_USUAL))
    usual_S = distances(alone_SD[some] / unit_D, alone_SD / unit_D, (without[0][some], without[1][some]), 1)
    usual_S = usual_S[np.isfinite(usual_S)]
    equal = made_MD[found_M == 0]
    single_SD = alone_SD[count_S == 1]
    ones = int((distances(equal / unit_D, single_SD / unit_D) == 0).sum()) if len(equal) and len(single_SD) else 0
    apart_M = found_M[found_M > 0]
    return Privacy(
        float(np.median(apart_M)) if len(apart_M) else 0.0,
        float(np.median(usual_S)) if len(usual_S) else 0.0,
        len(equal),
        ones,
        len(made_MD),
    )


def marginal_distances(real_NF: FloatArray, made_MF: FloatArray) -> FloatArray:
    """Return of each feature how far the two shares of rows below a value lie apart at most (Kolmogorov, 1933)."""
    return np.array([_apart(real_N, made_M) for real_N, made_M in zip(real_NF.T, made_MF.T, strict=True)])


def _apart(real_N: FloatArray, made_M: FloatArray) -> float:
    value = np.unique(np.concatenate([real_N, made_M]))
    below_real = np.searchsorted(np.sort(real_N), value, side="right") / len(real_N)
    below_made = np.searchsorted(np.sort(made_M), value, side="right") / len(made_M)
    return float(np.abs(below_real - below_made).max())


def correlations(x_NF: FloatArray) -> FloatArray:
    """Return the correlation of any two features, 0 with one that stands still."""
    z_NF = (x_NF - x_NF.mean(axis=0)) / deviations(x_NF)
    return np.asarray(z_NF.T @ z_NF / len(z_NF), np.float64)


def autocorrelations(x_NTF: FloatArray) -> FloatArray:
    """Return of each lag within a window the correlation of each feature with itself so much later, [T, F]."""
    centred_NTF = x_NTF - x_NTF.mean(axis=(0, 1))
    variance_F = np.square(centred_NTF).mean(axis=(0, 1))
    variance_F = np.where(variance_F > 0, variance_F, np.inf)
    steps = x_NTF.shape[1]
    each = [(centred_NTF[:, : steps - lag] * centred_NTF[:, lag:]).mean(axis=(0, 1)) for lag in range(steps)]
    return np.stack(each) / variance_F


def window_numbers(x_NTF: FloatArray) -> FloatArray:
    """Return what tells a window from others, whatever its length, x_ND.

    Of each feature mean, spread, least and largest value, slope, the spread of its steps, and its first and last
    value.
    """
    steps = x_NTF.shape[1]
    centred_T = np.arange(steps) - (steps - 1) / 2
    slope_NF = np.einsum("ntf,t->nf", x_NTF - x_NTF[:, -1:], centred_T / np.square(centred_T).sum())
    each = [x_NTF.mean(1), x_NTF.std(1), x_NTF.min(1), x_NTF.max(1), slope_NF, np.diff(x_NTF, axis=1).std(1)]
    return np.concatenate([*each, x_NTF[:, 0], x_NTF[:, -1]], axis=1)
