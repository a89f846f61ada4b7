"""From windows to points: how strange a row is by the windows near it.

A window's error speaks in full of the rows that it judged, and of rows before and after them the less the further
away: by `fade` for each row, in logarithms. A row takes the largest of what is said of it. So a score does not
drop to nothing between two spikes of one failure, and a failure that shows only in hindsight still marks the rows
where it began.

How many later windows a row may wait for is its *delay*: 0 makes the score causal, None lets it see one longest
window ahead, which settles it. One rule gives all of them, for a whole series as for the newest row of a live one.

Legend: N rows of a series, B rows to judge, R windows near a row (behind it, its own, ahead), V views.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.views import ViewConfig

Delay = int | None
DELAYS: tuple[Delay, ...] = (0, 2, 4, 8, 16, 32, None)
"""What a model is calibrated for, beside the delay that its stream is configured with."""


@dataclass(frozen=True)
class Reach:
    """How far a row looks among window errors."""

    behind: int
    ahead: int
    fading_VR: Tensor
    """What is taken off the errors of the windows from `behind` rows before to `ahead` after."""

    def point_errors(self, error_BVR: Tensor) -> Tensor:
        """Return the error of each row and view, from those of the windows near it (-inf: there is none)."""
        return (error_BVR - self.fading_VR).amax(dim=2)

    def point_errors_of_series(self, error_NV: Tensor) -> Tensor:
        """Return the error of every row and view, from those of all windows of one series.

        As `point_errors` has it, but for the last bits: maxima over 2, 4, 8, ... rows are made from one another.
        """
        columns = []
        for view in range(error_NV.shape[1]):
            fading_R, error_N = self.fading_VR[view], error_NV[:, view]
            row = self.behind
            # Ahead, so many windows speak of a row in full; one step more, or one behind, shows what is lost a row.
            full = int((fading_R[row + 1 :] == 0).sum())
            steps = [fading_R[place] for place in (row - 1, row + 1 + full) if 0 <= place < len(fading_R)]
            fade = float(steps[0]) if steps else 0.0
            later_N = _faded_max(error_N.flip(0), full, 0.0)
            later_N = _faded_max(later_N, self.ahead - full, fade).flip(0)
            columns.append(torch.maximum(later_N, _faded_max(error_N, self.behind, fade)))
        return torch.stack(columns, dim=1)


def _faded_max(error_N: Tensor, steps: int, fade: float) -> Tensor:
    """Return for each row the largest of its error and those up to `steps` before, less `fade` for each step."""
    if math.isinf(fade):
        return error_N
    reached = 0
    while reached < min(steps, len(error_N) - 1):
        hop = min(reached + 1, steps - reached)
        earlier_N = error_N[:-hop] - hop * fade
        error_N = torch.cat([error_N[:hop], torch.maximum(error_N[hop:], earlier_N)])
        reached += hop
    return error_N


def reach_of(views: Sequence[ViewConfig], delay: Delay, device: torch.device) -> Reach:
    """Return how far a row looks that may wait for `delay` later ones; one longest window at most, either way."""
    span = max(view.window for view in views) - 1
    # Nothing is remembered where every view forgets at once.
    behind = span if any(view.fade is not None for view in views) else 0
    ahead = span if delay is None else min(delay, span)
    distance_R = torch.arange(-behind, ahead + 1, device=device)
    fading = []
    for view in views:
        # A window that ends up to `judged` - 1 rows later has judged the row itself.
        away_R = torch.where(distance_R < 0, -distance_R, (distance_R - (view.judged - 1)).clamp(min=0))
        fading.append(torch.where(away_R == 0, 0.0, away_R * (torch.inf if view.fade is None else view.fade)))
    return Reach(behind, ahead, torch.stack(fading).float())
