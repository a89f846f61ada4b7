"""Surprise -> the score, by what a series shows as it goes on.

A series that is always stranger than its stream, or that drifts, is judged by its own measure. The state is in
units of surprise, see `calibration`, so it outlives a change of model.

Legend: K points of a poll, S slots.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import acceptance
from models.acceptance import Acceptance, Quantiles
from models.arrays import BoolArray, FloatArray, IntArray
from models.by_series import BySeries
from models.calibration import DECIBEL
from models.crossing import placed
from models.snapshots import Memory, copied, fresh


@dataclass(frozen=True)
class Pace:
    """How an `OnlineTail` follows."""

    share: float
    """The upper quantile that is followed is passed by this share of the points."""
    block: int
    """Points that are scored before the state moves."""
    gap_step: float
    most_above: int
    """Points of a block that count as above the upper quantile at most, and half as many as above the far one: the
    bound on what an outage teaches."""
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

SERIES_PACE = Pace(share=0.02, block=16, gap_step=0.5, most_above=8, far_followed=True)
"""One series, with some hundred to some thousand points a week."""
STREAM_PACE = Pace(share=0.002, block=4096, gap_step=8.0, most_above=66, far_followed=False)
"""All records of a stream together: enough of them to follow a quantile near the usual budgets, so that little
rests on the shape of the tail beyond it. As with adaptive conformal inference (Gibbs and Candes, 2021), the rate
of alerts is held whatever becomes of the errors' distribution, if it does so slowly. Chosen without labels, by
that rate on synthetic streams: `tests/benchmarks/stream_pace.py`."""

_MEDIAN = DECIBEL * math.log(2)
_MEDIAN_STEP = 0.10
_LEAST_GAP, _MOST_GAP = 0.1, 20.0
"""Bounds of the gaps, in those of a normal score."""

_COUNTS = ("above_median", "above_upper", "above_far")
"""Points of the block so far."""

Usual = tuple[float, float, float]
"""A series' median surprise, and how far above it lie the upper quantile and, above that, the far one."""


