"""Blocks that two or more architectures use.

Legend: B batch, T steps, C channels, L latent.
"""

from torch import Tensor, nn


def last_step(decoder: nn.Sequential, codes_BL: Tensor, channels: int) -> Tensor:
    """Decode the last step only, of a decoder that ends in one dense layer over all steps: x_BC."""
    final = decoder[-1]
    assert isinstance(final, nn.Linear)
    return nn.functional.linear(decoder[:-1](codes_BL), final.weight[-channels:], final.bias[-channels:])
