"""Points -> windows ready to read, from ring buffers that live on the scoring device.

Each series has a linear buffer with slack: points are appended until it is full, then its newest rows move to the
front. So every point has its own window as one contiguous slice, even when a series stands in a poll many times,
and only new values cross to the device. Beside the scaled values of a row, the buffers hold the errors of the
window that ends there, and where alerts wait for later points, when it was.

The first `window` points of a series fill its buffer and are not scored: it is warming. A series that was
not there in training is scaled by those points, once, when they are complete.

Legend: M points, B windows of one chunk, S slots, T window length, L buffer length, D depth that is kept,
R windows near a row, F features, V views.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.stages.decode import FloatArray, IntArray
from pipeline.stages.series import Points, SeriesTable, runs

SLACK = 64
"""Points that can be appended before a buffer is compacted; also the most points of a series in a round."""

_LARGEST = 1e30
_VALUES, _ERRORS, _TIMES = "rows", "errors", "times_ms"
_EMPTY = {_VALUES: 0.0, _ERRORS: -torch.inf}
"""What a row holds that nothing was written to."""
EstimateScaling = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True, slots=True)
class Near:
    """How far the judgement of a row looks, and what is kept for it."""

    behind: int = 0
    ahead: int = 0
    """Later points that a row waits for."""
    views: int = 1


@dataclass(frozen=True, slots=True)
class Round:
    """Points whose windows lie in the buffers now, until the next round is asked for."""

    position_M: IntArray
    """Where each point stands among the admitted `Points`."""
    end_M: IntArray
    """Row of each point in the flat buffers; its window is the T rows that end there."""
    read_M: npt.NDArray[np.bool_]
    """Whether the point's window is to be read: not that of a held one."""
    judge_M: npt.NDArray[np.bool_]
    """Whether the row that has waited for this point is to be judged."""


