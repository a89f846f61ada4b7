"""From window to window: which windows a made-up series follows, and in which parts.

A series is longer than a window. Its windows follow each other as those of the original do, half a window at a
time, and one in four goes on as another one does that looks like it (after Lall and Sharma, "A nearest neighbor
bootstrap for resampling hydrologic time series", Water Resources Research 1996). What is mixed into a window goes
on, too, in the same parts, as long as it looks like it: drawn anew at each step, levels and phases would wander
about as they never did. What the clock says is not looked at: a night follows an evening because it did, not
because it is late.

Legend: N training windows, B windows of the series, K neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.arrays import FloatArray, IntArray
from models.dataset import Windows
from models.sampling import Sampler

_JUMPS = 0.25
_ALIKE = 1.5
"""How many times as far as the K-th neighbour what goes on beside a window may lie."""
_CHUNK = 256


@dataclass
class _Place:
    """Where a walk is."""

    at: int
    near_K: IntArray
    normal_K: FloatArray


class Walk:
    """Walks through the windows of a sampler."""

    def __init__(self, sampler: Sampler, step: int) -> None:
        """`step`: rows from a window to the next."""
        self._sampler = sampler
        self._next_N = followers(sampler.windows, step)

    def of(
        self, own_N: IntArray, count: int, random: np.random.Generator
    ) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
        """Yield so many windows in all: (each one's source, its neighbours, their normal parts).

        Args:
            own_N: numbers of the windows that may be sources.
        """
        goes_on = own_N[self._next_N[own_N] >= 0]
        place = self._anywhere(goes_on if len(goes_on) else own_N, random)
        walked: list[_Place] = []
        for _ in range(count):
            walked.append(place)
            if len(walked) == _CHUNK:
                yield _stacked(walked)
                walked = []
            place = self._after(place, own_N, goes_on, random)
        if walked:
            yield _stacked(walked)

    def _anywhere(self, own_N: IntArray, random: np.random.Generator) -> _Place:
        at = int(random.choice(own_N))
        near_K = self._sampler.near_NK[at]
        return _Place(at, near_K, random.standard_normal(len(near_K)))

    def _after(self, place: _Place, own_N: IntArray, goes_on: IntArray, random: np.random.Generator) -> _Place:
        members, normal = np.append(place.at, place.near_K), np.append(0.0, place.normal_K)
        next_at, next_M = int(self._next_N[place.at]), self._next_N[members]
        others = np.flatnonzero((next_M >= 0) & np.isin(members, goes_on))
        others = others[others > 0]
        if len(others) and (next_at < 0 or random.random() < _JUMPS):
            # The two change places.
            other = int(random.choice(others))
            next_M[[0, other]] = next_M[[other, 0]]
            next_at = int(next_M[0])
        if next_at < 0:
            return self._anywhere(goes_on if len(goes_on) else own_N, random)
        sampler = self._sampler
        near_K = sampler.near_NK[next_at]
        code_NL = sampler.scaled_NL
        far = float((code_NL[near_K[-1]] - code_NL[next_at]).norm())
        kept_M, kept_normal_M = next_M[1:], normal[1:]
        alike_M = kept_M >= 0
        alike_M[alike_M] = ((code_NL[kept_M[alike_M]] - code_NL[next_at]).norm(dim=1) <= _ALIKE * far).numpy()
        first, end = (int(each[next_at]) for each in sampler.overlapping)
        alike_M &= (kept_M < first) | (kept_M >= end)
        new = near_K[~np.isin(near_K, kept_M[alike_M])][: int((~alike_M).sum())]
        missing = int((~alike_M).sum()) - len(new)
        kept_M, kept_normal_M = kept_M.copy(), kept_normal_M.copy()
        kept_M[~alike_M] = np.append(new, np.full(missing, next_at))
        kept_normal_M[~alike_M] = random.standard_normal(int((~alike_M).sum()))
        return _Place(next_at, kept_M, kept_normal_M)


def followers(windows: Windows, step: int) -> IntArray:
    """Return for each window the one that starts `step` rows later in its piece; -1 where there is none."""
    place_N = np.searchsorted(windows.start_N, windows.start_N + step)
    piece_N = np.searchsorted(windows.first_S, np.arange(len(windows.start_N)), side="right")
    inside_N = place_N < len(windows.start_N)
    found_N = np.where(inside_N, place_N, 0)
    right_N = inside_N & (windows.start_N[found_N] == windows.start_N + step) & (piece_N[found_N] == piece_N)
    return np.where(right_N, found_N, -1)


def _stacked(walked: list[_Place]) -> tuple[IntArray, IntArray, FloatArray]:
    return (
        np.array([place.at for place in walked]),
        np.stack([place.near_K for place in walked]),
        np.stack([place.normal_K for place in walked]),
    )
