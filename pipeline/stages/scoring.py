"""Windows + detector -> scores, and what explains them.

The detector reads all series' windows of a poll together, in chunks of one fixed shape, padded: a matrix product of
another shape may round differently, and a score must not depend on how polls cut the stream. Where alerts wait for
later points, a point brings the judgement of the row that has waited for it. Few rows are ever explained, so what
explains them is reckoned when it is asked for.

Legend: M points, K judged rows, B windows of a chunk, T window length, F features, V views.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import BoolArray, FloatArray, IntArray
from models.by_series import BySeries
from models.crossing import captured, fetched, placed
from models.detector import Detector
from models.online_tail import OnlineTail, Pace
from models.spec import ImageShape
from pipeline.stages.rounds import Near, Round
from pipeline.stages.series import Points
from pipeline.stages.windows import Windows

CHUNK_WINDOWS: Mapping[str, int] = {"cpu": 512, "cuda": 4096}
"""Windows of one model call: large enough for full speed, small enough for a processor's cache. On a GPU a chunk is
one launch, however many there are."""
CHUNK_IMAGES: Mapping[str, int] = {"cpu": 32, "cuda": 256}
"""The same of images, at most: one is as much work as a thousand windows."""
_CHUNK_VALUES: Mapping[str, int] = {"cpu": 2**19, "cuda": 2**22}
"""Values of the images of a chunk: a convolution makes some hundred numbers of each, so 250 MiB of a chunk."""
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
        spec = detector.spec
        self._detector = detector
        self._device = device
        self._chunk_windows = (
            CHUNK_WINDOWS[device.type] if spec.image is None else images_at_once(spec.image, device)
        )
        self._read = captured(detector.errors, (self._chunk_windows, spec.window, len(spec.features)), device)
        self._judgement = detector.calibration.of(delay)
        reach = self._judgement.reach
        self.near = Near(reach.behind, reach.ahead, len(detector.views), reach)

    def keeps_as(self, other: "Scorer") -> bool:
        """Whether what is kept between polls for the other one means the same for this."""
        mine, theirs = (each._judgement.reach.fading_VR.cpu() for each in (self, other))
        return self.near == other.near and torch.equal(mine, theirs)

    @property
    def usual(self) -> BySeries:
        """Where tails of series that were there in training begin."""
        return self._judgement.quantiles_of_series

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
        z_M1F = placed(z_MF, self._device)[:, None]
        row_M = np.arange(len(z_M1F))
        surprise_M = self._judgement.of_points(self._errors(z_M1F.__getitem__, placed(row_M, self._device)))
        (score_M,) = fetched(tail.score(slot_M, surprise_M))
        return score_M.astype(np.float64), partial(self._explain, z_M1F.__getitem__, row_M)

    @torch.no_grad()
    def _round(self, points: Points, ready: Round, windows: Windows, tail: OnlineTail) -> Scores:
        """Read the windows of a round and judge what can be.

        Which rows those are is known on the host, so it asks the device for nothing before the scores are there.
        """
        read, judge = np.flatnonzero(ready.read_M), np.flatnonzero(ready.judge_M)
        row_K = ready.end_M[judge] - self.near.ahead
        time_ms_K = np.zeros(0, np.int64)
        if self.near.ahead:
            time_ms_K, own_K = windows.of_waiting(row_K)
            # A held row has no error of its own, and others do not speak for it alone.
            judge, row_K, time_ms_K = judge[own_K], row_K[own_K], time_ms_K[own_K]
        judged, index_K = points.take(ready.position_M[judge]), placed(row_K, self._device)
        surprise_K = self._surprise(points.slot_M[ready.position_M], ready.end_M, read, index_K, windows)
        score_K, accepted_K, *scaled = fetched(
            *tail.follow(judged.slot_M, surprise_K), *([windows.scaled(index_K)] if self.near.ahead else [])
        )
        for z_KF in scaled:
            judged = replace(judged, time_ms_M=time_ms_K, values_MF=windows.unscaled(row_K, z_KF))
        explain = partial(self._explain, windows.gather, row_K)
        return Scores(judged, score_K.astype(np.float64), accepted_K, explain)

    def _surprise(
        self, slot_M: IntArray, end_M: IntArray, read: IntArray, index_K: Tensor, windows: Windows
    ) -> Tensor:
        """Read the windows that end at some of these rows; return the surprise of rows that this lets be judged.

        Args:
            slot_M: of all points of the round, as `end_M`.
            read: which of them have a window to be read.
            index_K: the rows to judge, on the device.
        """
        near, judgement = self.near, self._judgement
        read_B = placed(end_M[read], self._device)
        error_BV = self._errors(windows.gather, read_B)
        if windows.fading is not None:
            own_B = placed(read, self._device)
            error_MV = torch.full((len(slot_M), near.views), -torch.inf, device=self._device)
            error_MV[own_B] = error_BV
            return judgement.of_points(windows.fading.follow(slot_M, error_MV)[own_B])
        if near.behind or near.ahead:
            windows.keep(read_B, error_BV)
            return judgement.surprise(windows.errors_near(index_K + near.ahead))
        return judgement.of_points(error_BV)

    def _errors(self, gather: Callable[[Tensor], Tensor], row_B: Tensor) -> Tensor:
        """Return every view's error of the windows that end at these rows, error_BV."""
        parts = [self._read(gather(rows_B))[:count] for rows_B, count in _chunks(row_B, self._chunk_windows)]
        return torch.cat(parts) if parts else torch.zeros((0, self.near.views), device=self._device)

    @torch.no_grad()
    def _explain(
        self, gather: Callable[[Tensor], Tensor], row_M: IntArray, positions: Sequence[int]
    ) -> Explanations:
        row_K = placed(row_M[np.asarray(positions, np.int64)], self._device)
        features = len(self._detector.spec.features)
        found: list[tuple[npt.NDArray[Any], ...]] = [(np.zeros((0, features)),) * 3 + (np.zeros(0, np.int64),)]
        for chunk_B, count in _chunks(row_K, min(_EXPLAINED_WINDOWS, self._chunk_windows)):
            explained = self._detector.explain(gather(chunk_B))
            found.append(fetched(*(getattr(explained, part.name)[:count] for part in fields(explained))))
        return Explanations(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def images_at_once(image: ImageShape, device: torch.device) -> int:
    """Return how many images a chunk has: of one size always as many, so that scores do not depend on polls."""
    return max(1, min(CHUNK_IMAGES[device.type], _CHUNK_VALUES[device.type] // image.values))


def _chunks(row_B: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Yield (exactly `size` rows, how many of them count): the last one is repeated to fill a chunk up."""
    place_B = torch.arange(size, device=row_B.device)
    for start in range(0, len(row_B), size):
        count = min(size, len(row_B) - start)
        yield row_B[start + place_B.clamp(max=count - 1)], count
