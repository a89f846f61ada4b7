"""Windows + detector -> scores, expected values and each feature's share.

The detector runs once for all series of a poll, in chunks of one fixed shape, padded: a matrix product of
another shape may round differently, and a score must not depend on how polls cut the stream.

Legend: M points, K scored points, B windows of a chunk, T window length, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.calibration import OnlineTail
from models.detector import Detector, PointScores
from pipeline.stages.decode import FloatArray, IntArray
from pipeline.stages.series import Points
from pipeline.stages.windows import Windows

CHUNK_WINDOWS = 512
"""Windows of one model call: large enough for full speed, small enough for the cache."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of admitted points; what explains them stays on the device until it is asked for."""

    score_M: FloatArray
    """-10 log10 of a tail probability; NaN where a point was not scored."""
    _place_M: IntArray
    _expected_KF: Tensor
    _share_KF: Tensor

    def explain(self, positions: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return (expected values in scaled units, shares) of these points, each [len(positions), F]."""
        rows = torch.from_numpy(self._place_M[list(positions)]).to(self._expected_KF.device)
        expected_KF, share_KF = self._expected_KF[rows], self._share_KF[rows]
        return expected_KF.cpu().numpy().astype(np.float64), share_KF.cpu().numpy()


class Scorer:
    """Runs a detector over windows or vectors."""

    def __init__(self, detector: Detector, device: torch.device) -> None:
        self._detector = detector
        self._device = device

    @torch.no_grad()
    def score_windows(self, points: Points, windows: Windows, tail: OnlineTail) -> Scores:
        """Append the points to their windows and score each that completes one."""
        positions: list[IntArray] = []
        parts: list[PointScores] = []
        for ready in windows.rounds(points):
            positions.append(ready.position_M)
            for end_B in torch.split(ready.end_M, CHUNK_WINDOWS):
                parts.append(self._chunk(windows.gather(_padded(end_B, windows.window - 1)), len(end_B)))
        position_K = np.concatenate(positions) if positions else np.zeros(0, np.int64)
        surprise_K, expected_KF, share_KF = self._joined(parts)
        order_K = np.argsort(position_K)
        slot_K = torch.from_numpy(points.slot_M[position_K[order_K]]).to(self._device)
        score_K = tail.score(slot_K, surprise_K[torch.from_numpy(order_K).to(self._device)])
        score_M = np.full(len(points), np.nan)
        score_M[position_K[order_K]] = score_K.cpu().numpy()
        place_M = np.full(len(points), -1, np.int64)
        place_M[position_K] = np.arange(len(position_K))
        return Scores(score_M, place_M, expected_KF, share_KF)

    @torch.no_grad()
    def score_vectors(self, slot_M: IntArray, z_MF: npt.NDArray[np.float32], tail: OnlineTail) -> Scores:
        """Score records whose error depends on nothing else; sorted by slot, one for each partition."""
        parts: list[PointScores] = []
        for z_BF in torch.split(torch.from_numpy(z_MF).to(self._device), CHUNK_WINDOWS):
            whole_BF = torch.nn.functional.pad(z_BF, (0, 0, 0, CHUNK_WINDOWS - len(z_BF)))
            parts.append(self._chunk(whole_BF[:, None, :], len(z_BF)))
        surprise_K, expected_KF, share_KF = self._joined(parts)
        score_K = tail.score(torch.from_numpy(slot_M).to(self._device), surprise_K)
        score_M = score_K.cpu().numpy().astype(np.float64)
        return Scores(score_M, np.arange(len(score_M)), expected_KF, share_KF)

    def _chunk(self, z_BTF: Tensor, count: int) -> PointScores:
        scores = self._detector.score(z_BTF)
        return PointScores(scores.surprise_B[:count], scores.expected_BF[:count], scores.share_BF[:count])

    def _joined(self, parts: list[PointScores]) -> tuple[Tensor, Tensor, Tensor]:
        if not parts:
            none_KF = torch.zeros((0, len(self._detector.spec.features)), device=self._device)
            return torch.zeros(0, device=self._device), none_KF, none_KF
        return (
            torch.cat([part.surprise_B for part in parts]),
            torch.cat([part.expected_BF for part in parts]),
            torch.cat([part.share_BF for part in parts]),
        )


def _padded(end_B: Tensor, filler: int) -> Tensor:
    return torch.nn.functional.pad(end_B, (0, CHUNK_WINDOWS - len(end_B)), value=filler)
