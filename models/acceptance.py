"""Which levels stay: what an `OnlineTail` asks before it learns from a block of strange points.

A block is *elevated* when more than half of its points lie above the series' upper quantile. What that means shows
only later. The first of a row teaches as any block does, for the strange points of a normal series come in
clusters. A second one takes that back: further ones are remembered and teach nothing at first.

- They go on for as many points as `accept_after` makes: the level is *accepted*. The median moves to the mean of
  its blocks, the upper quantile to the mean of their highest points and further out by how much those stray. The
  highest of 16 points lies near the quantile that 2% pass, for an exponential tail as for a normal one, and sums
  and extremes of blocks do not depend on an order.
- They end earlier: it was an outage, and the series is judged as before. A usual block takes four elevated ones
  back, so a level is not forgotten for a moment's quiet.
- They come again and again, for a fifth of the time or more, a nightly job say: once they have made up the same
  time, four usual blocks taking back one, they teach as any block does, and the upper quantile goes where the
  series says. So does a series that was not there in training, until it has been usual for that time or 256 blocks,
  for it has nothing yet to be kept.

What was usual before the first accepted level is kept, and is usual again with the first block that lies there: the
end of a long outage, or a model that has learned the level, leaves no dull detector. Of several levels accepted one
after another those in between are not kept.

Legend: K points, S slots whose block is full.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import FloatArray

_LEAST_BLOCKS, _MOST_BLOCKS = 4, 1 << 24
"""A level is seen for so many blocks at least, however short `accept_after` is."""
NO_HISTORY = -256
"""`often` of a series that has none: so many usual blocks make one, or as many as a level takes if that is less."""
_HEARD = 1
"""So many elevated blocks in a row teach, until there are more. Chosen on a simulated year in which nothing happens
(`tests/benchmarks/stationary_year.py`): with none the tail of noise that comes in clusters is learned too thin, and
raises up to twice the false incidents of its budget. Labelled series were looked at, too: see its results."""
_TAKES_BACK = 4
_STEPS = 64
"""Steps to a unit of surprise in the sums of blocks, which are of whole numbers."""
_HIGHEST = 1 << 16
"""Surprise beyond this counts as this in sums."""

COLUMNS: Mapping[str, torch.dtype] = {
    "patience": torch.int32,
    "block_sum": torch.int32,
    "block_top": torch.float32,
    "stays": torch.int32,
    "often": torch.int32,
    "level": torch.float32,
    "top": torch.float32,
    "stray": torch.float32,
    "former_median": torch.float32,
    "former_gap": torch.float32,
    "former_far": torch.float32,
    "calm_median": torch.float32,
    "calm_gap": torch.float32,
    "calm_far": torch.float32,
}
"""State of each series, 56 bytes: blocks after which a level is accepted (0: not known, the series learns as
without all this); sum and highest of the block so far; elevated blocks, those in a row and, in quarters, those of
late; mean of their means, of their highest, and how far those stray; what was usual before the first accepted level
(gap 0: none was), and with the last block that was not elevated."""
SUMS = ("block_sum", "block_top")
"""What of it moves within a block."""
_NAMES = ("median", "gap", "far")


class Quantiles(NamedTuple):
    """Of some slots the median, how far above it the upper quantile lies, and how far above that the far one."""

    median_S: Tensor
    gap_S: Tensor
    far_S: Tensor

    def where(self, chosen_S: Tensor, other: "Quantiles") -> "Quantiles":
        """Return these for the chosen slots, and those of `other` elsewhere."""
        return Quantiles(*(torch.where(chosen_S, own, their) for own, their in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Acceptance:
    """The rules, for blocks of `block` points."""

    block: int
    gaps: tuple[float, float]
    """Bounds of an accepted gap."""
    far_by_gap: float
    """Of an accepted level the tail beyond the upper quantile is as wide as the gap, by this factor."""

    def patience(self, points_S: FloatArray) -> npt.NDArray[np.int32]:
        """Return the blocks that so many points make."""
        return np.clip(np.ceil(points_S / self.block), _LEAST_BLOCKS, _MOST_BLOCKS).astype(np.int32)

    def count(self, state: Mapping[str, Tensor], slot_K: Tensor, surprise_K: Tensor) -> None:
        """Add points to their blocks."""
        whole_K = (surprise_K.clamp(0, _HIGHEST) * _STEPS).round().int()
        state["block_sum"].index_add_(0, slot_K, whole_K)
        state["block_top"].scatter_reduce_(0, slot_K, surprise_K, "amax")

    def decide(
        self,
        state: Mapping[str, Tensor],
        slot_S: Tensor,
        elevated_S: Tensor,
        before: Quantiles,
        learned: Quantiles,
    ) -> tuple[Quantiles, Tensor]:
        """Return (what is usual from here on, whose level was accepted), and begin the next block.

        Args:
            before: what was usual in this block.
            learned: what it would teach.
        """
        mean_S = state["block_sum"][slot_S] / (_STEPS * self.block)
        patience_S, stays_S, often_S = (state[name][slot_S] for name in ("patience", "stays", "often"))
        stays_S = torch.where(elevated_S, stays_S + 1, (stays_S - _TAKES_BACK).clamp(min=0))
        often_S = _often(often_S, elevated_S, patience_S)
        level = self._level(state, slot_S, elevated_S, stays_S, mean_S)

        former, calm = (Quantiles(*(state[f"{of}_{name}"][slot_S] for name in _NAMES)) for of in ("former", "calm"))
        calm = before.where(elevated_S & (stays_S == 1), calm)
        kept_S, standing_S = former.gap_S > 0, level.median_S > before.median_S + before.gap_S
        accepted_S = (patience_S > 0) & elevated_S & (stays_S >= patience_S) & standing_S
        ended_S = kept_S & ~elevated_S & (mean_S < _border(former, before))
        unheard_S = elevated_S & (stays_S > _HEARD) & (often_S >= 0) & (often_S < _TAKES_BACK * patience_S)

        usual = level.where(accepted_S, calm.where(unheard_S, learned))
        usual = former.where(ended_S, usual)
        former = before.where(accepted_S & ~kept_S, former)
        calm = calm.where(elevated_S, usual)
        for name, former_S, calm_S in zip(_NAMES, former, calm, strict=True):
            state[f"former_{name}"][slot_S] = former_S.masked_fill(ended_S, 0)
            state[f"calm_{name}"][slot_S] = calm_S
        state["stays"][slot_S] = stays_S.masked_fill(accepted_S, 0)
        state["often"][slot_S] = often_S.masked_fill(accepted_S, 0)
        state["block_sum"][slot_S] = 0
        state["block_top"][slot_S] = 0
        return usual, accepted_S

    def _level(
        self, state: Mapping[str, Tensor], slot_S: Tensor, elevated_S: Tensor, stays_S: Tensor, mean_S: Tensor
    ) -> Quantiles:
        """Take elevated blocks into the level that may stay; return it."""
        level_S, top_S, stray_S = (state[name][slot_S] for name in ("level", "top", "stray"))
        highest_S, first_S = state["block_top"][slot_S], stays_S <= 1
        off_S = (highest_S - top_S).abs().masked_fill(first_S, 0)
        weight_S = elevated_S / stays_S.clamp(min=1)
        level_S, top_S, stray_S = (
            old_S + weight_S * (new_S - old_S)
            for old_S, new_S in ((level_S, mean_S), (top_S, highest_S), (stray_S, off_S))
        )
        for name, each_S in (("level", level_S), ("top", top_S), ("stray", stray_S)):
            state[name][slot_S] = each_S
        gap_S = (top_S + stray_S - level_S).clamp(*self.gaps)
        return Quantiles(level_S, gap_S, gap_S * self.far_by_gap)


def _often(often_S: Tensor, elevated_S: Tensor, patience_S: Tensor) -> Tensor:
    """Return `often` after one more block; below 0: so many usual ones are lacking to a history."""
    new_S = torch.where(elevated_S, often_S, often_S + 1)
    new_S = torch.where(patience_S > 0, new_S.maximum(-patience_S), often_S)
    known_S = torch.where(elevated_S, often_S + _TAKES_BACK, often_S - 1)
    known_S = known_S.clamp(min=0).minimum((_TAKES_BACK + 1) * patience_S)
    return torch.where(often_S < 0, new_S, known_S)


def _border(former: Quantiles, now: Quantiles) -> Tensor:
    """Return below which mean a block is as formerly usual: the upper quantile, or half way where both are near."""
    return torch.minimum(former.median_S + former.gap_S, (former.median_S + now.median_S) / 2)
