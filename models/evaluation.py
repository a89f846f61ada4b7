"""Detection metrics: how well scores rank labelled points.

For series the figure that counts is VUS-PR, the volume under the precision-recall surface over the width of a
soft border around each labelled span (Paparrizos et al., "Volume Under the Surface", VLDB 2022): a detector is
neither paid for hitting a span once nor punished for being a few points off. It is computed as TSB-AD 1.5
computes it, with its 250 thresholds and its rule for the widest border. For tables of independent rows it is
AUROC.

Legend: N points, W widths of the border, K thresholds, S labelled spans.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray

Labels = npt.NDArray[Any]
Scores = npt.NDArray[Any]
Counts = IntArray

_THRESHOLDS = 250
_PERIOD_ROWS = 20_000
_NO_PERIOD = 125


@dataclass(frozen=True)
class Volumes:
    """Volumes under the two surfaces."""

    pr: float
    roc: float


def auroc(label_N: Labels, score_N: Scores) -> float:
    """Return the area under the ROC curve: the chance that an anomaly scores above a normal point."""
    positive_N = np.asarray(label_N) > 0
    positives = int(positive_N.sum())
    _, place_N, count = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(count) - (count - 1) / 2)[place_N]
    above = rank_N[positive_N].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive_N) - positives)))


def auc_pr(label_N: Labels, score_N: Scores) -> float:
    """Return the average precision: the mean precision over the ranks of the anomalies."""
    score_N = np.asarray(score_N, np.float64)
    order_N = np.argsort(-score_N, kind="stable")
    hit_N = (np.asarray(label_N) > 0)[order_N]
    last_of_equal_N = np.append(np.diff(score_N[order_N]) != 0, True)
    found_K = np.cumsum(hit_N)[last_of_equal_N]
    precision_K = found_K / (np.flatnonzero(last_of_equal_N) + 1)
    return float((np.diff(found_K, prepend=0) * precision_K).sum() / found_K[-1])


def period(x_N: FloatArray) -> int:
    """Return the lag of the highest peak of the autocorrelation: the widest border for `vus`.

    125 where there is no peak between lags 6 and 303, as TSB-AD has it.
    """
    x_N = np.asarray(x_N, np.float64)[:_PERIOD_ROWS]
    size = 1 << (2 * len(x_N) - 1).bit_length()
    spectrum = np.fft.rfft(x_N - x_N.mean(), size)
    lags = np.fft.irfft(spectrum * spectrum.conj(), size)[3 : min(401, len(x_N))]
    peaks = np.flatnonzero((lags[1:-1] > lags[:-2]) & (lags[1:-1] > lags[2:])) + 1
    if not len(peaks) or not np.ptp(x_N):
        return _NO_PERIOD
    highest = int(peaks[::-1][np.argmax(lags[peaks][::-1])])
    return highest + 3 if 3 <= highest <= 300 else _NO_PERIOD


def vus(label_N: Labels, score_N: Scores, widest: int) -> Volumes:
    """Return the volumes under the precision-recall and the ROC surface.

    Args:
        label_N: 1 where a point is anomalous; at least one is, and not all are.
        score_N: finite, higher is stranger; only their order counts.
        widest: of the border, in points, half of them on either side of a span; see `period`.
    """
    label_N, score_N = np.asarray(label_N) > 0, np.asarray(score_N, np.float64)
    spans = _spans(label_N)
    sorted_N = -np.sort(-score_N)
    threshold_K = sorted_N[np.linspace(0, len(score_N) - 1, _THRESHOLDS).astype(int)]
    predicted_K = np.searchsorted(-sorted_N, -threshold_K, side="right")
    # The first threshold that a point reaches is all that the surfaces need of its score.
    reached_N = np.searchsorted(-threshold_K, -score_N, side="left")
    found_K = np.bincount(reached_N[label_N], minlength=_THRESHOLDS).cumsum()
    border = _Border(label_N, spans, reached_N, widest)
    surfaces = []
    for width in range(widest + 1):
        soft_K = border.soft(width)
        seen_K = _seen(spans, width, reached_N)
        surfaces.append(_areas(len(label_N), int(label_N.sum()), found_K + soft_K, soft_K, seen_K, predicted_K))
    pr, roc = np.mean(surfaces, axis=0)
    return Volumes(float(pr), float(roc))


def _areas(
    points: int, anomalies: int, true_K: FloatArray, soft_K: FloatArray, seen_K: FloatArray, predicted_K: Counts
) -> tuple[float, float]:
    """Return the areas under both curves for one width of the border."""
    positives_K = anomalies + soft_K / 2
    tpr_K = np.minimum(true_K / positives_K, 1) * seen_K
    fpr_K = (predicted_K - true_K) / (points - positives_K)
    precision_K = true_K / predicted_K
    area_pr = float(np.dot(np.diff(tpr_K, prepend=0.0), precision_K))
    tpr_K, fpr_K = np.concatenate([[0.0], tpr_K, [1.0]]), np.concatenate([[0.0], fpr_K, [1.0]])
    area_roc = float(np.dot(np.diff(fpr_K), (tpr_K[1:] + tpr_K[:-1]) / 2))
    return area_pr, area_roc


def _spans(label_N: BoolArray) -> IntArray:
    """Return (first, last) of each run of labelled points."""
    edges = np.flatnonzero(np.diff(label_N.astype(np.int8), prepend=0, append=0))
    return np.column_stack([edges[::2], edges[1::2] - 1])


class _Border:
    """The points beside the spans, and how anomalous each counts as: up to 1, falling outwards.

    What does not depend on the width is laid out once, nearest points first: a width takes a prefix of it.
    """

    def __init__(self, label_N: BoolArray, spans: IntArray, reached_N: Counts, widest: int) -> None:
        distance = np.arange(1, widest // 2 + 1)
        # Rows are distances, so that the prefix of a width is a number of rows.
        at = np.concatenate([spans[:, 1] + distance[:, None], spans[:, 0] - distance[:, None]], axis=1)
        inside = (at >= 0) & (at < len(label_N))
        inside[inside] = ~label_N[at[inside]]
        self._distance = np.broadcast_to(distance[:, None], at.shape)[inside]
        points, self._point = np.unique(at[inside], return_inverse=True)
        self._reached = reached_N[points]
        self._until = np.concatenate([[0], inside.sum(axis=1).cumsum()])

    def soft(self, width: int) -> FloatArray:
        """Return for each threshold the sum of the weights that reach it."""
        until = self._until[width // 2]
        weight = np.sqrt(1 - self._distance[:until] / max(width, 1))
        each = np.minimum(np.bincount(self._point[:until], weight, len(self._reached)), 1)
        soft_K: FloatArray = np.bincount(self._reached, each, _THRESHOLDS).cumsum()
        return soft_K


def _seen(spans: IntArray, width: int, reached_N: Counts) -> FloatArray:
    """Return for each threshold the share of spans with a point that reaches it; those that touch are one."""
    half = width // 2
    apart = spans[:-1, 1] + half < spans[1:, 0] - half
    first = np.maximum(spans[np.append(True, apart), 0] - half, 0)
    end = np.minimum(spans[np.append(apart, True), 1] + half + 1, len(reached_N))
    ends = np.column_stack([first, end]).ravel()
    # The last span may end with the series, where `reduceat` takes no index.
    best = np.minimum.reduceat(np.append(reached_N, _THRESHOLDS), ends)[::2]
    seen_K: FloatArray = np.bincount(best, minlength=_THRESHOLDS).cumsum() / len(first)
    return seen_K
