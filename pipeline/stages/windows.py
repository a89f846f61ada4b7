"""Points -> windows ready to read, from ring buffers that live on the scoring device.

Each series has a linear buffer with slack: points are appended until it is full, then its newest rows move to the
front. So every point has its own window as one contiguous slice, even when a series stands in a poll many times,
and only new values cross to the device. Beside the scaled values of a row, the buffers hold the errors of the
window that ends there, and where alerts wait for later points, when it was.

Of many series each seldom has more than a point in a poll, and slack is memory that nobody uses: their buffers have
less of it, and of the errors they hold only those that may still count (`fading`). Buffers change over once, when
there are `MANY` slots, and keep what they hold: neither layout changes a score. On a GPU they stay as they began:
it would have to be asked which errors may still count, and the host would wait for the answer.

The first `window` points of a series fill its buffer and are not scored: it is warming. A series that was
not there in training is scaled by those points, once, when they are complete.

Legend: M points, B windows of one chunk, S slots, T window length, L buffer length, D depth that is kept,
R windows near a row, F features, V views.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import BoolArray, FloatArray, IntArray
from models.crossing import placed
from models.snapshots import Memory, copied, fresh
from pipeline.stages.fading import FadingErrors
from pipeline.stages.rounds import Near, Round
from pipeline.stages.runs import ranks, runs
from pipeline.stages.series import Points, SeriesTable
from pipeline.stages.slices import copy_slices, slices
from pipeline.stages.slot_arrays import SlotArray

SLACK, LEAST_SLACK, _SLACK_SHARE = 64, 8, 8
"""Points that can be appended before a buffer is compacted; also the most points of a series in a round. With many
slots an eighth of the depth, at least 8: a compaction then moves eight rows for each point."""
MANY = 32_768
"""From so many slots on buffers are lean."""
_AT_ONCE = 65_536
"""Slots that are copied or read together: a million at once would need their memory twice."""

_LARGEST = 1e30
_VALUES, _ERRORS, _TIMES = "rows", "errors", "times_ms"
_KEPT = (_VALUES, _ERRORS, _TIMES)
_EMPTY = {_VALUES: 0.0, _ERRORS: -torch.inf, _TIMES: 0}
"""What a row holds that nothing was written to."""
EstimateScaling = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


class Windows:
    """Ring buffers of a stream's series."""

    def __init__(
        self,
        table: SeriesTable,
        *,
        estimate_scaling: EstimateScaling,
        device: torch.device,
        near: Near | None = None,
    ) -> None:
        self._table = table
        self.estimate_scaling = estimate_scaling
        self._device = device
        self.near = near or Near()
        self.window = table.window
        self.depth = max(self.window, self.near.behind + 1) + self.near.ahead
        self._lean = False
        self._lay_out(SLACK, None)
        self._end_S = np.zeros(0, np.int16)
        """Rows in use of each buffer."""

    def _lay_out(self, slack: int, fading: FadingErrors | None) -> None:
        """Begin with empty buffers of so much slack."""
        self._slack, self._length = slack, self.depth + slack
        self._values = SlotArray((self._length, self._table.n_features), np.float32, 0.0, self._device)
        remembered = self._length if (self.near.behind or self.near.ahead) and fading is None else 0
        self._errors = SlotArray((self.near.views, remembered), np.float32, _EMPTY[_ERRORS], self._device)
        """-inf: of no window that was read. The errors of a view lie side by side, for they are compared."""
        waiting, host = self._length if self.near.ahead else 0, torch.device("cpu")
        self._times = SlotArray((waiting,), np.int64, 0, host)
        self._own = SlotArray((waiting,), np.bool_, False, host)
        """Whether the window that ends in a row was read: a held row has no error of its own."""
        self.fading = fading
        """Where only the errors are kept that may still count."""

    def rounds(self, points: Points) -> Iterator[Round]:
        """Append the points; yield those that complete a window, each point exactly once.

        Points that warm a series are appended but not yielded.
        """
        self._grow()
        warming_M = points.index_M < self.window
        self._warm(points, np.flatnonzero(warming_M))
        position_M = np.flatnonzero(~warming_M)
        rank_M = runs(points.slot_M[position_M]).rank_N
        for low in range(0, int(rank_M.max(initial=-1)) + 1, self._slack):
            chosen_M = position_M[(rank_M >= low) & (rank_M < low + self._slack)]
            end_M = self._append(points, chosen_M)
            read_M = ~points.held_M[chosen_M]
            waited_M = points.index_M[chosen_M] >= self.window + self.near.ahead
            judge_M = waited_M if self.near.ahead else read_M
            yield Round(chosen_M, end_M, read_M, judge_M)

    def gather(self, end_B: Tensor) -> Tensor:
        """Return the windows x_BTF that end at these rows."""
        features = self._table.n_features
        start_B = (end_B + 1 - self.window) * features
        return slices(self._values.rows, start_B, self.window * features).view(-1, self.window, features)

    def errors_near(self, end_B: Tensor) -> Tensor:
        """Return the errors error_BVR of the windows near the rows that these judge; -inf where none was read."""
        near, views = self.near.behind + 1 + self.near.ahead, self.near.views
        slot_B, row_B = end_B // self._length, end_B % self._length
        start_BV = (slot_B * views * self._length + row_B + 1 - near)[:, None]
        start_BV = start_BV + torch.arange(0, views * self._length, self._length, device=self._device)
        return slices(self._errors.rows, start_BV.flatten(), near).view(-1, views, near)

    def keep(self, end_B: Tensor, error_BV: Tensor) -> None:
        """Keep what was read of the windows that end at these rows."""
        self._errors.rows[end_B // self._length, :, end_B % self._length] = error_BV

    def of_waiting(self, row_B: IntArray) -> tuple[IntArray, BoolArray]:
        """Return (event times in ms, whether the own window was read) of rows that have waited for later ones."""
        return self._times.rows.numpy().reshape(-1)[row_B], self._own.rows.numpy().reshape(-1)[row_B]

    def scaled(self, end_B: Tensor) -> Tensor:
        """Return these rows as they lie in the buffers, z_BF."""
        return self._values.rows.flatten(0, 1)[end_B]

    def unscaled(self, row_B: IntArray, z_BF: npt.NDArray[np.float32]) -> FloatArray:
        """Return the values that these rows had before they were scaled."""
        slot_B, columns = row_B // self._length, self._table.columns
        values_BF: FloatArray = z_BF.astype(np.float64) * columns["scale"][slot_B] + columns["center"][slot_B]
        return values_BF

    def free(self, slots: IntArray) -> None:
        """Empty the buffers of slots that lost their series."""
        self._grow()
        self._end_S[slots] = 0
        if self.fading is not None:
            self.fading.clear(slots)

    def snapshot(self, slots: IntArray, memory: Memory = fresh) -> dict[str, npt.NDArray[Any]]:
        """Return the newest D rows of each slot as [S, D, ...], empty ones after those that are not there yet."""
        depth, end_S = self.depth, np.minimum(self._end_S[slots], self.depth).astype(np.int64)
        first_S = slots * self._length + self._end_S[slots] - end_S
        short = np.flatnonzero(end_S < depth)
        missing = short, np.arange(depth) >= end_S[short][:, None]
        features, views = self._table.n_features, self.near.views
        arrays: dict[str, npt.NDArray[Any]] = {}

        def add(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
            arrays[name] = memory(name, (len(slots), depth, *shape), dtype)
            return arrays[name]

        copy_slices(self._values.rows, first_S * features, add(_VALUES, (features,), np.float32))
        _blank(arrays[_VALUES], *missing, _EMPTY[_VALUES])
        if self.fading is not None:
            errors_SDV = add(_ERRORS, (views,), np.float32)
            for low in range(0, len(slots), _AT_ONCE):
                at = slice(low, low + _AT_ONCE)
                self.fading.rows(slots[at], end_S[at], errors_SDV[at])
        elif self._errors.rows.shape[2]:
            start_SV = (slots[:, None] * (views - 1) + np.arange(views)) * self._length + first_S[:, None]
            errors_SVD = np.empty((len(slots), views, depth), np.float32)
            copy_slices(self._errors.rows, start_SV.ravel(), errors_SVD.reshape(-1, depth))
            add(_ERRORS, (views,), np.float32)[...] = errors_SVD.transpose(0, 2, 1)
            _blank(arrays[_ERRORS], *missing, _EMPTY[_ERRORS])
        if self.near.ahead:
            copy_slices(self._times.rows, first_S, add(_TIMES, (), np.int64))
            _blank(arrays[_TIMES], *missing, _EMPTY[_TIMES])
        return arrays

    def snapshot_added(
        self, slots: IntArray, rows_S: IntArray, memory: Memory = fresh
    ) -> dict[str, npt.NDArray[Any]]:
        """Return so many of the newest rows of each slot, one slot behind the other as [R, ...]."""
        slot_R = np.repeat(slots, rows_S)
        row_R = np.repeat(self._end_S[slots] - rows_S, rows_S) + ranks(rows_S)
        index_R = torch.from_numpy(slot_R).to(self._device), torch.from_numpy(row_R).to(self._device)
        arrays = {_VALUES: copied(_VALUES, self._values.rows[index_R].cpu().numpy(), memory)}
        if self.fading is not None:
            arrays[_ERRORS] = copied(_ERRORS, self.fading.newest(slots, rows_S), memory)
        elif self._errors.rows.shape[2]:
            errors_RV = self._errors.rows[index_R[0], :, index_R[1]]
            arrays[_ERRORS] = copied(_ERRORS, errors_RV.cpu().numpy(), memory)
        if self.near.ahead:
            arrays[_TIMES] = copied(_TIMES, self._times.rows.numpy()[slot_R, row_R], memory)
        return arrays

    def restore_added(self, slots: IntArray, rows_S: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put what `snapshot_added` returned behind the rows that are there."""
        slot_R, rank_R = np.repeat(slots, rows_S), ranks(rows_S)
        errors_RV = arrays.get(_ERRORS)
        if errors_RV is None or not self._understands(arrays):
            errors_RV = np.full((len(slot_R), self.near.views), _EMPTY[_ERRORS], np.float32)
        for low in range(0, int(rows_S.max(initial=0)), self._slack):
            at = np.flatnonzero((rank_R >= low) & (rank_R < low + self._slack))
            flat_R = self._extend(slot_R[at], arrays[_VALUES][at])
            if self.fading is not None:
                self.fading.follow(slot_R[at], self._moved(errors_RV[at]))
            elif self._errors.rows.shape[2]:
                self.keep(torch.from_numpy(flat_R).to(self._device), self._moved(errors_RV[at]))
            if self.near.ahead:
                self._times.rows.numpy().reshape(-1)[flat_R] = arrays[_TIMES][at] if _TIMES in arrays else 0
                self._own.rows.numpy().reshape(-1)[flat_R] = _read_before(errors_RV[at])

    def settle(self, slots: IntArray, stored: int) -> None:
        """Once all is put back of a state of this depth: judge no row again that a shorter delay has judged."""
        waited = stored - (self.depth - self.near.ahead)
        for back in range(max(waited, 0), self.near.ahead):
            there = slots[self._end_S[slots] > back]
            row_S = self._end_S[there].astype(np.int64) - 1 - back
            index_S = torch.from_numpy(there).to(self._device), torch.from_numpy(row_S).to(self._device)
            self._errors.rows[index_S[0], :, index_S[1]] = _EMPTY[_ERRORS]
            self._own.rows.numpy()[there, row_S] = False

    def restore(self, slots: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot` returned; the table's counts are restored before, and `settle` comes last.

        What other views found, or what lacks its time, is left out: rows are then judged by what comes next. After
        a change of the delay no row is judged twice; those that waited longer than rows now wait are not judged.
        A series is taken to have stood still before the rows that are there.
        """
        self._grow()
        for low in range(0, len(slots), _AT_ONCE):
            chosen = slice(low, low + _AT_ONCE)
            self._restore(slots[chosen], {name: arrays[name][chosen] for name in _KEPT if name in arrays})

    def _restore(self, slots: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        count_S, stored = self._table.columns["count"][slots], arrays[_VALUES].shape[1]
        valid_S = np.minimum(count_S, stored)
        taken_S = np.minimum(valid_S, self.depth)
        # Where earlier rows are lost, the others stand where they would if nothing was.
        end_S = np.minimum(count_S, self.depth)
        source_SD = np.arange(self.depth) - end_S[:, None] + valid_S[:, None]
        missing_SD = (source_SD < (valid_S - taken_S)[:, None]) | (source_SD >= valid_S[:, None])
        source_SD = np.clip(source_SD, (valid_S - taken_S)[:, None], np.maximum(valid_S - 1, 0)[:, None])
        index, every_S = torch.from_numpy(slots).to(self._device), np.arange(len(slots))[:, None]
        # What was as deep is put back as it was.
        source: Any = slice(None) if stored == self.depth else (every_S, source_SD)
        self._end_S[slots] = end_S
        self._values.rows[index, : self.depth] = self._moved(arrays[_VALUES][source])
        if self.near.ahead and _TIMES in arrays:
            self._times.rows.numpy()[slots, : self.depth] = arrays[_TIMES][source]

        kept = arrays.get(_ERRORS)
        if kept is None or not self._understands(arrays):
            errors_SDV = np.full((len(slots), self.depth, self.near.views), _EMPTY[_ERRORS], np.float32)
        else:
            errors_SDV = kept[source]
            if stored != self.depth:
                errors_SDV[missing_SD] = _EMPTY[_ERRORS]
        if self.fading is not None:
            self.fading.put(slots, end_S, errors_SDV)
        elif self._errors.rows.shape[2]:
            self._errors.rows[index, :, : self.depth] = self._moved(errors_SDV.transpose(0, 2, 1))
        if self.near.ahead:
            self._own.rows.numpy()[slots, : self.depth] = _read_before(errors_SDV)

    def _moved(self, rows: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)

    def _understands(self, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Tell whether the errors of a state are of views like these, and of rows whose time is known."""
        return arrays[_ERRORS].shape[-1] == self.near.views and (self.near.ahead == 0 or _TIMES in arrays)

    def rescale(self, slots: IntArray, center_SF: FloatArray, scale_SF: FloatArray) -> None:
        """Move the buffers of these slots from the table's scaling to another one, which the table takes."""
        columns, index = self._table.columns, placed(slots, self._device)
        before = columns["center"][slots], columns["scale"][slots]
        center_S1F, scale_S1F = (placed(each[:, None], self._device) for each in before)
        # In 64 bits, as a value is scaled that comes in.
        raw_SLF = self._values.rows[index].double() * scale_S1F + center_S1F
        center_S1F, scale_S1F = (placed(each[:, None], self._device) for each in (center_SF, scale_SF))
        self._values.rows[index] = ((raw_SLF - center_S1F) / scale_S1F).clamp_(-_LARGEST, _LARGEST).float()
        columns["center"][slots], columns["scale"][slots] = center_SF, scale_SF
        columns["learned"][slots] = True

    @property
    def _tracks(self) -> dict[str, Tensor]:
        """What the buffers hold of each row, as [S, L, ...] by its name in a checkpoint."""
        remembered = {_ERRORS: self._errors.rows.transpose(1, 2)} if self._errors.rows.shape[2] else {}
        return {_VALUES: self._values.rows, **remembered}

    def _warm(self, points: Points, position_M: IntArray) -> None:
        if not len(position_M):
            return
        self._append(points, position_M)
        filled_M = points.index_M[position_M] == self.window - 1
        slots = points.slot_M[position_M[filled_M]]
        slots = slots[~self._table.columns["learned"][slots]]
        if not len(slots):
            return
        columns = self._table.columns
        rows = torch.from_numpy(self._end_S[slots][:, None] + np.arange(-self.window, 0))
        rows_STF = self._values.rows[torch.from_numpy(slots)[:, None], rows].cpu().numpy().astype(np.float64)
        estimated = [
            self.estimate_scaling(rows_TF * columns["scale"][slot] + columns["center"][slot])
            for slot, rows_TF in zip(slots, rows_STF, strict=True)
        ]
        self.rescale(slots, np.stack([pair[0] for pair in estimated]), np.stack([pair[1] for pair in estimated]))

    def _append(self, points: Points, position_M: IntArray) -> IntArray:
        """Write points behind the rows of their series; return the flat row of each."""
        slot_M, columns = points.slot_M[position_M], self._table.columns
        scaled = _scaled(points.values_MF[position_M], columns["center"][slot_M], columns["scale"][slot_M])
        flat_M = self._extend(slot_M, scaled)
        if self.near.ahead:
            self._times.rows.numpy().reshape(-1)[flat_M] = points.time_ms_M[position_M]
            read_M = (points.index_M[position_M] >= self.window) & ~points.held_M[position_M]
            self._own.rows.numpy().reshape(-1)[flat_M] = read_M
        return flat_M

    def _extend(self, slot_M: IntArray, scaled_MF: npt.NDArray[np.float32]) -> IntArray:
        """Write rows behind those of their slots, which stand together; return the flat row of each."""
        start_S, count_S, rank_M = runs(slot_M)
        slots = slot_M[start_S]
        self._compact(slots[self._end_S[slots] + count_S > self._length])
        flat_M = slot_M * self._length + self._end_S[slot_M] + rank_M
        flat = placed(flat_M, self._device)
        self._values.rows.flatten(0, 1).index_copy_(0, flat, placed(scaled_MF, self._device))
        if self._errors.rows.shape[2]:
            self._errors.rows[flat // self._length, :, flat % self._length] = _EMPTY[_ERRORS]
        self._end_S[slots] += count_S
        return flat_M

    def _compact(self, slots: IntArray) -> None:
        if not len(slots):
            return
        keep = self.depth - 1
        rows = self._end_S[slots][:, None] - keep + np.arange(keep)
        index, rows_SD = placed(slots, self._device), placed(rows, self._device)
        for track in self._tracks.values():
            track[index, :keep] = track[index[:, None], rows_SD]
        if self.near.ahead:
            for host_SL in (self._times.rows.numpy(), self._own.rows.numpy()):
                host_SL[slots, :keep] = host_SL[slots[:, None], rows]
        self._end_S[slots] = keep

    def _grow(self) -> None:
        slots = self._table.capacity
        if slots <= len(self._end_S):
            return
        if slots >= MANY and not self._lean and self._device.type == "cpu":
            self._become_lean()
        self._grow_to(slots)

    def _grow_to(self, slots: int) -> None:
        for track in (self._values, self._errors, self._times, self._own):
            track.grow(slots)
        if self.fading is not None:
            self.fading.grow(slots)
        self._end_S = np.append(self._end_S, np.zeros(slots - len(self._end_S), self._end_S.dtype))

    def _become_lean(self) -> None:
        """Take the layout of many slots."""
        self._lean = True
        slots, reach = np.arange(len(self._end_S)), self.near.reach
        end_S, held = np.minimum(self._end_S, self.depth), self.snapshot(slots)
        fades = reach is not None and self.near.behind > 0 and self.near.ahead == 0
        slack = min(SLACK, max(LEAST_SLACK, self.depth // _SLACK_SHARE))
        self._lay_out(slack, FadingErrors(reach, self._device) if reach is not None and fades else None)
        self._end_S = self._end_S[:0]
        self._grow_to(len(slots))
        self._end_S[:] = end_S
        self._values.rows[:, : self.depth] = self._moved(held[_VALUES])
        if self.fading is not None:
            self.fading.put(slots, end_S.astype(np.int64), held[_ERRORS])
        elif self._errors.rows.shape[2]:
            self._errors.rows[:, :, : self.depth] = self._moved(held[_ERRORS].transpose(0, 2, 1))
        if self.near.ahead:
            self._times.rows[:, : self.depth] = torch.from_numpy(held[_TIMES])
            self._own.rows[:, : self.depth] = torch.from_numpy(_read_before(held[_ERRORS]))


def _read_before(errors: npt.NDArray[np.float32]) -> BoolArray:
    """Return of which rows, [..., V], the own window was read: a window that was has an error in every view."""
    return np.asarray(errors[..., 0] > _EMPTY[_ERRORS], np.bool_)


def _scaled(values: FloatArray, center: FloatArray, scale: FloatArray) -> npt.NDArray[np.float32]:
    """Scale in 64 bits, so that a large counter keeps its small steps; the result is finite in 32."""
    return np.clip((values - center) / scale, -_LARGEST, _LARGEST).astype(np.float32)


def _blank(rows_SD: npt.NDArray[Any], short: IntArray, missing_SD: BoolArray, empty: float) -> None:
    """Empty the rows that nothing was written to, of series that are warming."""
    if len(short):
        rows = rows_SD[short]
        rows[missing_SD] = empty
        rows_SD[short] = rows