class Windows:
    """Ring buffers of a stream's series."""

    def __init__(
        self,
        table: SeriesTable,
        *,
        estimate_scaling: EstimateScaling,
        device: torch.device,
        near: Near = Near(),
    ) -> None:
        self._table = table
        self._estimate_scaling = estimate_scaling
        self._device = device
        self.near = near
        self.window = table.window
        self.depth = max(self.window, near.behind + 1) + near.ahead
        self._length = self.depth + SLACK
        self._values_SLF = torch.zeros((0, self._length, table.n_features), device=device)
        remembered = self._length if near.behind or near.ahead else 0
        self._errors_SVL = torch.zeros((0, near.views, remembered), device=device)
        """-inf: of no window that was read. The errors of a view lie side by side, for they are compared."""
        self._times_SL = np.zeros((0, self._length if near.ahead else 0), np.int64)
        self._end_S = np.zeros(0, np.int64)
        """Rows in use of each buffer."""

    def rounds(self, points: Points) -> Iterator[Round]:
        """Append the points; yield those that complete a window, each point exactly once.

        Points that warm a series are appended but not yielded.
        """
        self._grow()
        warming_M = points.index_M < self.window
        self._warm(points, np.flatnonzero(warming_M))
        position_M = np.flatnonzero(~warming_M)
        rank_M = runs(points.slot_M[position_M]).rank_N
        for low in range(0, int(rank_M.max(initial=-1)) + 1, SLACK):
            chosen_M = position_M[(rank_M >= low) & (rank_M < low + SLACK)]
            end_M = self._append(points, chosen_M)
            read_M = ~points.held_M[chosen_M]
            waited_M = points.index_M[chosen_M] >= self.window + self.near.ahead
            judge_M = waited_M if self.near.ahead else read_M
            yield Round(chosen_M, end_M, read_M, judge_M)

    def gather(self, end_B: Tensor) -> Tensor:
        """Return the windows x_BTF that end at these rows."""
        features = self._table.n_features
        start_B = (end_B + 1 - self.window) * features
        return _slices(self._values_SLF, start_B, self.window * features).view(-1, self.window, features)

    def errors_near(self, end_B: Tensor) -> Tensor:
        """Return the errors error_BVR of the windows near the rows that these judge; -inf where none was read."""
        near, views = self.near.behind + 1 + self.near.ahead, self.near.views
        slot_B, row_B = end_B // self._length, end_B % self._length
        start_BV = (slot_B * views * self._length + row_B + 1 - near)[:, None]
        start_BV = start_BV + torch.arange(0, views * self._length, self._length, device=self._device)
        return _slices(self._errors_SVL, start_BV.flatten(), near).view(-1, views, near)

    def keep(self, end_B: Tensor, error_BV: Tensor) -> None:
        """Keep what was read of the windows that end at these rows."""
        self._errors_SVL[end_B // self._length, :, end_B % self._length] = error_BV

    def of_rows(self, end_B: Tensor) -> tuple[IntArray, FloatArray]:
        """Return (event times in ms, values) of these rows."""
        row_B = end_B.cpu().numpy()
        slot_B, columns = row_B // self._length, self._table.columns
        scaled_BF = self._values_SLF.flatten(0, 1)[end_B].cpu().numpy().astype(np.float64)
        values_BF = scaled_BF * columns["scale"][slot_B] + columns["center"][slot_B]
        return self._times_SL.reshape(-1)[row_B], values_BF

    def free(self, slots: IntArray) -> None:
        """Empty the buffers of slots that lost their series."""
        self._grow()
        self._end_S[slots] = 0

    def snapshot(self, slots: IntArray) -> dict[str, npt.NDArray[Any]]:
        """Return the newest D rows of each slot as [S, D, ...], empty ones after those that are not there yet."""
        rows_SD = np.maximum(self._end_S[slots] - self.depth, 0)[:, None] + np.arange(self.depth)
        missing_SD = np.arange(self.depth) >= self._end_S[slots][:, None]
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, track in self._tracks.items():
            rows = track[torch.from_numpy(slots)[:, None], torch.from_numpy(rows_SD)].cpu().numpy()
            rows[missing_SD] = _EMPTY[name]
            arrays[name] = rows
        if self.near.ahead:
            arrays[_TIMES] = self._times_SL[slots[:, None], rows_SD]
        return arrays

    def restore(self, slots: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot` returned; the table's counts are restored before.

        What other views found, or what lacks its time, is left out: rows are then judged by what comes next. After
        a change of the delay no row is judged twice; those that waited longer than rows now wait are not judged.
        A series is taken to have stood still before the rows that are there.
        """
        self._grow()
        count_S, stored = self._table.columns["count"][slots], arrays[_VALUES].shape[1]
        valid_S = np.minimum(count_S, stored)
        taken_S = np.minimum(valid_S, self.depth)
        # Where earlier rows are lost, the others stand where they would if nothing was.
        end_S = np.minimum(count_S, self.depth)
        source_SD = np.arange(self.depth) - end_S[:, None] + valid_S[:, None]
        missing_SD = (source_SD < (valid_S - taken_S)[:, None]) | (source_SD >= valid_S[:, None])
        source_SD = np.clip(source_SD, (valid_S - taken_S)[:, None], valid_S[:, None] - 1)
        every_S = np.arange(len(slots))[:, None]
        for name, track in self._tracks.items():
            kept = arrays.get(name)
            lacking = self.near.ahead > 0 and _TIMES not in arrays and name != _VALUES
            if kept is None or kept.shape[2] != track.shape[2] or lacking:
                track[torch.from_numpy(slots), : self.depth] = _EMPTY[name]
                continue
            rows = kept[every_S, source_SD]
            if name == _ERRORS:
                rows[missing_SD] = _EMPTY[name]
                rows[self._judged_already(end_S, stored)] = _EMPTY[name]
            track[torch.from_numpy(slots), : self.depth] = torch.from_numpy(rows).to(self._device)
        if self.near.ahead and _TIMES in arrays:
            self._times_SL[slots, : self.depth] = arrays[_TIMES][every_S, source_SD]
        self._end_S[slots] = end_S

    def _judged_already(self, end_S: IntArray, stored: int) -> npt.NDArray[np.bool_]:
        """Tell which rows [S, D] a shorter delay has judged that would now be judged again."""
        waited = stored - (self.depth - self.near.ahead)
        back_SD = end_S[:, None] - 1 - np.arange(self.depth)
        return np.asarray((back_SD >= waited) & (back_SD < self.near.ahead), np.bool_)

    def rescale(self, slots: IntArray, center_SF: FloatArray, scale_SF: FloatArray) -> None:
        """Move the buffers of these slots from the table's scaling to another one, which the table takes."""
        columns = self._table.columns
        rows = self._values_SLF[torch.from_numpy(slots).to(self._device)].cpu().numpy().astype(np.float64)
        raw_SLF = rows * columns["scale"][slots][:, None] + columns["center"][slots][:, None]
        moved = torch.from_numpy(_scaled(raw_SLF, center_SF[:, None], scale_SF[:, None]))
        self._values_SLF[torch.from_numpy(slots).to(self._device)] = moved.to(self._device)
        columns["center"][slots], columns["scale"][slots] = center_SF, scale_SF
        columns["learned"][slots] = True

    @property
    def _tracks(self) -> dict[str, Tensor]:
        """What the buffers hold of each row, as [S, L, ...] by its name in a checkpoint."""
        remembered = {_ERRORS: self._errors_SVL.transpose(1, 2)} if self._errors_SVL.shape[2] else {}
        return {_VALUES: self._values_SLF, **remembered}

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
        rows_STF = self._values_SLF[torch.from_numpy(slots)[:, None], rows].cpu().numpy().astype(np.float64)
        estimated = [
            self._estimate_scaling(rows_TF * columns["scale"][slot] + columns["center"][slot])
            for slot, rows_TF in zip(slots, rows_STF, strict=True)
        ]
        self.rescale(slots, np.stack([pair[0] for pair in estimated]), np.stack([pair[1] for pair in estimated]))

    def _append(self, points: Points, position_M: IntArray) -> IntArray:
        """Write points behind the rows of their series; return the flat row of each."""
        slot_M = points.slot_M[position_M]
        start_S, count_S, rank_M = runs(slot_M)
        slots = slot_M[start_S]
        self._compact(slots[self._end_S[slots] + count_S > self._length])
        flat_M = slot_M * self._length + self._end_S[slot_M] + rank_M
        columns = self._table.columns
        scaled = _scaled(points.values_MF[position_M], columns["center"][slot_M], columns["scale"][slot_M])
        flat = torch.from_numpy(flat_M).to(self._device)
        self._values_SLF.flatten(0, 1).index_copy_(0, flat, torch.from_numpy(scaled).to(self._device))
        if self._errors_SVL.shape[2]:
            self._errors_SVL[flat // self._length, :, flat % self._length] = _EMPTY[_ERRORS]
        if self.near.ahead:
            self._times_SL.reshape(-1)[flat_M] = points.time_ms_M[position_M]
        self._end_S[slots] += count_S
        return flat_M

    def _compact(self, slots: IntArray) -> None:
        if not len(slots):
            return
        keep = self.depth - 1
        rows = self._end_S[slots][:, None] - keep + np.arange(keep)
        index, rows_SD = torch.from_numpy(slots).to(self._device), torch.from_numpy(rows).to(self._device)
        for track in self._tracks.values():
            track[index, :keep] = track[index[:, None], rows_SD]
        if self.near.ahead:
            self._times_SL[slots, :keep] = self._times_SL[slots[:, None], rows]
        self._end_S[slots] = keep

    def _grow(self) -> None:
        more = self._table.capacity - len(self._end_S)
        if more <= 0:
            return
        values_SLF, errors_SVL = self._values_SLF, self._errors_SVL
        self._values_SLF = torch.cat([values_SLF, values_SLF.new_zeros((more, *values_SLF.shape[1:]))])
        unread_SVL = errors_SVL.new_full((more, *errors_SVL.shape[1:]), _EMPTY[_ERRORS])
        self._errors_SVL = torch.cat([errors_SVL, unread_SVL])
        self._times_SL = np.concatenate([self._times_SL, np.zeros((more, self._times_SL.shape[1]), np.int64)])
        self._end_S = np.append(self._end_S, np.zeros(more, np.int64))


def _scaled(values: FloatArray, center: FloatArray, scale: FloatArray) -> npt.NDArray[np.float32]:
    """Scale in 64 bits, so that a large counter keeps its small steps; the result is finite in 32."""
    return np.clip((values - center) / scale, -_LARGEST, _LARGEST).astype(np.float32)


def _slices(track: Tensor, start_B: Tensor, length: int) -> Tensor:
    """Return so many neighbouring numbers from each of these places of a track, [B, length]."""
    flat = track.view(-1)
    every = flat.as_strided((len(flat) - length + 1, length), (1, 1))
    return every.index_select(0, start_B)
