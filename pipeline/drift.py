"""Whether a stream has drifted: a test over the distribution of the champion's scores that an outage does not pass.

The scores of a series are summed up by blocks of time (a day, say): the median of each block. An outage or a storm
that is shorter than half a block moves no median, however strange it is. The seven newest blocks are compared with
the first fourteen after the training, which the model has not learned from either.

Within each series its blocks are ranked (Wilcoxon, "Individual comparisons by ranking methods", 1945), so a block
counts for its order alone. The ranks of a block are averaged over the series, and the sum over the newest blocks is
judged by all ways of choosing as many of all blocks: an exact permutation test (Fisher, "The design of
experiments", 1935; Pitman, 1937). Whole blocks change places, with all their series, so series that depend on one
another, as the hosts of one cluster do, prove nothing twice. That some strange blocks all lie on one side is likely
enough by chance: an outage of three days is no drift (in none of 1,000 streams, however strange), one of four is in
.01 of looks, of five in .07, and one that has lasted for nearly all of the seven mostly is.

What has to hold: without drift the blocks may change places. So each is as long as the stream's season, or several,
and what it shows depends little on the block before. Of fourteen days as of seven, two sevenths are weekends. A
stream with a longer season, or a walk without a level, is found to drift.

It is asked again and again, with every new block. By Bonferroni's bound the level of one look is `LEVEL` of a year
divided by the looks of a year, whatever they have in common: so a stream without drift is found to drift in one of
twenty years. A level this small takes nearly all of the newest blocks beyond nearly all of the earlier ones.

Beside the chance there has to be a shift that matters: by `LEAST_SHIFT` in scores, a factor of 1.26 in how probable
a usual point is, in a tenth of the series. Either way counts: scores that fall hide anomalies.

Legend: S series, B blocks.
"""

from dataclasses import dataclass

import numpy as np

from models.arrays import BoolArray, FloatArray

EARLIER, NEWEST = 14, 7
"""Blocks."""
LEVEL = 0.05
"""Chance of finding drift in a year in which there is none."""
LEAST_SHIFT = 1.0
_LEAST_SHARE = 0.1
_YEAR_S = 365 * 86_400
_LEAST_BLOCKS = 0.75
"""Share of either side's blocks that a series has to have."""
_STEPS = 1000
"""A block's mean rank is counted in so many steps; the test stays exact, for it is one of what was counted."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What one look at a stream came to."""

    drifted: bool
    why: str
    probability: float | None = None
    """Of a shift as large or larger without drift; None: nothing could be compared."""
    level: float | None = None
    """The probability below which it is drift."""
    shifted: float | None = None
    """Share of the series whose scores have shifted by `LEAST_SHIFT` or more."""
    series: int = 0
    """That were compared."""


def level_of(block_s: float) -> float:
    """Return the level of one look, of which there is one a block."""
    return LEVEL * block_s / _YEAR_S


def drift_of(earlier_SB: FloatArray, newest_SB: FloatArray, level: float) -> Drift:
    """Compare the median scores of series in blocks; NaN where a series has no rows.

    A series that lacks many blocks on either side is left out.
    """
    kept_S = _there(earlier_SB) & _there(newest_SB)
    earlier_SB, newest_SB = earlier_SB[kept_S], newest_SB[kept_S]
    series = len(earlier_SB)
    if not series:
        return Drift(False, "no series has rows in most of the blocks", level=level)
    shift_S = np.nanmedian(newest_SB, axis=1) - np.nanmedian(earlier_SB, axis=1)
    shifted = float((np.abs(shift_S) >= LEAST_SHIFT).mean())
    rank_B = _ranks(np.hstack([earlier_SB, newest_SB])).mean(axis=0)
    count = newest_SB.shape[1]
    probability = _two_sided(rank_B, count)
    said = (
        f"{shifted:.0%} of {series:,} series have shifted by {LEAST_SHIFT:g} or more, by chance {probability:.2g}"
    )
    if probability > level:
        return Drift(False, f"{said}, which is more than {level:.2g}", probability, level, shifted, series)
    drifted = shifted >= _LEAST_SHARE
    return Drift(drifted, f"{said}, below {level:.2g}", probability, level, shifted, series)


def _there(median_SB: FloatArray) -> BoolArray:
    there_S: BoolArray = np.isfinite(median_SB).mean(axis=1) >= _LEAST_BLOCKS
    return there_S


def _ranks(median_SB: FloatArray) -> FloatArray:
    """Return each block's rank within its series, 0 to 1, of ties the mean; a block without rows has the middle."""
    below_SB = (median_SB[:, None, :] < median_SB[:, :, None]).sum(axis=2)
    ties_SB = (median_SB[:, None, :] == median_SB[:, :, None]).sum(axis=2)
    most_S1 = np.maximum(np.isfinite(median_SB).sum(axis=1, keepdims=True) - 1, 1)
    rank_SB: FloatArray = (below_SB + (ties_SB - 1) / 2) / most_S1
    return np.where(np.isfinite(median_SB), rank_SB, 0.5)


def _two_sided(rank_B: FloatArray, count: int) -> float:
    """Return how probable it is that a choice of `count` blocks is as far from the middle as the last ones are."""
    step_B = np.rint(rank_B * _STEPS).astype(np.int64)
    ways = np.zeros((count + 1, count * _STEPS + 1))
    ways[0, 0] = 1.0
    for step in step_B.tolist():
        moved = ways[:-1, : ways.shape[1] - step].copy()
        ways[1:, step:] += moved
    chosen, total = int(step_B[-count:].sum()), ways[count].sum()
    as_high, as_low = ways[count, chosen:].sum() / total, ways[count, : chosen + 1].sum() / total
    return float(min(1.0, 2 * min(as_high, as_low)))
