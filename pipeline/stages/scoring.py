"""Windows + detector -> scores, and what explains them.

The detector reads all series' windows of a poll together, in chunks of one fixed shape, padded: a matrix product of
another shape may round differently, and a score must not depend on how polls cut the stream. Where alerts wait for
later points, a point brings the judgement of the row that has waited for it. Few rows are ever explained, so what
explains them is reckoned when it is asked for.

Legend: M points, K judged rows, B windows of a chunk, T window length, F features, V views.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.detector import Detector
from models.online_tail import OnlineTail, Pace
from pipeline.stages.decode import FloatArray, IntArray
from pipeline.stages.series import BoolArray, Points
from pipeline.stages.windows import Near, Round, Windows

CHUNK_WINDOWS = 512
"""Windows of one model call: large enough for full speed, small enough for the cache."""
_EXPLAINED_WINDOWS = 16
"""The same for explaining; an explained row is rare and seldom has company."""


@dataclass(frozen=True, slots=True)
class Explanations:
    """What explains some rows, in scaled units; each [K, F], or one number a row."""

    expected_KF: FloatArray
    band_KF: FloatArray
    """How far from the expected value is usual."""
    share_KF: FloatArray
    back_K: IntArray
    """How many rows before the judged one the error was largest."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of rows that were judged together."""

    judged: Points
    """The points that let the rows be judged, with the rows' own time and values."""
    score_K: FloatArray
    """-10 log10 of a tail probability."""
    accepted_K: BoolArray
    """Whether with this row the level that its series has had became the usual one."""
    explain: Callable[[Sequence[int]], Explanations]
    """Explains some of the rows, as long as they lie in the buffers: until the next round."""


class Scorer:
    """Runs a detector over windows or vectors, for rows that may wait for `delay` later ones."""

    def __init__(self, detector: Detector, device: torch.device, delay: int = 0) -> None:
        self._detector = detector
        self._device = device
        self._judgement = detector.calibration.of(delay)
        reach = self._judgement.reach
        self.near = Near(reach.behind, reach.ahead, len(detector.views), reach)

    def online_tail(self, pace: Pace, *, accepting: bool = False) -> OnlineTail:
        """Return the recalibration of the surprise that this scorer finds."""
        return self._judgement.online_tail(self._device, pace, accepting=accepting)

    def score_windows(self, points: Points, windows: Windows, tail: OnlineTail) -> Iterator[Scores]:
        """Append the points to their windows, round by round, and judge the row that has waited for each."""
        for ready in windows.rounds(points):
            yield self._round(points, ready, windows, tail)

    @torch.no_grad()
    def score_vectors(
        self, slot_M: IntArray, z_MF: npt.NDArray[np.float32], tail: OnlineTail
    ) -> tuple[FloatArray, Callable[[Sequence[int]], Explanations]]:
        """Score records whose error depends on nothing else; sorted by slot, one for each partition.

        Returns (scores of all records, what explains some of them).
        """
        z_M1F = torch.from_numpy(z_MF).to(self._device)[:, None]
        row_M = torch.arange(len(z_M1F), device=self._device)
        surprise_M = self._judgement.of_points(self._errors(z_M1F.__getitem__, row_M))
        score_M = tail.score(torch.from_numpy(slot_M).to(self._device), surprise_M)
        return _on_host(score_M), partial(self._explain, z_M1F.__getitem__, row_M)

    @torch.no_grad()
    def _round(self, points: Points, ready: Round, windows: Windows, tail: OnlineTail) -> Scores:
        """Read the windows of a round and judge what can be."""
        near, judgement = self.near, self._judgement
        read_B = torch.from_numpy(ready.end_M[ready.read_M]).to(self._device)
        row_K = torch.from_numpy(ready.end_M[ready.judge_M]).to(self._device)
        position_K = ready.position_M[ready.judge_M]
        error_BV = self._errors(windows.gather, read_B)
        if windows.fading is not None:
            slot_M, own_M = points.slot_M[ready.position_M], torch.from_numpy(ready.read_M).to(self._device)
            error_MV = torch.full((len(slot_M), near.views), -torch.inf, device=self._device)
            error_MV[own_M] = error_BV
            surprise_K = judgement.of_points(windows.fading.follow(slot_M, error_MV)[own_M])
        elif near.behind or near.ahead:
            windows.keep(read_B, error_BV)
            error_KVR = windows.errors_near(row_K)
            if near.ahead:
                # A held row has no error of its own, and others do not speak for it alone.
                own_K = ~torch.isneginf(error_KVR[:, 0, near.behind])
                error_KVR, row_K = error_KVR[own_K], row_K[own_K] - near.ahead
                position_K = position_K[own_K.cpu().numpy()]
            surprise_K = judgement.surprise(error_KVR)
        else:
            surprise_K = judgement.of_points(error_BV)
        judged = points.take(position_K)
        if near.ahead:
            time_ms_K, values_KF = windows.of_rows(row_K)
            judged = replace(judged, time_ms_M=time_ms_K, values_MF=values_KF)
        score_K, accepted_K = tail.follow(torch.from_numpy(judged.slot_M).to(self._device), surprise_K)
        return Scores(
            judged, _on_host(score_K), accepted_K.cpu().numpy(), partial(self._explain, windows.gather, row_K)
        )

    def _errors(self, gather: Callable[[Tensor], Tensor], row_B: Tensor) -> Tensor:
        """Return every view's error of the windows that end at these rows, error_BV."""
        parts = [self._detector.errors(gather(row_B))[:count] for row_B, count in _chunks(row_B, CHUNK_WINDOWS)]
        return torch.cat(parts) if parts else torch.zeros((0, self.near.views), device=self._device)

    @torch.no_grad()
    def _explain(self, gather: Callable[[Tensor], Tensor], row_B: Tensor, positions: Sequence[int]) -> Explanations:
        row_K = row_B[torch.tensor(list(positions), dtype=torch.int64, device=self._device)]
        features = len(self._detector.spec.features)
        found: list[tuple[FloatArray, ...]] = [(np.zeros((0, features)),) * 3 + (np.zeros(0),)]
        for chunk_B, count in _chunks(row_K, _EXPLAINED_WINDOWS):
            explained = self._detector.explain(gather(chunk_B))
            found.append(tuple(_on_host(getattr(explained, part.name)[:count]) for part in fields(explained)))
        expected_KF, band_KF, share_KF, back_K = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return Explanations(expected_KF, band_KF, share_KF, back_K.astype(np.int64))


def _chunks(row_B: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Yield (exactly `size` rows, how many of them count): the last one is repeated to fill a chunk up."""
    place_B = torch.arange(size, device=row_B.device)
    for start in range(0, len(row_B), size):
        count = min(size, len(row_B) - start)
        yield row_B[start + place_B.clamp(max=count - 1)], count


def _on_host(tensor: Tensor) -> FloatArray:
    return tensor.cpu().numpy().astype(np.float64)
