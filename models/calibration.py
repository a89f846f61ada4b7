"""Errors -> tail probabilities -> scores -> the threshold for an alert budget.

A score is -10 log10 of the probability that a normal point looks as strange: normal scores are exponential
with mean 10 / ln 10. Two steps lead there:

1. `PooledTail` maps a point's error to its *surprise* by the distribution of the stream's training errors:
   the empirical one up to a high quantile, an exponential tail above it, since errors are logarithms (peaks
   over threshold: Pickands, "Statistical Inference Using Extreme Order Statistics", 1975; streaming use:
   Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017).
2. `OnlineTail` maps surprise to the score by what this one series shows as it goes on: a series that is
   always stranger than its stream, or that drifts, is judged by its own measure. Its state is in units of
   surprise, so it outlives a change of model.

Legend: B points, K points of a poll, S slots.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import acceptance
from models.acceptance import Acceptance, Quantiles

FloatArray = npt.NDArray[np.float64]
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


@dataclass(frozen=True)
class Pace:
    """How an `OnlineTail` follows."""

    share: float
    """The upper quantile that is followed is passed by this share of the points."""
    block: int
    """Points that are scored before the state moves."""
    gap_step: float
    most_above: int
    """Points of a block that count as above the upper quantile at most: the bound on what an outage teaches."""
    far_followed: bool
    """Whether the tail beyond has a width of its own; otherwise it is as wide as the upper half."""

    @property
    def gap(self) -> float:
        """How far the upper quantile of a normal score lies above its median."""
        return DECIBEL * math.log(0.5 / self.share)

    @property
    def gaps(self) -> tuple[float, float]:
        """Bounds of the gap that is followed."""
        return _LEAST_GAP * self.gap, _MOST_GAP * self.gap

    @property
    def far_share(self) -> float:
        """The far quantile is passed by this share of the points."""
        return self.share / _FURTHER


_FURTHER = 8
_FAR = DECIBEL * math.log(_FURTHER)
"""How far the far quantile of a normal score lies above the upper one."""

SERIES_PACE = Pace(share=0.02, block=16, gap_step=0.5, most_above=2, far_followed=True)
"""One series, with some hundred to some thousand points a week."""
STREAM_PACE = Pace(share=0.002, block=4096, gap_step=8.0, most_above=66, far_followed=False)
"""All records of a stream together: enough of them to follow a quantile near the usual budgets, so that little
rests on the shape of the tail beyond it. As with adaptive conformal inference (Gibbs and Candes, 2021), the rate
of alerts is held whatever becomes of the errors' distribution, if it does so slowly. Chosen without labels, by
that rate on synthetic streams: `tests/benchmarks/stream_pace.py`."""

_MEDIAN = DECIBEL * math.log(2)
_MEDIAN_STEP = 0.10
_LEAST_GAP, _MOST_GAP = 0.25, 20.0
"""Bounds of the gaps, in those of a normal score."""

Usual = tuple[float, float, float]
"""A series' median surprise, and how far above it lie the upper quantile and, above that, the far one."""


