"""What earlier windows say of a series' newest row: the largest of their errors, each faded by its distance.

A ring of the last errors of every view would take as much memory as the values. Few of them ever count: an error
that a newer one exceeds, though it is faded, stays below it for ever, for both fade alike (a monotonic queue:
Lemire, "Streaming Maximum-Minimum Filter Using No More than Three Comparisons per Element", 2006). Of 64 windows
two or three are left on average, so a slot keeps a few errors with their ages; a slot that needs more moves to a
wide store, and back. What is found is bit for bit the maximum over all.

Legend: M points, U slots of which each has one point, S slots, V views, K errors kept, A ages, D rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import IntArray
from models.mapping import Reach
from pipeline.stages.capacity import grown
from pipeline.stages.runs import runs
from pipeline.stages.slot_arrays import SlotArray

_NONE = -torch.inf
_ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""Of the numbers at hand: more than rounding moves a faded error against another one."""


def kept_errors(views: int) -> int:
    """Return how many errors a slot keeps of each view: of a hundred slots one or two need more at a time."""
    return 6 if views == 1 else 8


@dataclass
class _Store:
    """Errors -inf: none is kept there. Ages count the rows since."""

    errors: SlotArray
    ages: SlotArray

    def grow(self, slots: int) -> None:
        self.errors.grow(slots)
        self.ages.grow(slots)

    def clear(self, index_U: Tensor) -> None:
        self.errors.rows[index_U] = _NONE

    def write(self, index_U: Tensor, error_UVK: Tensor, age_UVK: Tensor) -> None:
        self.errors.rows.index_copy_(0, index_U, error_UVK)
        self.ages.rows.index_copy_(0, index_U, age_UVK.to(self.ages.rows.dtype))


