"""The residual autoencoder: principal components, and what bends away from them.

Encoder and decoder are each a linear map and a small network beside it, added up. The linear maps begin as the
principal components, the best of all linear autoencoders (Baldi and Hornik, "Neural Networks and Principal
Component Analysis", 1989), and the networks begin at zero: training starts where PCA ends, and what it takes off is
what no linear map can (residual learning: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016).
Codes are whitened, each of spread 1 at the start, so that the decoder's network sees all of them alike. Use it to
reduce records to few numbers that bring most of them back.

Legend: N windows, B batch, T steps, C channels, W width of a flat window, L latent.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.architectures import Architecture
from models.layers import dense


class Autoencoder(Architecture):
    """A linear map and a network on either side of the code."""

    @dataclass(frozen=True)
    class Config:
        hidden: int = 128
        """Width of the layers of either network."""
        latent: int = 2
        """Width of the code; at most that of the input."""

    starts = True

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        super().__init__()
        self.shape = (*shape, channels)
        width = math.prod(self.shape)
        latent = min(config.latent, width)
        self.center_W = nn.Parameter(torch.zeros(width))
        self.into_WL = nn.Parameter(nn.init.orthogonal_(torch.empty(width, latent)))
        self.back_LW = nn.Parameter(self.into_WL.detach().T.clone())
        self.bent_into = _from_zero(dense(width, config.hidden, config.hidden, latent))
        self.bent_back = _from_zero(dense(latent, config.hidden, config.hidden, width))

    def encode(self, x_BTC: Tensor) -> Tensor:
        flat_BW = x_BTC.flatten(1) - self.center_W
        codes: Tensor = flat_BW @ self.into_WL + self.bent_into(flat_BW)
        return codes

    def decode(self, z_BL: Tensor) -> Tensor:
        flat_BW: Tensor = self.center_W + z_BL @ self.back_LW + self.bent_back(z_BL)
        return flat_BW.view(-1, *self.shape)

    @torch.no_grad()
    def start(self, x_NTC: Tensor) -> None:
        x_NW = x_NTC.flatten(1).double()
        center_W = x_NW.mean(0)
        off_NW = x_NW - center_W
        square_W, vectors_WW = torch.linalg.eigh(off_NW.T @ off_NW / len(off_NW))
        leading_WL = vectors_WW.flip(1)[:, : self.into_WL.shape[1]]
        spread_W = square_W.flip(0).clamp(min=0).sqrt()
        # A direction without spread, as where there are fewer windows than codes, stands for nothing.
        spread_L = torch.where(spread_W > _LEAST * spread_W[0], spread_W, 1.0)[: self.into_WL.shape[1]]
        self.center_W.copy_(center_W)
        self.into_WL.copy_(leading_WL / spread_L)
        self.back_LW.copy_(leading_WL.T * spread_L[:, None])


_LEAST = 1e-6


def _from_zero(network: nn.Sequential) -> nn.Sequential:
    """Have a network begin with what its last layer makes zero."""
    last = network[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return network
