"""New rows and windows of an autoencoder: around the codes of those that it has read, as far apart as those are.

A variational autoencoder is trained to have codes that are normal, and they never quite are: what is drawn from the
normal distribution decodes to rows that nobody has seen the like of. The codes of the training rows themselves, the
aggregated posterior, are the better density to draw from (Dai and Wipf, "Diagnosing and Enhancing VAE Models", ICLR
2019; Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR 2020). Here it is a normal distribution
around each training row, which is as wide in each direction as the nearest codes lie off in it: manifold Parzen
windows (Vincent and Bengio, NIPS 2002). What the decoder does not tell of a row, its residual, is drawn with the
code and of the same rows, so what belongs together stays together.

A sample is thus: a training row i, and with normal g_j for its K neighbours j in code

    decode(z) + r,   (z, r) = m + cos (z_i - m_z, r_i - m_r) + sin / sqrt(K) * sum g_j (z_j - m_z, r_j - m_r)

around the mean m of the row and its neighbours. So what is drawn varies as much as the original does, whatever the
width, the sine: at 0 it is the row itself, at 1 a draw from the normal distribution of its neighbourhood, and only
beyond is it blurred. It is fitted: the samples lie as far from the nearest training row as training rows from one
another, at the median, and a little more.

Legend: N training windows, B samples, T steps of a window, F features, L latent, K neighbours.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.apart import Span, itself, nearest
from models.arrays import FloatArray, IntArray
from models.dataset import Windows

NEIGHBOURS = 10
_LEAST_SPREAD = 0.05
"""Of a number of a code, for a distance: what has collapsed to one value is no direction."""
_CHUNK, _CHUNK_VALUES = 1_024, 2**20
_PILOTS, _LEAST_PILOTS, _PILOT_VALUES = 2_048, 64, 2**21
"""Samples that are drawn at each width that is tried: of rows of a thousand values and more fewer."""
_NARROWEST, _HALVINGS = 0.25, 10


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
        self.scaled_NL = self.code_NL / self._unit_L
        self.overlapping = overlapping(windows)
        self.near_NK = nearest(self.scaled_NL, self.scaled_NL, NEIGHBOURS, self.overlapping).numpy()
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

    def fit_width(
        self, apart: Callable[[Tensor], float], usual: float, widest: float, random_of: np.random.Generator
    ) -> None:
        """Take the least width at which samples lie apart from training rows as these from one another.

        Args:
            apart: the median distance of samples y_BTF to the nearest training row.
            usual: what it should be at least.
            widest: what is taken where no width is enough.
            random_of: draws the samples that are tried, the same ones at every width.
        """
        seed = int(random_of.integers(2**63))
        values = self.windows.window * self.windows.z_RF.shape[1]
        count = min(2 * len(self.windows.start_N), _PILOTS, max(_LEAST_PILOTS, _PILOT_VALUES // values))

        def enough(width: float) -> bool:
            random = np.random.default_rng(seed)
            self.width = width
            return apart(self.drawn(random.integers(0, len(self.windows.start_N), count), random)) >= usual

        narrow, wide = _NARROWEST, widest
        for _ in range(_HALVINGS):
            middle = float(np.sqrt(narrow * wide))
            narrow, wide = (narrow, middle) if enough(middle) else (middle, wide)
        self.width = wide

    def drawn(self, source_B: IntArray, random: np.random.Generator) -> Tensor:
        """Return a sample around each of these windows, y_BTF."""
        near_BK = self.near_NK[source_B]
        return self.mixed(source_B, near_BK, random.standard_normal(near_BK.shape))

    def mixed(self, source_B: IntArray, near_BK: IntArray, normal_BK: FloatArray) -> Tensor:
        """Return a sample around each of these windows, by these neighbours in these normal parts, y_BTF."""
        share_BJ = _shares(normal_BK, self.width)
        parts = [self.taken(source_B[:0])]
        for begin in range(0, len(source_B), self._chunk):
            part = slice(begin, begin + self._chunk)
            own_B = source_B[part]
            parts.append(self._joined(self.taken(own_B), self._code_of(own_B), near_BK[part], share_BJ[part]))
        return torch.cat(parts)

    def around(self, y_TF: Tensor, count: int, random: np.random.Generator, strength: float) -> Tensor:
        """Return so many variations of a window that need not be one of those that were read, y_BTF.

        Args:
            strength: 1 is as wide as samples are drawn, 0 is the window itself.
        """
        code_1L = self._encoded(y_TF[None])
        near_K = nearest(code_1L / self._unit_L, self.scaled_NL, NEIGHBOURS).numpy()[0]
        if torch.equal(self.taken(near_K[:1])[0], y_TF):
            near_K = self.near_NK[near_K[0]]
        share_BJ = _shares(random.standard_normal((count, len(near_K))), strength * self.width)
        parts = []
        for begin in range(0, count, self._chunk):
            share_CJ = share_BJ[begin : begin + self._chunk]
            rows = len(share_CJ)
            near_CK = np.broadcast_to(near_K, (rows, len(near_K)))
            parts.append(self._joined(y_TF.expand(rows, -1, -1), code_1L.expand(rows, -1), near_CK, share_CJ))
        return torch.cat(parts)

    @torch.no_grad()
    def _joined(self, y_BTF: Tensor, z_BL: Tensor, near_BK: IntArray, share_BJ: Tensor) -> Tensor:
        """Return what these shares of windows and of their neighbours decode to, with as much of the residuals."""
        joined_BL = share_BJ[:, :1] * z_BL
        residual_BTF = share_BJ[:, 0, None, None] * (y_BTF - self.network.decode(z_BL))
        for j in range(near_BK.shape[1]):
            other_B = np.ascontiguousarray(near_BK[:, j])
            other_BL, share_B = self._code_of(other_B), share_BJ[:, j + 1, None]
            joined_BL = joined_BL + share_B * other_BL
            residual_BTF += share_B[:, :, None] * (self.taken(other_B) - self.network.decode(other_BL))
        return self.network.decode(joined_BL) + residual_BTF

    def _code_of(self, chosen_B: IntArray) -> Tensor:
        return self.code_NL[torch.from_numpy(chosen_B)]

    @property
    def _chunk(self) -> int:
        values: int = self.windows.window * self.windows.z_RF.shape[1]
        return max(16, min(_CHUNK, _CHUNK_VALUES // values))

    def _chunks(self, every_B: IntArray) -> list[IntArray]:
        return [every_B[begin : begin + self._chunk] for begin in range(0, len(every_B), self._chunk)]

    @torch.no_grad()
    def _encoded(self, y_BTF: Tensor) -> Tensor:
        return self.network.encode(y_BTF)


def _shares(normal_BK: FloatArray, width: float) -> Tensor:
    """Return how much of itself, and of each neighbour, is in a sample: share_BJ, which sum to 1.

    With m the mean of all of them, the row keeps cos of what it lies off m, and normal parts of what each neighbour
    lies off m make sin of it.
    """
    rows, neighbours = normal_BK.shape
    cos = np.sqrt(max(1.0 - width**2, 0.0))
    part_BK = width / np.sqrt(neighbours) * normal_BK
    mean_B1 = (1.0 - cos - part_BK.sum(axis=1, keepdims=True)) / (neighbours + 1)
    own_B1 = np.full((rows, 1), cos)
    return torch.from_numpy((np.concatenate([own_B1, part_BK], axis=1) + mean_B1).astype(np.float32))
