"""New rows and windows of an autoencoder: around the codes of those that it has read, as far apart as those are.

A variational autoencoder is trained to have codes that are normal, and they never quite are: what is drawn from the
normal distribution decodes to rows that nobody has seen the like of. The codes of the training rows themselves, the
aggregated posterior, are the better density to draw from (Dai and Wipf, "Diagnosing and Enhancing VAE Models", ICLR
2019; Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR 2020). Here it is a normal distribution
around each training row, which is as wide in each direction as the nearest codes lie off in it: manifold Parzen
windows (Vincent and Bengio, NIPS 2002). What the decoder does not tell of a row, its residual, is drawn with the
code and of the same rows, so what belongs together stays together.

A sample is thus: a training row i, and with normal g_j for its K neighbours j in code

    decode(z_i + h / sqrt(K) * sum g_j (z_j - z_i)) + r_i + h / sqrt(K) * sum g_j (r_j - r_i)

The one width h is fitted: the samples lie as far from the nearest training row as training rows from one another,
at the median, and a little more. A smaller one would copy, a larger one blur.

Legend: N training windows, B samples, T steps of a window, F features, L latent, K neighbours.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.apart import IntArray, Span, itself, nearest
from models.dataset import Windows

Weights = npt.NDArray[np.float32]
NEIGHBOURS = 10
_LEAST_SPREAD = 0.05
"""Of a number of a code, for a distance: what has collapsed to one value is no direction."""
_CHUNK, _CHUNK_VALUES, _PILOTS = 1_024, 2**20, 2_048
_NARROWEST, _WIDEST, _HALVINGS = 0.25, 16.0, 10


class Network(Protocol):
    """What leads from windows of normal scores to codes, and back."""

    @property
    def window(self) -> int:
        """Rows of a window; 1 for records."""

    def encode(self, y_BTF: Tensor) -> Tensor:
        """Return codes z_BL."""

    def decode(self, z_BL: Tensor) -> Tensor:
        """Return the windows of normal scores that codes stand for, y_BTF."""


def overlapping(windows: Windows) -> Span:
    """Return for each window which of all share a row with it, itself among them."""
    if windows.window == 1:
        return itself(len(windows.start_N))
    first_N = np.searchsorted(windows.start_N, windows.start_N - windows.window, side="right")
    return first_N, np.searchsorted(windows.start_N, windows.start_N + windows.window, side="left")


class Sampler:
    """Draws windows of normal scores."""

    def __init__(self, network: Network, windows: Windows) -> None:
        """Read all windows; there are two at least that share no row.

        Raises:
            ValueError: there are not.
        """
        self.network, self.windows = network, windows
        every_N = np.arange(len(windows.start_N))
        if len(every_N) < 2:
            raise ValueError(f"there are {len(every_N)} rows or windows to draw around; 2 are needed at least")
        self.code_NL = torch.cat([self._encoded(self.taken(part_B)) for part_B in self._chunks(every_N)])
        self._unit_L = self.code_NL.std(dim=0).clamp(min=_LEAST_SPREAD)
        self._scaled_NL = self.code_NL / self._unit_L
        self.overlapping = overlapping(windows)
        self.near_NK = nearest(self._scaled_NL, self._scaled_NL, NEIGHBOURS, self.overlapping).numpy()
        # Where too few share no row, a window is its own neighbour: it adds nothing.
        first_N1, end_N1 = (each[:, None] for each in self.overlapping)
        alone_NK = (self.near_NK >= first_N1) & (self.near_NK < end_N1)
        self.near_NK = np.where(alone_NK, every_N[:, None], self.near_NK)
        if alone_NK.all():
            raise ValueError("no two windows of these rows lie apart; give more rows")
        self.width = 1.0

    def taken(self, chosen_B: IntArray) -> Tensor:
        """Return windows that were read, y_BTF."""
        return torch.from_numpy(self.windows.take(chosen_B))

    def fit_width(self, apart: Callable[[Tensor], float], usual: float, random_of: np.random.Generator) -> None:
        """Take the least width at which samples lie apart from training rows as these from one another.

        Args:
            apart: the median distance of samples y_BTF to the nearest training row.
            usual: what it should be at least.
            random_of: draws the samples that are tried, the same ones at every width.
        """
        seed = int(random_of.integers(2**63))
        count = min(2 * len(self.windows.start_N), _PILOTS)

        def enough(width: float) -> bool:
            random = np.random.default_rng(seed)
            self.width = width
            return apart(self.drawn(random.integers(0, len(self.windows.start_N), count), random)) >= usual

        narrow, wide = _NARROWEST, _WIDEST
        for _ in range(_HALVINGS):
            middle = float(np.sqrt(narrow * wide))
            narrow, wide = (narrow, middle) if enough(middle) else (middle, wide)
        self.width = wide

    def drawn(self, source_B: IntArray, random: np.random.Generator, strength: float = 1.0) -> Tensor:
        """Return a sample around each of these windows, y_BTF; as wide as usual, or so many times."""
        near_BK = self.near_NK[source_B]
        weight_BK = (strength * self.width * random.standard_normal(near_BK.shape)).astype(np.float32)
        own = [self._moved(*each) for each in self._parts(source_B, near_BK, weight_BK)]
        return torch.cat(own) if own else self.taken(source_B)

    def around(self, y_TF: Tensor, count: int, random: np.random.Generator, strength: float) -> Tensor:
        """Return so many variations of a window that need not be one of those that were read, y_BTF."""
        code_1L = self._encoded(y_TF[None])
        near_1K = nearest(code_1L / self._unit_L, self._scaled_NL, 2 * NEIGHBOURS).numpy()
        # A window that was read is the nearest to itself, and those that overlap it are it again.
        apart_K = [j for j in near_1K[0].tolist() if (self.taken(np.array([j]))[0] != y_TF).any()]
        near_BK = np.repeat(np.array([apart_K[:NEIGHBOURS]], np.int64), count, axis=0)
        weight_BK = (strength * self.width * random.standard_normal(near_BK.shape)).astype(np.float32)
        parts = []
        for begin in range(0, count, self._chunk):
            part = slice(begin, begin + self._chunk)
            y_BTF = y_TF.expand(len(near_BK[part]), *y_TF.shape)
            parts.append(self._moved(y_BTF, code_1L.expand(len(y_BTF), -1), near_BK[part], weight_BK[part]))
        return torch.cat(parts)

    @torch.no_grad()
    def _moved(self, y_BTF: Tensor, z_BL: Tensor, near_BK: IntArray, weight_BK: Weights) -> Tensor:
        neighbours = near_BK.shape[1]
        weight_BK1 = torch.from_numpy(weight_BK / np.float32(np.sqrt(max(neighbours, 1))))[:, :, None]
        moved_BL = z_BL + (weight_BK1 * (self.code_NL[torch.from_numpy(near_BK)] - z_BL[:, None])).sum(dim=1)
        residual_BTF = y_BTF - self.network.decode(z_BL)
        drawn_BTF = self.network.decode(moved_BL) + residual_BTF
        for j in range(neighbours):
            other_B = near_BK[:, j]
            other_BTF = self.taken(other_B) - self.network.decode(self.code_NL[torch.from_numpy(other_B)])
            drawn_BTF = drawn_BTF + weight_BK1[:, j, :, None] * (other_BTF - residual_BTF)
        return drawn_BTF

    @property
    def _chunk(self) -> int:
        return max(16, min(_CHUNK, _CHUNK_VALUES // (self.windows.window * self.windows.z_RF.shape[1])))

    def _chunks(self, every_B: IntArray) -> list[IntArray]:
        return [every_B[begin : begin + self._chunk] for begin in range(0, len(every_B), self._chunk)]

    def _parts(
        self, source_B: IntArray, near_BK: IntArray, weight_BK: Weights
    ) -> Iterator[tuple[Tensor, Tensor, IntArray, Weights]]:
        for begin in range(0, len(source_B), self._chunk):
            part = slice(begin, begin + self._chunk)
            chosen_B = source_B[part]
            yield self.taken(chosen_B), self.code_NL[torch.from_numpy(chosen_B)], near_BK[part], weight_BK[part]

    @torch.no_grad()
    def _encoded(self, y_BTF: Tensor) -> Tensor:
        return self.network.encode(y_BTF)