class FadingErrors:
    """The errors that may still be the largest, for each slot."""

    def __init__(self, reach: Reach, device: torch.device) -> None:
        assert reach.ahead == 0, "a row that waits is judged by later windows too"
        views = len(reach.fading_VR)
        self._behind = reach.behind
        self._fading_VA = reach.fading_VR.flip(1).contiguous().to(device)
        """What is taken off an error of each age."""
        fading_VA = self._fading_VA.double()
        finite_VA = fading_VA.masked_fill(fading_VA.isinf(), 0)
        self._margin_V1 = (_ROUNDING * finite_VA.amax(dim=1)[:, None]).float()
        self._first_V1 = torch.arange(0, self._fading_VA.numel(), reach.behind + 1, device=device).int()[:, None]
        """Where each view's fading begins."""
        self._device = device
        self._kept = min(kept_errors(views), reach.behind)
        ages = np.uint8 if reach.behind < 255 else np.int16
        self._narrow, self._wide = (
            _Store(SlotArray((views, kept), np.float32, _NONE, device), SlotArray((views, kept), ages, 0, device))
            for kept in (self._kept, reach.behind)
        )
        self._wide_of_S = np.zeros(0, np.int32)
        """Row of the wide store that a slot has; -1: none."""
        self._free: list[int] = []

    def grow(self, slots: int) -> None:
        """Have room for so many slots."""
        more = slots - len(self._wide_of_S)
        if more > 0:
            self._narrow.grow(slots)
            self._wide_of_S = np.append(self._wide_of_S, np.full(more, -1, np.int32))

    def clear(self, slots: IntArray) -> None:
        """Forget what these slots kept."""
        self._narrow.clear(self._index(slots))
        self._give_back(slots[self._wide_of_S[slots] >= 0])

    def follow(self, slot_M: IntArray, error_MV: Tensor) -> Tensor:
        """Take the errors of rows (-inf: none was read) and return what is said of each row, error_MV.

        The rows are sorted by slot and stand in the order of their series, of which none may be left out.
        """
        rank_M = runs(slot_M).rank_N
        if not rank_M.any():
            return self._step(slot_M, error_MV)
        found_MV = torch.empty_like(error_MV)
        for rank in range(int(rank_M.max()) + 1):
            position_U = np.flatnonzero(rank_M == rank)
            index_U = self._index(position_U)
            found_MV[index_U] = self._step(slot_M[position_U], error_MV[index_U])
        return found_MV

    def rows(self, slots: IntArray, end_S: IntArray, rows_SDV: npt.NDArray[np.float32]) -> None:
        """Write the errors into rows [S, D, V] of which the newest stands before `end_S`; -inf: none is kept."""
        rows_SDV[...] = _NONE
        for s, row, view, error in self._of_newest(slots, end_S):
            rows_SDV[s, row, view] = error

    def newest(self, slots: IntArray, rows_S: IntArray) -> npt.NDArray[np.float32]:
        """Return the errors of so many of the newest rows of each slot, one slot behind the other as [R, V]."""
        first_S = np.cumsum(rows_S) - rows_S
        rows_RV = np.full((rows_S.sum(), len(self._fading_VA)), _NONE, np.float32)
        for s, row, view, error in self._of_newest(slots, rows_S):
            rows_RV[first_S[s] + row, view] = error
        return rows_RV

    def _of_newest(self, slots: IntArray, rows_S: IntArray) -> Iterator[tuple[npt.NDArray[Any], ...]]:
        """Yield the errors of so many rows: (which of the slots, number of the row, view, error) of each store."""
        wide_S = self._wide_of_S[slots]
        for store, place_U, index_U in (
            (self._narrow, np.flatnonzero(wide_S < 0), slots[wide_S < 0]),
            (self._wide, np.flatnonzero(wide_S >= 0), wide_S[wide_S >= 0].astype(np.int64)),
        ):
            index, rows_U = self._index(index_U), rows_S[place_U]
            error_UVK, age_UVK = store.errors.rows[index].cpu().numpy(), store.ages.rows[index].cpu().numpy()
            few_U = np.minimum(rows_U, self._behind).astype(age_UVK.dtype)
            u, view, k = np.nonzero((age_UVK < few_U[:, None, None]) & (error_UVK > _NONE))
            yield place_U[u], rows_U[u] - 1 - age_UVK[u, view, k], view, error_UVK[u, view, k]

    def put(self, slots: IntArray, end_S: IntArray, rows_SDV: npt.NDArray[np.float32]) -> None:
        """Take errors as `rows` returns them in place of what these slots kept."""
        self.clear(slots)
        age_A = np.arange(self._behind)
        row_SA = end_S[:, None] - 1 - age_A
        error_SAV = np.take_along_axis(rows_SDV, np.maximum(row_SA, 0)[:, :, None], axis=1)
        error_SAV[row_SA < 0] = _NONE
        faded_SAV = error_SAV - self._fading_VA[:, : self._behind].T.double().cpu().numpy()
        newer_SAV = np.maximum.accumulate(faded_SAV, axis=1)[:, :-1]
        counts_SAV = error_SAV > _NONE
        counts_SAV[:, 1:] &= newer_SAV < faded_SAV[:, 1:] + self._margin_V1.T.cpu().numpy()
        most_S = counts_SAV.sum(axis=1).max(axis=1)
        narrow_S = most_S <= self._kept
        self._take_wide(slots[~narrow_S])
        for store, chosen_S, index in (
            (self._narrow, narrow_S, slots[narrow_S]),
            (self._wide, ~narrow_S, self._wide_of_S[slots[~narrow_S]].astype(np.int64)),
        ):
            kept_SAV = counts_SAV[chosen_S]
            place_SAV = np.cumsum(kept_SAV, axis=1) - 1
            s, age, view = np.nonzero(kept_SAV)
            shape = (len(index), *store.errors.rows.shape[1:])
            error_SVK, age_SVK = np.full(shape, _NONE, np.float32), np.zeros(shape, np.int64)
            error_SVK[s, view, place_SAV[s, age, view]] = error_SAV[chosen_S][s, age, view]
            age_SVK[s, view, place_SAV[s, age, view]] = age
            store.write(self._index(index), *(torch.from_numpy(a).to(self._device) for a in (error_SVK, age_SVK)))

    def _step(self, slot_U: IntArray, error_UV: Tensor) -> Tensor:
        """Take one row of each slot."""
        wide_U = self._wide_of_S[slot_U]
        if (wide_U < 0).all():
            return self._step_narrow(slot_U, error_UV)
        found_UV = torch.empty_like(error_UV)
        narrow, wide = self._index(np.flatnonzero(wide_U < 0)), self._index(np.flatnonzero(wide_U >= 0))
        found_UV[wide] = self._step_wide(slot_U[wide_U >= 0], error_UV[wide])
        found_UV[narrow] = self._step_narrow(slot_U[wide_U < 0], error_UV[narrow])
        return found_UV

    def _step_narrow(self, slot_U: IntArray, new_UV: Tensor) -> Tensor:
        index_U = self._index(slot_U)
        found_UV, error_UVK, age_UVK, full_U = self._moved_on(self._narrow, index_U, new_UV)
        self._narrow.write(index_U, error_UVK, age_UVK)
        if full_U.any():
            slots = slot_U[full_U.cpu().numpy()]
            self._take_wide(slots)
            wide = self._index(self._wide_of_S[slots].astype(np.int64))
            kept = self._kept
            error_UVK, age_UVK, new_UV = error_UVK[full_U], age_UVK[full_U], new_UV[full_U]
            self._wide.clear(wide)
            self._wide.errors.rows[wide, :, :kept] = error_UVK
            self._wide.ages.rows[wide, :, :kept] = age_UVK.to(self._wide.ages.rows.dtype)
            # Of the other views the newest error stands among those that were kept.
            left_UV = ~((age_UVK == 0) & (error_UVK > _NONE)).any(dim=2)
            self._wide.errors.rows[wide, :, kept] = new_UV.masked_fill(~left_UV, _NONE)
            self._wide.ages.rows[wide, :, kept] = 0
            self._narrow.clear(index_U[full_U])
        return found_UV

    def _step_wide(self, slot_U: IntArray, new_UV: Tensor) -> Tensor:
        index_U = self._index(self._wide_of_S[slot_U].astype(np.int64))
        found_UV, error_UVK, age_UVK, _ = self._moved_on(self._wide, index_U, new_UV)
        self._wide.write(index_U, error_UVK, age_UVK)
        few_U = (error_UVK > _NONE).sum(dim=2).amax(dim=1) <= self._kept // 2
        if few_U.any():
            error_UVK, place_UVK = error_UVK[few_U].topk(self._kept, dim=2)
            slots = slot_U[few_U.cpu().numpy()]
            self._narrow.write(self._index(slots), error_UVK, age_UVK[few_U].gather(2, place_UVK))
            self._give_back(slots)
        return found_UV

    def _moved_on(self, store: _Store, index_U: Tensor, new_UV: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (what is said of the new rows, errors and ages to keep, which slots had no place for the new)."""
        error_UVK = store.errors.rows.index_select(0, index_U)
        age_UVK = store.ages.rows.index_select(0, index_U).int() + 1
        place = (age_UVK + self._first_V1).view(-1)
        faded_UVK = error_UVK - self._fading_VA.view(-1).index_select(0, place).view_as(error_UVK)
        found_UV = torch.maximum(new_UV - self._fading_VA[:, 0], faded_UVK.amax(dim=2))
        least_UV = new_UV - self._margin_V1[:, 0] - _ROUNDING * new_UV.abs()
        below_UVK = (faded_UVK <= least_UV[:, :, None]) | (age_UVK >= self._behind)
        error_UVK = error_UVK.masked_fill(below_UVK, _NONE)
        kept_UV1, place_UV1 = error_UVK.min(dim=2, keepdim=True)
        new_UV1 = new_UV[:, :, None]
        full_UV1 = (kept_UV1 > _NONE) & (new_UV1 > _NONE)
        error_UVK = error_UVK.scatter(2, place_UV1, torch.where(kept_UV1 > _NONE, kept_UV1, new_UV1))
        old_UV1 = age_UVK.gather(2, place_UV1)
        age_UVK = age_UVK.scatter(2, place_UV1, torch.where(kept_UV1 > _NONE, old_UV1, torch.zeros_like(old_UV1)))
        # What is not kept must not grow out of the numbers that ages are kept in.
        return found_UV, error_UVK, age_UVK.clamp(max=self._behind - 1), full_UV1.flatten(1).any(dim=1)

    def _take_wide(self, slots: IntArray) -> None:
        """Give these slots, which have none, a row of the wide store each."""
        lacking = len(slots) - len(self._free)
        if lacking > 0:
            before = len(self._wide.errors.rows)
            after = grown(before, before + lacking)
            self._wide.grow(after)
            self._free += reversed(range(before, after))
        for slot in slots.tolist():
            self._wide_of_S[slot] = self._free.pop()

    def _give_back(self, slots: IntArray) -> None:
        """Take the rows of the wide store from slots that have one."""
        self._wide.clear(self._index(self._wide_of_S[slots].astype(np.int64)))
        self._free += self._wide_of_S[slots].tolist()
        self._wide_of_S[slots] = -1

    def _index(self, slots: IntArray) -> Tensor:
        return torch.from_numpy(slots).to(self._device)