class OnlineTail:
    """Three quantiles of each series' surprise, followed as it goes on: 32 bytes a series, or 88 with `accepting`.

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
        initial: BySeries | None = None,
        *,
        accepting: bool = False,
    ) -> None:
        """`initial` holds the usual surprise of the series that were there in training."""
        self._device = device
        self._pace = pace
        self.initial = initial or BySeries.of({})
        columns = dict.fromkeys(("median", "gap", "far"), torch.float32)
        columns |= dict.fromkeys(_COUNTS, torch.int32)
        self._acceptance: Acceptance | None = None
        if accepting:
            self._acceptance = Acceptance(pace.block, pace.gaps, _FAR / pace.gap)
            columns |= acceptance.COLUMNS
        self._columns = {name: torch.zeros(0, dtype=dtype, device=device) for name, dtype in columns.items()}
        self._seen_S = np.zeros(0, np.int64)
        """Points that each slot has had. Kept on the host: where blocks end is known without asking the device."""

    def begin(self, slots: IntArray, names: list[str]) -> None:
        """Give slots the state of a series that was never seen here."""
        self._reserve(int(slots.max(initial=-1)) + 1)
        index = placed(slots, self._device)
        usual = _MEDIAN, self._pace.gap, _FAR
        start_S3 = self.initial.take(names, usual).astype(np.float32)
        self._seen_S[slots] = 0
        for column in self._columns.values():
            column[index] = 0
        for name, start_S in zip(("median", "gap", "far"), start_S3.T, strict=True):
            self._columns[name][index] = placed(start_S, self._device)
        if self._acceptance is not None:
            often = [0 if name in self.initial else acceptance.NO_HISTORY for name in names]
            self._columns["often"][index] = placed(np.array(often, np.int32), self._device)

    def accept_after(self, slots: IntArray, points: FloatArray) -> None:
        """Set how many points a level stays until it is accepted; until then a slot learns as without `accepting`.

        It follows from the settings, so `gather` leaves it out.
        """
        assert self._acceptance is not None
        patience_S = placed(self._acceptance.patience(points), self._device)
        self._columns["patience"][placed(slots, self._device)] = patience_S

    def gather(self, slots: IntArray, memory: Memory = fresh) -> dict[str, npt.NDArray[Any]]:
        """Return the state of these slots, for a checkpoint."""
        index = torch.from_numpy(slots).to(self._device)
        kept = {name: column for name, column in self._columns.items() if name != "patience"}
        return {"seen": copied("seen", self._seen_S[slots], memory)} | {
            name: copied(name, column[index].cpu().numpy(), memory) for name, column in kept.items()
        }

    def scatter(self, slots: IntArray, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `gather` returned, here, without `accepting`, or in its first format: no far quantile."""
        self._reserve(int(slots.max(initial=-1)) + 1)
        index = torch.from_numpy(slots).to(self._device)
        early = {"far": state["gap"] * np.float32(_FAR / self._pace.gap), "above_far": 0 * state["above_upper"]}
        # The block under way was not summed up from its start: should it be elevated, it does not count as one.
        early["stays"] = -(state["seen"] % self._pace.block > 0).astype(np.int32)
        early |= {f"calm_{name}": {**early, **state}[name] for name in ("median", "gap", "far")}
        self._seen_S[slots] = state["seen"]
        for name in self._columns.keys() - {"patience"}:
            column = self._columns[name]
            kept = state[name] if name in state else early.get(name, np.zeros(len(slots)))
            column[index] = torch.from_numpy(np.ascontiguousarray(kept)).to(self._device, column.dtype)

    def have_learned(self, slots: IntArray, points_S: IntArray) -> BoolArray:
        """Tell whose block has ended with one of so many last points; of the others only sums have moved."""
        return np.asarray(self._seen_S[slots] % self._pace.block < points_S, np.bool_)

    def gather_sums(self, slots: IntArray, memory: Memory = fresh) -> dict[str, npt.NDArray[Any]]:
        """Return what moves within a block; counts are as narrow as a block's points allow."""
        index, counts = torch.from_numpy(slots).to(self._device), np.min_scalar_type(self._pace.block)
        arrays = {"seen": copied("seen", self._seen_S[slots], memory)}
        for name in self._sums:
            sums_S = self._columns[name][index].cpu().numpy()
            kept_S = sums_S.astype(counts) if name in _COUNTS else sums_S
            arrays[name] = copied(name, kept_S, memory)
        return arrays

    def scatter_sums(self, slots: IntArray, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `gather_sums` returned."""
        index = torch.from_numpy(slots).to(self._device)
        self._seen_S[slots] = state["seen"]
        for name in self._sums:
            column = self._columns[name]
            sums_S = state[name].astype(np.int32) if name in _COUNTS else np.ascontiguousarray(state[name])
            column[index] = torch.from_numpy(sums_S).to(self._device, column.dtype)

    @property
    def _sums(self) -> tuple[str, ...]:
        return _COUNTS if self._acceptance is None else (*_COUNTS, *acceptance.SUMS)

    def score(self, slot_K: IntArray, surprise_K: Tensor) -> Tensor:
        """Score points that are sorted by slot, and within a slot by offset; the state moves on.

        Nothing is asked of the device, which may come to it later.
        """
        return self.follow(slot_K, surprise_K)[0]

    def follow(self, slot_K: IntArray, surprise_K: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scores, with which points a level was accepted); else as `score`."""
        block = self._pace.block
        start_S, length_S = _runs(slot_K)
        first_S = self._seen_S[slot_K[start_S]] % block - start_S
        # The number of each point's block, from that which its series is in.
        block_K = (np.repeat(first_S, length_S) + np.arange(len(slot_K))) // block
        if not block_K.any():
            return self._block(slot_K, surprise_K)
        score_K = torch.empty_like(surprise_K)
        accepted_K = torch.zeros(len(slot_K), dtype=torch.bool, device=self._device)
        order_K = np.argsort(block_K, kind="stable")
        for chosen in np.split(order_K, np.bincount(block_K).cumsum()[:-1]):
            index = placed(chosen, self._device)
            score_K[index], accepted_K[index] = self._block(slot_K[chosen], surprise_K[index])
        return score_K, accepted_K

    def _block(self, slot_K: IntArray, surprise_K: Tensor) -> tuple[Tensor, Tensor]:
        """Score points of which no series has more than the rest of its block."""
        state, index_K = self._columns, placed(slot_K, self._device)
        median_K, gap_K, far_K = (state[name][index_K] for name in ("median", "gap", "far"))
        above_K = surprise_K - median_K
        beyond_K = above_K - gap_K
        score_K = _scores(surprise_K, above_K, beyond_K, median_K, gap_K, far_K, self._pace.gap)
        state["above_median"].index_add_(0, index_K, (above_K > 0).int())
        state["above_upper"].index_add_(0, index_K, (beyond_K > 0).int())
        state["above_far"].index_add_(0, index_K, (beyond_K > far_K).int())
        if self._acceptance is not None:
            self._acceptance.count(state, index_K, surprise_K)
        start_S, length_S = _runs(slot_K)
        slots = slot_K[start_S]
        self._seen_S[slots] += length_S
        accepted_K = torch.zeros(len(slot_K), dtype=torch.bool, device=self._device)
        full_S = self._seen_S[slots] % self._pace.block == 0
        if full_S.any():
            ends = placed((start_S + length_S - 1)[full_S], self._device)
            accepted_K[ends] = self._learn(placed(slots[full_S], self._device))
        return score_K, accepted_K

    def _learn(self, full: Tensor) -> Tensor:
        """Move on the slots, whose block is full; tell of all of them whose level was accepted."""
        state, pace = self._columns, self._pace
        accepted = torch.zeros(len(full), dtype=torch.bool, device=self._device)
        before = Quantiles(*(state[name][full] for name in ("median", "gap", "far")))
        usual = self._learned(full, before)
        if self._acceptance is not None:
            elevated = 2 * state["above_upper"][full] > pace.block
            usual, accepted = self._acceptance.decide(state, full, elevated, before, usual)
        for name, moved in zip(("median", "gap", "far"), usual, strict=True):
            state[name][full] = moved
        for name in _COUNTS:
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
            beyond = state["above_far"][full].clamp(max=pace.most_above // 2) / pace.block
            further = far * (1 + pace.gap_step * (beyond - pace.far_share))
            further = further.clamp(_LEAST_GAP * _FAR, _MOST_GAP * _FAR)
        else:
            further = widened * (_FAR / pace.gap)
        return Quantiles(moved.clamp(min=0.1 * _MEDIAN), widened, further)

    def _reserve(self, slots: int) -> None:
        more = slots - len(self._seen_S)
        if more > 0:
            # A sixteenth more at least: of a million series, twice the room would be memory that nobody uses.
            more = max(more, len(self._seen_S) // 16, 64)
            self._seen_S = np.append(self._seen_S, np.zeros(more, np.int64))
            for name, column in self._columns.items():
                self._columns[name] = torch.cat([column, column.new_zeros(more)])


def _runs(slot_K: IntArray) -> tuple[IntArray, IntArray]:
    """Return where the points of each slot begin, and how many they are."""
    start_S = np.flatnonzero(np.diff(slot_K, prepend=-1))
    return start_S, np.diff(start_S, append=len(slot_K))


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
