"""The recurrent autoencoder: a GRU reads the window, its last state is the code, dense layers write it back.

Reading step by step, it shares weights over time and needs far fewer of them than a dense layer over the whole
window (Malhotra et al., "LSTM-based Encoder-Decoder for Multi-sensor Anomaly Detection", 2016; the GRU is of
Cho et al., 2014). Use it for series of many features, or with long windows.

Two changes make it ten times as fast: a step of the recurrence is a patch of several points, and the decoder is
not recurrent. The cell is written out, since the library's own loses most of its time between small kernels.
Laying windows in columns brings nothing more here.

Legend: B batch, T steps, C channels, P patches, H hidden, L latent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers import DenseDecoder, dense


class Autoencoder(DenseDecoder):
    """GRU over patches as encoder, dense decoder."""

    @dataclass(frozen=True)
    class Config:
        hidden: int = 32
        """Width of the recurrent state. Half of it is twice as fast, but learns less from few windows."""
        latent: int = 16
        """Width of the code."""
        patch: int = 8
        """Points that one step of the recurrence reads; the window is filled up to a multiple of it."""

    def __init__(self, shape: tuple[int, ...], channels: int, config: Config) -> None:
        if len(shape) != 1:
            raise ValueError("recurrent takes series; for images take `convolutional`")
        super().__init__(shape, channels)
        self.patch = min(config.patch, shape[0])
        self.padding = -shape[0] % self.patch
        hidden = config.hidden
        self.input_gates = nn.Linear(self.patch * channels, 3 * hidden)
        self.state_gates = nn.Linear(hidden, 3 * hidden)
        self.to_code = nn.Linear(hidden, config.latent)
        self.decoder = dense(config.latent, hidden, self.width)

    def encode(self, x_BTC: Tensor) -> Tensor:
        # Fill at the old end, so that the newest point always closes a patch.
        padded = nn.functional.pad(x_BTC, (0, 0, self.padding, 0))
        patches_BPC = padded.reshape(len(x_BTC), -1, self.input_gates.in_features)
        read_BP3H = self.input_gates(patches_BPC)
        hidden = self.state_gates.in_features
        state_BH = read_BP3H.new_zeros(len(x_BTC), hidden)
        for read_B3H in read_BP3H.unbind(1):
            reset, update, proposal = read_B3H.split(hidden, dim=1)
            of_reset, of_update, of_proposal = self.state_gates(state_BH).split(hidden, dim=1)
            update = torch.sigmoid(update + of_update)
            proposal = torch.tanh(proposal + torch.sigmoid(reset + of_reset) * of_proposal)
            state_BH = torch.lerp(proposal, state_BH, update)
        codes: Tensor = self.to_code(state_BH)
        return codes
