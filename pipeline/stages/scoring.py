"""Windows + detector -> scores, and what explains them.

The detector reads all series' windows of a poll together, in chunks of one fixed shape, padded: a matrix product of
another shape may round differently, and a score must not depend on how polls cut the stream. Where alerts wait for
later points, a point brings the judgement of the row that has waited for it.

Legend: M points, K judged rows, B windows of a chunk, T window length, F features, V views, E numbers that explain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.calibration import OnlineTail, Pace
from models.detector import Detector, Readings
from pipeline.stages.decode import FloatArray, IntArray
from pipeline.stages.series import BoolArray, Points
from pipeline.stages.windows import Near, Round, Windows

CHUNK_WINDOWS = 512
"""Windows of one model call: large enough for full speed, small enough for the cache."""


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
    """Scores of admitted points; what explains them stays on the device until it is asked for."""

    score_M: FloatArray
    """-10 log10 of a tail probability, of the row that the point let be judged; NaN where there is none."""
    accepted_M: BoolArray
    """Whether with this point the level that its series has had became the usual one."""
    judged: Points
    """The admitted points, with time and values of the judged rows."""
    _place_M: IntArray
    _explained_KE: Tensor
    _band_VF: Tensor

    def explain(self, positions: Sequence[int]) -> Explanations:
        """Return what explains the scores of these points."""
        rows = torch.from_numpy(self._place_M[list(positions)]).to(self._explained_KE.device)
        return _explanations(self._explained_KE[rows], self._band_VF)


@dataclass(frozen=True, slots=True)
class VectorScores:
    """Scores of records that are judged by themselves."""

    score_M: FloatArray
    _explained_ME: Tensor
    _band_VF: Tensor

    def explain(self, positions: Sequence[int]) -> Explanations:
        """Return what explains the scores of these records."""
        rows = torch.tensor(list(positions), dtype=torch.int64, device=self._explained_ME.device)
        return _explanations(self._explained_ME[rows], self._band_VF)


def _explanations(explained_KE: Tensor, band_VF: Tensor) -> Explanations:
    features = band_VF.shape[1]
    band_KF = band_VF[explained_KE[:, -1].long()].cpu().numpy().astype(np.float64)
    numbers_KE = explained_KE.cpu().numpy().astype(np.float64)
    expected_KF, share_KF = numbers_KE[:, :features], numbers_KE[:, features : 2 * features]
    return Explanations(expected_KF, band_KF, share_KF, numbers_KE[:, -2].astype(np.int64))


@dataclass(frozen=True, slots=True)
class _Part:
    """What a round of windows came to."""

    position_K: IntArray
    surprise_K: Tensor
    explained_KE: Tensor
    judged: tuple[IntArray, FloatArray] | None = None
    """Time and values of the rows; None where they are those of the points."""


_NONE = np.zeros(0, np.int64)


class Scorer:
    """Runs a detector over windows or vectors, for rows that may wait for `delay` later ones."""

    def __init__(self, detector: Detector, device: torch.device, delay: int = 0) -> None:
        self._detector = detector
        self._device = device
        self._judgement = detector.calibration.of(delay)
        self._band_VF = detector.band_VF.detach()
        reach = self._judgement.reach
        explaining = 2 * len(detector.spec.features) + 2
        self.near = Near(reach.behind, reach.ahead, len(detector.views), explaining)
        self._nothing = torch.zeros((0, explaining), device=device)

    def online_tail(self, pace: Pace, *, accepting: bool = False) -> OnlineTail:
        """Return the recalibration of the surprise that this scorer finds."""
        return self._judgement.online_tail(self._device, pace, accepting=accepting)

    @torch.no_grad()
    def score_windows(self, points: Points, windows: Windows, tail: OnlineTail) -> Scores:
        """Append the points to their windows, and judge the row that has waited for each."""
        parts = [self._round(ready, windows) for ready in windows.rounds(points)]
        position_K = np.concatenate([part.position_K for part in parts], dtype=np.int64) if parts else _NONE
        surprise_K = (
            torch.cat([part.surprise_K for part in parts]) if parts else torch.zeros(0, device=self._device)
        )
        order_K = np.argsort(position_K)
        slot_K = torch.from_numpy(points.slot_M[position_K[order_K]]).to(self._device)
        score_K, accepted_K = tail.follow(slot_K, surprise_K[torch.from_numpy(order_K).to(self._device)])
        score_M, accepted_M = np.full(len(points), np.nan), np.zeros(len(points), np.bool_)
        score_M[position_K[order_K]] = score_K.cpu().numpy()
        accepted_M[position_K[order_K]] = accepted_K.cpu().numpy()
        place_M = np.full(len(points), -1, np.int64)
        place_M[position_K] = np.arange(len(position_K))
        explained_KE = torch.cat([part.explained_KE for part in parts]) if parts else self._nothing
        return Scores(score_M, accepted_M, _judged(points, position_K, parts), place_M, explained_KE, self._band_VF)

    @torch.no_grad()
    def score_vectors(self, slot_M: IntArray, z_MF: npt.NDArray[np.float32], tail: OnlineTail) -> VectorScores:
        """Score records whose error depends on nothing else; sorted by slot, one for each partition."""
        z_M1F = torch.from_numpy(z_MF).to(self._device)[:, None]
        readings = _joined([self._chunk(z_B1F) for z_B1F in torch.split(z_M1F, CHUNK_WINDOWS)])
        surprise_K = self._judgement.of_points(readings.error_BV)
        score_K = tail.score(torch.from_numpy(slot_M).to(self._device), surprise_K)
        score_M = score_K.cpu().numpy().astype(np.float64)
        return VectorScores(score_M, _explained(readings), self._band_VF)

    def _round(self, ready: Round, windows: Windows) -> _Part:
        """Read the windows of a round and judge what can be."""
        end_K = torch.from_numpy(ready.end_M[ready.read_M]).to(self._device)
        readings = self._read(windows, end_K)
        explained_KE = _explained(readings)
        if not self.near.behind + self.near.ahead:
            surprise_K = self._judgement.of_points(readings.error_BV)
            return _Part(ready.position_M[ready.read_M], surprise_K, explained_KE)
        windows.keep(end_K, readings.error_BV, explained_KE)
        if not self.near.ahead:
            surprise_K = self._judgement.surprise(windows.errors_near(end_K))
            return _Part(ready.position_M[ready.read_M], surprise_K, explained_KE)
        end_K = torch.from_numpy(ready.end_M[ready.judge_M]).to(self._device)
        error_KRV = windows.errors_near(end_K)
        # A held row has no error of its own, and others do not speak for it alone.
        own_K = ~torch.isneginf(error_KRV[:, self.near.behind, 0])
        end_K = end_K[own_K]
        position_K = ready.position_M[ready.judge_M][own_K.cpu().numpy()]
        surprise_K = self._judgement.surprise(error_KRV[own_K])
        return _Part(position_K, surprise_K, windows.explained(end_K), windows.judged(end_K))

    def _read(self, windows: Windows, end_K: Tensor) -> Readings:
        filler, parts = windows.window - 1, []
        for end_B in torch.split(end_K, CHUNK_WINDOWS):
            padded_B = torch.nn.functional.pad(end_B, (0, CHUNK_WINDOWS - len(end_B)), value=filler)
            parts.append(self._detector.read(windows.gather(padded_B))[: len(end_B)])
        return _joined(parts)

    def _chunk(self, z_BTF: Tensor) -> Readings:
        whole_BTF = torch.nn.functional.pad(z_BTF, (0, 0, 0, 0, 0, CHUNK_WINDOWS - len(z_BTF)))
        return self._detector.read(whole_BTF)[: len(z_BTF)]


def _joined(parts: Sequence[Readings]) -> Readings:
    # `torch.split` gives at least one part, if an empty one.
    return Readings(*(torch.cat(columns) for columns in zip(*(part.columns for part in parts), strict=True)))


def _explained(readings: Readings) -> Tensor:
    """Put what explains each row side by side: expected values, shares, rows back, view."""
    numbers = torch.stack([readings.back_B, readings.view_B], dim=1)
    return torch.cat([readings.expected_BF, readings.share_BF, numbers.float()], dim=1)


def _judged(points: Points, position_K: IntArray, parts: Sequence[_Part]) -> Points:
    """Put time and values of the judged rows in place of those of the points that let them be judged."""
    judged = [part.judged for part in parts if part.judged is not None]
    if not judged:
        return points
    time_ms_M, values_MF = points.time_ms_M.copy(), points.values_MF.copy()
    time_ms_M[position_K] = np.concatenate([time_ms_K for time_ms_K, _ in judged])
    values_MF[position_K] = np.concatenate([values_KF for _, values_KF in judged])
    return replace(points, time_ms_M=time_ms_M, values_MF=values_MF)