class OnlineTail:
    """Three quantiles of each series' surprise, followed as it goes on: 32 bytes a series, or 76 with `accepting`.

    The score puts the series' median, upper and far quantile where those of a normal score lie, and goes on in a
    straight line: the tail above is exponential, as of peaks over the upper quantile, with a width of its own.

    Quantiles are followed by stochastic approximation (Robbins and Monro, 1951) in blocks of points of a
    series. All points of a block are scored by the state at its start, and within a block only whole numbers
    are added up, so a score depends neither on how polls cut the stream nor on the order of sums on a device.
    How many of a block's points lie above a quantile counts, never by how much, and only so many of them: an
    outage cannot teach it quickly, a level that stays is learned within some hundred points.

    With `accepting`, an outage teaches next to nothing, and a level that stays is learned at once when its time has
    come: see `models.acceptance`.
    """

    def __init__(
        self,
        device: torch.device,
        pace: Pace,
        initial: Mapping[str, Usual] | None = None,
        *,
        accepting: bool = False,
    ) -> None:
        """`initial` holds the usual surprise of the series that were there in training."""
        self._device = device
        self._pace = pace
        self._initial = initial or {}
        columns = dict.fromkeys(("median", "gap", "far"), torch.float32) | {"seen": torch.int64}
        columns |= dict.fromkeys(("above_median", "above_upper", "above_far"), torch.int32)
        self._acceptance: Acceptance | None = None
        if accepting:
            self._acceptance = Acceptance(pace.block, pace.gaps, _FAR / pace.gap)
            columns |= acceptance.COLUMNS
        self._columns = {name: torch.zeros(0, dtype=dtype, device=device) for name, dtype in columns.items()}

    def begin(self, slots: npt.NDArray[np.int64], names: list[str]) -> None:
        """Give slots the state of a series that was never seen here."""
        self._reserve(int(slots.max(initial=-1)) + 1)
        index = torch.from_numpy(slots).to(self._device)
        usual = _MEDIAN, self._pace.gap, _FAR
        start = torch.tensor([self._initial.get(name, usual) for name in names], device=self._device)
        for column in self._columns.values():
            column[index] = 0
        self._columns["median"][index] = start[:, 0]
        self._columns["gap"][index] = start[:, 1]
        self._columns["far"][index] = start[:, 2]
        if self._acceptance is not None:
            often = [0 if name in self._initial else acceptance.NO_HISTORY for name in names]
            self._columns["often"][index] = torch.tensor(often, dtype=torch.int32, device=self._device)

    def accept_after(self, slots: npt.NDArray[np.int64], points: FloatArray) -> None:
        """Set how many points a level stays until it is accepted; until then a slot learns as without `accepting`.

        It follows from the settings, so `gather` leaves it out.
        """
        assert self._acceptance is not None
        index = torch.from_numpy(slots).to(self._device)
        self._columns["patience"][index] = self._acceptance.patience(points).to(self._device)

    def gather(self, slots: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Return the state of these slots, for a checkpoint."""
        index = torch.from_numpy(slots).to(self._device)
        kept = {name: column for name, column in self._columns.items() if name != "patience"}
        return {name: column[index].cpu().numpy() for name, column in kept.items()}

    def scatter(self, slots: npt.NDArray[np.int64], state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `gather` returned, here, without `accepting`, or in its first format: no far quantile."""
        self._reserve(int(slots.max(initial=-1)) + 1)
        index = torch.from_numpy(slots).to(self._device)
        early = {"far": state["gap"] * np.float32(_FAR / self._pace.gap), "above_far": 0 * state["above_upper"]}
        # The block under way was not summed up from its start: should it be elevated, it does not count as one.
        early["stays"] = -(state["seen"] % self._pace.block > 0).astype(np.int32)
        for name in self._columns.keys() - {"patience"}:
            column = self._columns[name]
            kept = state[name] if name in state else early.get(name, np.zeros(len(slots)))
            column[index] = torch.from_numpy(np.ascontiguousarray(kept)).to(self._device, column.dtype)

    def score(self, slot_K: Tensor, surprise_K: Tensor) -> Tensor:
        """Score points that are sorted by slot, and within a slot by offset; the state moves on."""
        return self.follow(slot_K, surprise_K)[0]

    def follow(self, slot_K: Tensor, surprise_K: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scores, with which points a level was accepted); else as `score`."""
        score_K = torch.empty_like(surprise_K)
        accepted_K = torch.zeros(len(slot_K), dtype=torch.bool, device=self._device)
        if not len(slot_K):
            return score_K, accepted_K
        seen = self._columns["seen"]
        slots, place_K, count = torch.unique_consecutive(slot_K, return_inverse=True, return_counts=True)
        start = count.cumsum(0) - count
        index_K = seen[slot_K] + torch.arange(len(slot_K), device=self._device) - start[place_K]
        block = self._pace.block
        block_K = index_K // block - (seen[slots] // block)[place_K]
        order_K = torch.argsort(block_K, stable=True)
        for chosen in torch.split(order_K, torch.bincount(block_K).tolist()):
            score_K[chosen], accepted_K[chosen] = self._block(slot_K[chosen], surprise_K[chosen])
        return score_K, accepted_K

    def _block(self, slot_K: Tensor, surprise_K: Tensor) -> tuple[Tensor, Tensor]:
        """Score points of which no series has more than the rest of its block."""
        state = self._columns
        median_K, gap_K, far_K = (state[name][slot_K] for name in ("median", "gap", "far"))
        above_K = surprise_K - median_K
        beyond_K = above_K - gap_K
        score_K = _scores(surprise_K, above_K, beyond_K, median_K, gap_K, far_K, self._pace.gap)
        state["seen"].index_add_(0, slot_K, torch.ones_like(slot_K))
        state["above_median"].index_add_(0, slot_K, (above_K > 0).int())
        state["above_upper"].index_add_(0, slot_K, (beyond_K > 0).int())
        state["above_far"].index_add_(0, slot_K, (beyond_K > far_K).int())
        if self._acceptance is not None:
            self._acceptance.count(state, slot_K, surprise_K)
        slots, count = torch.unique_consecutive(slot_K, return_counts=True)
        accepted_K = torch.zeros_like(slot_K, dtype=torch.bool)
        accepted_K[count.cumsum(0) - 1] = self._learn(slots)
        return score_K, accepted_K

    def _learn(self, slots: Tensor) -> Tensor:
        """Move on the slots whose block is full; tell of all of them whose level was accepted."""
        state, pace = self._columns, self._pace
        ends = state["seen"][slots] % pace.block == 0
        accepted, full = torch.zeros_like(ends), slots[ends]
        before = Quantiles(*(state[name][full] for name in ("median", "gap", "far")))
        usual = self._learned(full, before)
        if self._acceptance is not None:
            elevated = 2 * state["above_upper"][full] > pace.block
            usual, accepted[ends] = self._acceptance.decide(state, full, elevated, before, usual)
        for name, moved in zip(("median", "gap", "far"), usual, strict=True):
            state[name][full] = moved
        for name in ("above_median", "above_upper", "above_far"):
            state[name][full] = 0
        return accepted

    def _learned(self, full: Tensor, usual: Quantiles) -> Quantiles:
        """Return the quantiles moved by what was counted in a block."""
        state, pace = self._columns, self._pace
        median, gap, far = usual
        upper = state["above_upper"][full].clamp(max=pace.most_above) / pace.block
        middle = state["above_median"][full] / pace.block
        moved = median + _MEDIAN_STEP * gap * (middle - 0.5)
        widened = (gap * (1 + pace.gap_step * (upper - pace.share))).clamp(*pace.gaps)
        if pace.far_followed:
            # Of an outage one point a block counts: the far quantile is what the threshold rests on.
            beyond = state["above_far"][full].clamp(max=1) / pace.block
            further = far * (1 + pace.gap_step * (beyond - pace.far_share))
            further = further.clamp(_LEAST_GAP * _FAR, _MOST_GAP * _FAR)
        else:
            further = widened * (_FAR / pace.gap)
        return Quantiles(moved.clamp(min=0.1 * _MEDIAN), widened, further)

    def _reserve(self, slots: int) -> None:
        more = slots - len(self._columns["seen"])
        if more > 0:
            # A sixteenth more at least: of a million series, twice the room would be memory that nobody uses.
            more = max(more, len(self._columns["seen"]) // 16, 64)
            for name, column in self._columns.items():
                self._columns[name] = torch.cat([column, column.new_zeros(more)])


def _scores(
    surprise_K: Tensor,
    above_K: Tensor,
    beyond_K: Tensor,
    median_K: Tensor,
    gap_K: Tensor,
    far_K: Tensor,
    gap: float,
) -> Tensor:
    """Return scores on the lines through the origin, the median, the upper and the far quantile, and on beyond."""
    upper_K = _MEDIAN + gap + beyond_K * (_FAR / far_K)
    middle_K = torch.where(beyond_K >= 0, upper_K, _MEDIAN + above_K * (gap / gap_K))
    return torch.where(above_K >= 0, middle_K, surprise_K.clamp(min=0) * (_MEDIAN / median_K))


def quantiles(surprise_N: FloatArray, pace: Pace) -> Usual:
    """Return the usual surprise in training: where an `OnlineTail` starts.

    Drawn towards that of a normal score by as many points as a thin tail needs to be seen at all; of no points at
    all, it is that.
    """
    if not len(surprise_N):
        return _MEDIAN, pace.gap, _FAR
    median, upper, far = np.quantile(surprise_N, [0.5, 1 - pace.share, 1 - pace.far_share])
    weight, far_weight = (len(surprise_N) / (len(surprise_N) + 2 / share) for share in (pace.share, pace.far_share))
    gap = float(np.clip(upper - median, *pace.gaps))
    gap = math.exp(weight * math.log(gap) + (1 - weight) * math.log(pace.gap))
    as_wide = gap * _FAR / pace.gap
    seen = float(np.clip(far - upper, _LEAST_GAP * _FAR, _MOST_GAP * _FAR))
    return (
        float(max(weight * median + (1 - weight) * _MEDIAN, 0.1 * _MEDIAN)),
        gap,
        math.exp(far_weight * math.log(seen) + (1 - far_weight) * math.log(as_wide))
        if pace.far_followed
        else as_wide,
    )


def with_far_quantile(usual_S2: FloatArray, kind: str) -> FloatArray:
    """Return the usual surprise of series as an earlier version kept it, with a tail as wide as the upper half."""
    pace = SERIES_PACE if kind == "series" else STREAM_PACE
    return np.column_stack([usual_S2, usual_S2[:, 1] * (_FAR / pace.gap)])


def rescored(surprise_N: FloatArray, usual: Usual, pace: Pace) -> FloatArray:
    """Return the scores of surprise under an `OnlineTail` that stands still."""
    surprise, (median, gap, far) = torch.from_numpy(surprise_N), (torch.tensor(each) for each in usual)
    above = surprise - median
    scores: FloatArray = _scores(surprise, above, above - gap, median, gap, far, pace.gap).numpy()
    return scores


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

    A series' own clusters count beside a few of the pooled size.
    """
    counted = np.array([_clusters(score_T) for score_T in each], np.float64).reshape(-1, 2, len(CLUSTER_LEVELS))
    points_K, clusters_K = counted.sum(axis=0) + _FEW
    pooled_K = points_K / clusters_K
    own_SK = (counted[:, 0] + _FEW * pooled_K) / (counted[:, 1] + _FEW)
    return tuple(pooled_K.tolist()), [tuple(own_K) for own_K in own_SK.tolist()]


def _clusters(score_T: FloatArray) -> tuple[list[int], list[int]]:
    """Return (points that reach each level, clusters that they form)."""
    hot = [np.flatnonzero(score_T >= level) for level in CLUSTER_LEVELS]
    return [len(at) for at in hot], [int((np.diff(at) > CLUSTER_GAP).sum()) + (len(at) > 0) for at in hot]
