"""Values of one feature -> normal scores, and back: how each feature is spread, taken away and put back.

A value's score is the normal quantile of its rank in the middle (van der Waerden, 1952): whatever the unit and the
shape of a feature, a model then sees it spread as it expects. Equal values have one score, so that what stands
still goes on to. On the way back a score falls between two values that were seen, and lies between them in
proportion; a value that was seen c times has a stretch of scores for itself that is c ranks wide. Nothing lies
outside of what was seen.

Pixels of large images have one spread together, channel by channel (`OfPixels`): so many by themselves take long.

Legend: N rows, F features, K knots of a feature, C channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.arrays import FloatArray

_LOST = 1e-12
"""Of a share, what is lost on the way to a score and back."""
_MOST_KNOTS = 8_192
"""Of a feature: what is finer than this many quantiles is no matter of its spread."""


@dataclass(frozen=True)
class Marginal:
    """One feature."""

    value_K: FloatArray
    """Values that were seen, rising."""
    middle_K: FloatArray
    """The normal score of each."""
    low_K: FloatArray
    """Shares of rows from which on, and up to which, the value itself is meant."""
    high_K: FloatArray

    @classmethod
    def of(cls, x_N: FloatArray) -> "Marginal":
        value_K, count_K = np.unique(x_N, return_counts=True)
        rows = len(x_N)
        if len(value_K) > _MOST_KNOTS:
            kept = np.unique(np.linspace(0, rows - 1, _MOST_KNOTS).round().astype(np.int64))
            first_K = np.cumsum(count_K) - count_K
            place = np.unique(np.searchsorted(first_K, kept, side="right") - 1)
            begin = first_K[place]
            # Ranks of those left out lie between two that are kept.
            value_K, count_K, first_K = value_K[place], count_K[place], begin
        else:
            first_K = np.cumsum(count_K) - count_K
        middle_K = scores_of_shares((first_K + count_K / 2) / rows)
        return cls(value_K, middle_K, (first_K + 0.5) / rows, (first_K + count_K - 0.5) / rows)

    def scores(self, x_N: FloatArray) -> FloatArray:
        """Return normal scores; of what was not seen, between those of its neighbours."""
        return np.interp(x_N, self.value_K, self.middle_K)

    def values(self, score_N: FloatArray) -> FloatArray:
        """Return values; one that was seen is that number to the last bit."""
        share_N = shares_of_scores(score_N)
        at_N = np.minimum(np.searchsorted(self.high_K, share_N - _LOST), len(self.value_K) - 1)
        before_N = np.maximum(at_N - 1, 0)
        wide_N = np.maximum(self.low_K[at_N] - self.high_K[before_N], _LOST)
        way_N = np.clip((share_N - self.high_K[before_N]) / wide_N, 0, 1)
        between_N = self.value_K[before_N] + way_N * (self.value_K[at_N] - self.value_K[before_N])
        return np.where(share_N >= self.low_K[at_N] - _LOST, self.value_K[at_N], between_N)


@dataclass(frozen=True)
class Marginals:
    """All features."""

    of_F: Sequence[Marginal]

    @classmethod
    def of(cls, x_NF: FloatArray) -> "Marginals":
        return cls([Marginal.of(x_N) for x_N in x_NF.T])

    def scores(self, x_NF: FloatArray) -> FloatArray:
        return np.column_stack([own.scores(x_N) for own, x_N in zip(self.of_F, x_NF.T, strict=True)])

    def values(self, score_NF: FloatArray) -> FloatArray:
        return np.column_stack([own.values(y_N) for own, y_N in zip(self.of_F, score_NF.T, strict=True)])


@dataclass(frozen=True)
class OfPixels:
    """All values of images: those of a channel are alike."""

    of_C: Sequence[Marginal]

    @classmethod
    def of(cls, x_NF: FloatArray, channels: int) -> "OfPixels":
        return cls([Marginal.of(x_NF.reshape(-1, channels)[:, channel]) for channel in range(channels)])

    def scores(self, x_NF: FloatArray) -> FloatArray:
        return self._each(x_NF, Marginal.scores)

    def values(self, score_NF: FloatArray) -> FloatArray:
        return self._each(score_NF, Marginal.values)

    def _each(self, x_NF: FloatArray, of: Callable[[Marginal, FloatArray], FloatArray]) -> FloatArray:
        x_MC = x_NF.reshape(-1, len(self.of_C))
        found_MC = np.empty(x_MC.shape)
        for channel, own in enumerate(self.of_C):
            found_MC[:, channel] = of(own, x_MC[:, channel])
        return found_MC.reshape(x_NF.shape)


def scores_of_shares(share_N: FloatArray) -> FloatArray:
    """Return the values that these shares of a standard normal distribution lie below."""
    found: FloatArray = torch.special.ndtri(torch.from_numpy(share_N)).numpy()
    return found


def shares_of_scores(score_N: FloatArray) -> FloatArray:
    found: FloatArray = torch.special.ndtr(torch.from_numpy(np.ascontiguousarray(score_N))).numpy()
    return found
