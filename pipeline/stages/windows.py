"""Points -> windows ready to score, from ring buffers that live on the scoring device.

Each series has a linear buffer with slack: points are appended until it is full, then its newest
`window - 1` rows move to the front. So every point has its own window as one contiguous slice, even when a
series stands in a poll many times, and only new values cross to the device. Buffers hold scaled values.

The first `window` points of a series fill its buffer and are not scored: it is warming. A series that was
not there in training is scaled by those points, once, when they are complete.

Legend: M points, B windows of one chunk, S slots, T window length, L buffer length, F features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.stages.decode import FloatArray, IntArray
from pipeline.stages.series import Points, SeriesTable, runs

SLACK = 64
"""Points that can be appended before a buffer is compacted; also the most points of a series in a round."""

_LARGEST = 1e30
EstimateScaling = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True, slots=True)
class Round:
    """Points whose windows lie in the buffers now, until the next round is asked for."""

    position_M: IntArray
    """Where each point stands among the admitted `Points`."""
    end_M: Tensor
    """Row of each point in the flat buffers; its window is the T rows that end there."""


class Windows:
    """Ring buffers of a stream's series."""

    def __init__(
        self,
        table: SeriesTable,
        *,
        estimate_scaling: EstimateScaling,
        device: torch.device,
    ) -> None:
        self._table = table
        self._estimate_scaling = estimate_scaling
        self._device = device
        self.window = table.window
        self._length = table.window + SLACK
        self._buffer_SLF = torch.zeros((0, self._length, table.n_features), device=device)
        self._end_S = np.zeros(0, np.int64)
        """Rows in use of each buffer."""

    def rounds(self, points: Points) -> Iterator[Round]:
        """Append the points; yield those that complete a window, each point exactly once.

        Points that warm a series, and held ones, are appended but not yielded.
        """
        self._grow()
        warming_M = points.index_M < self.window
        self._warm(points, np.flatnonzero(warming_M))
        position_M = np.flatnonzero(~warming_M)
        rank_M = runs(points.slot_M[position_M]).rank_N
        for low in range(0, int(rank_M.max(initial=-1)) + 1, SLACK):
            chosen_M = position_M[(rank_M >= low) & (rank_M < low + SLACK)]
            end_M = self._append(points, chosen_M)
            scored_M = ~points.held_M[chosen_M]
            yield Round(chosen_M[scored_M], torch.from_numpy(end_M[scored_M]).to(self._device))

    def gather(self, end_B: Tensor) -> Tensor:
        """Return the windows x_BTF that end at these rows."""
        back_T = torch.arange(1 - self.window, 1, device=self._device)
        flat_RF = self._buffer_SLF.view(-1, self._buffer_SLF.shape[2])
        rows_BT = end_B[:, None] + back_T
        return flat_RF.index_select(0, rows_BT.reshape(-1)).view(len(end_B), self.window, -1)

    def free(self, slots: IntArray) -> None:
        """Empty the buffers of slots that lost their series."""
        self._grow()
        self._end_S[slots] = 0

    def snapshot(self, slots: IntArray) -> npt.NDArray[np.float32]:
        """Return the newest T rows of each slot, zeros after those that are not there yet, as [S, T, F]."""
        rows_ST = np.maximum(self._end_S[slots] - self.window, 0)[:, None] + np.arange(self.window)
        held = self._buffer_SLF[torch.from_numpy(slots)[:, None], torch.from_numpy(rows_ST)]
        rows = held.cpu().numpy()
        rows[np.arange(self.window) >= self._end_S[slots][:, None]] = 0
        return rows

    def restore(self, slots: IntArray, rows_STF: npt.NDArray[np.float32]) -> None:
        """Put back what `snapshot` returned; the table's counts are restored before."""
        self._grow()
        self._buffer_SLF[torch.from_numpy(slots), : self.window] = torch.from_numpy(rows_STF).to(self._device)
        self._end_S[slots] = np.minimum(self._table.columns["count"][slots], self.window)

    def rescale(self, slots: IntArray, center_SF: FloatArray, scale_SF: FloatArray) -> None:
        """Move the buffers of these slots from the table's scaling to another one, which the table takes."""
        columns = self._table.columns
        rows = self._buffer_SLF[torch.from_numpy(slots).to(self._device)].cpu().numpy().astype(np.float64)
        raw_SLF = rows * columns["scale"][slots][:, None] + columns["center"][slots][:, None]
        moved = torch.from_numpy(_scaled(raw_SLF, center_SF[:, None], scale_SF[:, None]))
        self._buffer_SLF[torch.from_numpy(slots).to(self._device)] = moved.to(self._device)
        columns["center"][slots], columns["scale"][slots] = center_SF, scale_SF
        columns["learned"][slots] = True

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
        rows_STF = self._buffer_SLF[torch.from_numpy(slots), : self.window].cpu().numpy().astype(np.float64)
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
        flat_RF = self._buffer_SLF.view(-1, self._buffer_SLF.shape[2])
        flat_RF.index_copy_(0, torch.from_numpy(flat_M).to(self._device), torch.from_numpy(scaled).to(self._device))
        self._end_S[slots] += count_S
        return flat_M

    def _compact(self, slots: IntArray) -> None:
        if not len(slots):
            return
        keep = self.window - 1
        rows = self._end_S[slots][:, None] - keep + np.arange(keep)
        index = torch.from_numpy(slots).to(self._device)
        self._buffer_SLF[index, :keep] = self._buffer_SLF[index[:, None], torch.from_numpy(rows).to(self._device)]
        self._end_S[slots] = keep

    def _grow(self) -> None:
        capacity = self._table.capacity
        more = capacity - len(self._end_S)
        if more <= 0:
            return
        shape = (more, *self._buffer_SLF.shape[1:])
        self._buffer_SLF = torch.cat([self._buffer_SLF, torch.zeros(shape, device=self._device)])
        self._end_S = np.append(self._end_S, np.zeros(more, np.int64))


def _scaled(values: FloatArray, center: FloatArray, scale: FloatArray) -> npt.NDArray[np.float32]:
    """Scale in 64 bits, so that a large counter keeps its small steps; the result is finite in 32."""
    return np.clip((values - center) / scale, -_LARGEST, _LARGEST).astype(np.float32)
