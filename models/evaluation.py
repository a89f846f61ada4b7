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

FloatArray = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]
Scores = npt.NDArray[Any]

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
    order_N = np.argsort(-score_N, kind="stable")
    sorted_N = score_N[order_N]
    threshold_K = sorted_N[np.linspace(0, len(score_N) - 1, _THRESHOLDS).astype(int)]
    predicted_K = np.searchsorted(-sorted_N, -threshold_K, side="right")
    found_K = np.concatenate([[0], np.cumsum(label_N[order_N])])[predicted_K]
    rank_N = np.empty(len(order_N), np.int64)
    rank_N[order_N] = np.arange(len(order_N))
    surfaces = [
        _areas(label_N, score_N, spans, width, threshold_K, predicted_K, found_K, rank_N)
        for width in range(widest + 1)
    ]
    pr, roc = np.mean(surfaces, axis=0)
    return Volumes(float(pr), float(roc))


def _areas(
    label_N: npt.NDArray[np.bool_],
    score_N: FloatArray,
    spans: npt.NDArray[np.int64],
    width: int,
    threshold_K: FloatArray,
    predicted_K: npt.NDArray[np.int64],
    found_K: npt.NDArray[np.int64],
    rank_N: npt.NDArray[np.int64],
) -> tuple[float, float]:
    """Return the areas under both curves for one width of the border."""
    at, weight = _border(label_N, spans, width)
    by_rank = np.argsort(rank_N[at])
    soft = np.concatenate([[0.0], np.cumsum(weight[by_rank])])
    soft_K = soft[np.searchsorted(rank_N[at][by_rank], predicted_K)]
    true_K = found_K + soft_K
    positives_K = label_N.sum() + soft_K / 2
    peaks = np.array([score_N[first : last + 1].max() for first, last in _joined(spans, width, len(label_N))])
    seen_K = (peaks[None, :] >= threshold_K[:, None]).mean(axis=1)
    tpr_K = np.minimum(true_K / positives_K, 1) * seen_K
    fpr_K = (predicted_K - true_K) / (len(label_N) - positives_K)
    precision_K = true_K / predicted_K
    area_pr = float(np.dot(np.diff(tpr_K, prepend=0.0), precision_K))
    tpr_K, fpr_K = np.concatenate([[0.0], tpr_K, [1.0]]), np.concatenate([[0.0], fpr_K, [1.0]])
    area_roc = float(np.dot(np.diff(fpr_K), (tpr_K[1:] + tpr_K[:-1]) / 2))
    return area_pr, area_roc


def _spans(label_N: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return (first, last) of each run of labelled points."""
    edges = np.flatnonzero(np.diff(label_N.astype(np.int8), prepend=0, append=0))
    return np.column_stack([edges[::2], edges[1::2] - 1])


def _border(
    label_N: npt.NDArray[np.bool_], spans: npt.NDArray[np.int64], width: int
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Return the points beside the spans, and how anomalous each of them counts as: up to 1, falling outwards."""
    distance = np.arange(1, width // 2 + 1)
    at = np.concatenate([(spans[:, 1:] + distance).ravel(), (spans[:, :1] - distance).ravel()])
    weight = np.tile(np.sqrt(1 - distance / max(width, 1)), 2 * len(spans))
    inside = (at >= 0) & (at < len(label_N))
    soft_N = np.bincount(at[inside], weight[inside], len(label_N))
    at = np.flatnonzero((soft_N > 0) & ~label_N)
    return at, np.minimum(soft_N[at], 1)


def _joined(spans: npt.NDArray[np.int64], width: int, length: int) -> list[tuple[int, int]]:
    """Return the spans with their borders, those that touch as one."""
    half = width // 2
    joined = [(max(int(spans[0, 0]) - half, 0), int(spans[0, 1]) + half)]
    for first, last in spans[1:].tolist():
        if joined[-1][1] < first - half:
            joined.append((first - half, last + half))
        else:
            joined[-1] = (joined[-1][0], last + half)
    return [(first, min(last, length - 1)) for first, last in joined]
