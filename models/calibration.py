"""Errors -> tail probabilities, and scores -> the threshold for an alert budget.

A score is -10 log10 of the probability that a normal point looks as strange: normal scores are exponential
with mean 10 / ln 10. Two steps lead there:

1. `PooledTail` maps a point's error to its *surprise* by the distribution of the stream's training errors:
   the empirical one up to a high quantile, an exponential tail above it, since errors are logarithms (peaks
   over threshold: Pickands, "Statistical Inference Using Extreme Order Statistics", 1975; streaming use:
   Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017).
2. `online_tail.OnlineTail` maps surprise to the score by what this one series shows as it goes on.

Legend: B points, N training points, K levels, S series.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import FloatArray

DECIBEL = 10 / math.log(10)
"""Mean of a normal score."""


@dataclass(frozen=True)
class PooledTail:
    """A monotone map from error to surprise: straight lines between knots, and beyond the last one."""

    error_knots: Tensor
    surprise_knots: Tensor
    slope: Tensor
    """Surprise for each unit of error above the last knot."""

    def surprise(self, error_B: Tensor) -> Tensor:
        place_B = torch.searchsorted(self.error_knots, error_B).clamp(1, len(self.error_knots) - 1)
        low_B, high_B = self.error_knots[place_B - 1], self.error_knots[place_B]
        share_B = ((error_B - low_B) / (high_B - low_B)).clamp(0, 1)
        inside_B = torch.lerp(self.surprise_knots[place_B - 1], self.surprise_knots[place_B], share_B)
        above_B = (error_B - self.error_knots[-1]).clamp(min=0) * self.slope
        # Less strange than all of training is a surprise of 0, but for a trace that lets ranks survive.
        below_B = (error_B - self.error_knots[0]).clamp(min=-_LOWEST, max=0) * _TRACE
        return inside_B + above_B + below_B

    def to(self, device: torch.device) -> "PooledTail":
        return PooledTail(self.error_knots.to(device), self.surprise_knots.to(device), self.slope.to(device))


_TRACE, _LOWEST = 1e-3, 100.0
_TAIL_POINTS = 100
"""Above the error that so many training points exceed, the tail is a fitted one."""
_WIDENED = 0.5
"""Least width of a tail, in logarithms, over the windows that lie apart in training."""
_KNOTS = 128


def fit_pooled_tail(error_N: FloatArray, window: int = 1) -> PooledTail:
    """Fit the map from training errors, robustly: a few anomalies among them hardly move it.

    The mean excess above the threshold is taken from the median excess, which is ln 2 of it in an
    exponential tail, so the largest errors do not count by their size. Errors of points share windows of so many
    rows: where few windows are apart, errors look more alike than they are, and the tail is made wider.
    """
    tail_share = float(np.clip(_TAIL_POINTS / len(error_N), 1e-6, 0.1))
    level_K = 1 - np.geomspace(1, tail_share, _KNOTS)
    error_K = np.quantile(error_N, level_K)
    # Equal errors (a constant series) would give knots on one spot: keep them apart by what is visible.
    least_step = 1e-6 * max(float(np.abs(error_K).max()), 1e-6)
    error_K = np.maximum.accumulate(error_K) + least_step * np.arange(_KNOTS)
    excess = error_N[error_N > error_K[-1]] - error_K[-1]
    spread = float(np.median(excess)) / math.log(2) if len(excess) else 0.0
    body = float(error_K[-1] - np.quantile(error_N, 0.5)) / math.log(0.5 / tail_share)
    spread = max(spread, 0.25 * body, _WIDENED * window / len(error_N), least_step)
    return PooledTail(
        torch.tensor(error_K, dtype=torch.float32),
        torch.tensor(-10 * np.log10(1 - level_K), dtype=torch.float32),
        torch.tensor(DECIBEL / spread, dtype=torch.float32),
    )


LOWEST_THRESHOLD = 10.0
CLUSTER_LEVELS = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
"""Scores at which it is measured how many points an incident holds."""
CLUSTER_GAP = 5
"""So many quiet points end a cluster."""
_FEW = 5
"""Pretended single points: they keep a short history from claiming huge clusters."""


def alert_threshold(points_per_incident: FloatArray, cluster_points: npt.ArrayLike) -> FloatArray:
    """Return the score that a normal series reaches in one incident out of `points_per_incident` points.

    Strange points come in clusters, the lower the level the longer, so incidents are rarer than such points (by the
    extremal index: Leadbetter, "Extremes and Local Dependence in Stationary Sequences", 1983).

    Args:
        points_per_incident: the budget: points of each series [S] for each false incident that it may raise.
        cluster_points: how many points an incident holds on average at each of `CLUSTER_LEVELS`; [K] or [S, K].
    """
    levels = np.array([0.0, *CLUSTER_LEVELS])
    sizes_SK = np.broadcast_to(cluster_points, (len(points_per_incident), len(CLUSTER_LEVELS)))
    # The logarithm of the points for each incident at each level; rarer levels never need fewer.
    needed_SK = levels / DECIBEL + np.log(np.column_stack([sizes_SK[:, :1], sizes_SK]))
    needed_SK = np.maximum.accumulate(needed_SK, axis=1)
    asked_S = np.log(np.maximum(points_per_incident, 1.0))
    inside_S = _between(asked_S, needed_SK, levels)
    # Beyond the last level clusters stay as small as there.
    beyond_S = DECIBEL * np.maximum(asked_S - needed_SK[:, -1], 0)
    threshold: FloatArray = np.maximum(inside_S + beyond_S, LOWEST_THRESHOLD)
    return threshold


def _between(at_S: FloatArray, known_SK: FloatArray, values_K: FloatArray) -> FloatArray:
    """Return `np.interp` of each row by itself: there may be a million series."""
    last = len(values_K) - 1
    low_S = np.clip((known_SK <= at_S[:, None]).sum(axis=1) - 1, 0, last - 1)
    each_S = np.arange(len(at_S))
    from_S, width_S = known_SK[each_S, low_S], known_SK[each_S, low_S + 1] - known_SK[each_S, low_S]
    slope_S = (values_K[low_S + 1] - values_K[low_S]) / np.where(width_S > 0, width_S, 1.0)
    inside_S = slope_S * (at_S - from_S) + values_K[low_S]
    inside_S = np.where(at_S < known_SK[:, 0], values_K[0], inside_S)
    found_S: FloatArray = np.where(at_S >= known_SK[:, last], values_K[last], inside_S)
    return found_S


def cluster_sizes(each: Sequence[FloatArray]) -> tuple[tuple[float, ...], list[tuple[float, ...]]]:
    """Return the mean number of points of a cluster at each of `CLUSTER_LEVELS`: of all series, and of each.

    A series' own clusters count beside a few of the pooled size. High levels are rarely reached, so those few are
    as much larger or smaller as the series' clusters are at the level below.
    """
    counted = np.array([_clusters(score_T) for score_T in each], np.float64).reshape(-1, 2, len(CLUSTER_LEVELS))
    points_K, clusters_K = counted.sum(axis=0) + _FEW
    pooled_K = points_K / clusters_K
    own_SK, ratio_S = np.empty((len(each), len(CLUSTER_LEVELS))), np.ones(len(each))
    for level, pooled in enumerate(pooled_K):
        expected_S = np.maximum(pooled * ratio_S, 1.0)
        own_SK[:, level] = (counted[:, 0, level] + _FEW * expected_S) / (counted[:, 1, level] + _FEW)
        ratio_S = own_SK[:, level] / pooled
    return tuple(pooled_K.tolist()), [tuple(own_K) for own_K in own_SK.tolist()]


def _clusters(score_T: FloatArray) -> tuple[list[int], list[int]]:
    """Return (points that reach each level, clusters that they form)."""
    hot = [np.flatnonzero(score_T >= level) for level in CLUSTER_LEVELS]
    return [len(at) for at in hot], [int((np.diff(at) > CLUSTER_GAP).sum()) + (len(at) > 0) for at in hot]
