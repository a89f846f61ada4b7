"""The architectures take images as they take windows: two axes and their channels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models import architectures
from models.architectures import Architecture
from models.detector import windows_of_rows
from models.plan import plan_of
from models.spec import ImageShape
from models.training import _read_at_once
from models.views import View

SHAPE, CHANNELS = (12, 10), 2
NAMES = ("convolutional", "denoising", "sparse", "vanilla", "variational")


@pytest.fixture(params=NAMES)
def network(request: pytest.FixtureRequest) -> Architecture:
    torch.manual_seed(0)
    options = architectures.configure(request.param, {"hidden": 64, "latent": 16})
    return architectures.build(request.param, SHAPE, CHANNELS, options)


def trained(network: Architecture, x_BHWC: Tensor, steps: int) -> Architecture:
    """Learn images by the architecture's own loss, past its warm-up."""
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        network.loss(x_BHWC[torch.randint(len(x_BHWC), (64,))], done=1.0).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def blobs(count: int, width: float, seed: int) -> Tensor:
    """Return bright spots of this width, anywhere in the middle of noisy images."""
    random = np.random.default_rng(seed)
    row_HW, column_HW = np.indices(SHAPE)
    where_B2 = random.uniform([3, 3], [SHAPE[0] - 4, SHAPE[1] - 4], (count, 2))
    far_BHW = (row_HW - where_B2[:, 0, None, None]) ** 2 + (column_HW - where_B2[:, 1, None, None]) ** 2
    x_BHWC = np.stack([np.exp(-far_BHW / (2 * width**2)), 1 - np.exp(-far_BHW / (2 * width**2))], axis=3)
    return torch.from_numpy((x_BHWC + 0.02 * random.standard_normal(x_BHWC.shape)).astype(np.float32))


def error(network: Architecture, x_BHWC: Tensor) -> Tensor:
    with torch.no_grad():
        return architectures.squared_error(network(x_BHWC), x_BHWC)


def test_shapes_are_kept(network: Architecture) -> None:
    x_BHWC = torch.randn(4, *SHAPE, CHANNELS)
    codes_BL = network.encode(x_BHWC)
    assert codes_BL.shape == (4, 16)
    torch.testing.assert_close(network.decode(codes_BL), network(x_BHWC))
    assert network(x_BHWC).shape == x_BHWC.shape
    assert network.loss(x_BHWC, 1.0).shape == (4,)


def test_eight_images_can_be_learned_by_heart(network: Architecture) -> None:
    x_BHWC = torch.randn(8, *SHAPE, CHANNELS)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(500):
        loss = (network(x_BHWC) - x_BHWC).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e4])
def test_gradients_stay_finite(network: Architecture, scale: float) -> None:
    network.loss(torch.randn(8, *SHAPE, CHANNELS) * scale, done=1.0).mean().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_an_image_is_judged_without_regard_to_others(network: Architecture) -> None:
    x_BHWC = torch.randn(64, *SHAPE, CHANNELS)
    order_B = torch.randperm(64)
    strangers_BHWC = x_BHWC.clone()
    strangers_BHWC[:20] *= 1e4
    error_B = error(network.eval(), x_BHWC)
    assert torch.equal(error(network, x_BHWC[order_B]), error_B[order_B])
    assert torch.equal(error(network, strangers_BHWC)[20:], error_B[20:])


def test_strange_images_stand_out(network: Architecture) -> None:
    """Spots of a width that was never seen are rebuilt worse than nearly all usual ones."""
    trained(network, blobs(600, 1.2, seed=1), 200)
    usual_B, strange_B = error(network, blobs(200, 1.2, seed=2)), error(network, blobs(200, 2.5, seed=3))
    assert float((strange_B > usual_B.quantile(0.95)).double().mean()) > 0.9


def test_convolutions_learn_from_few_images_where_a_spot_may_stand() -> None:
    """They share what they learn over places, which dense layers cannot."""
    errors = {}
    for name in ("convolutional", "vanilla"):
        torch.manual_seed(0)
        network = architectures.build(name, SHAPE, CHANNELS, architectures.configure(name, {"latent": 16}))
        trained(network, blobs(40, 1.2, seed=1), 200)
        errors[name] = float(error(network, blobs(200, 1.2, seed=2)).mean())
    assert errors["convolutional"] < 0.7 * errors["vanilla"]


def test_large_images_are_read_few_at_a_time() -> None:
    image = ImageShape(512, 512, 1)
    view = View(image.values, plan_of("images", image.values, "default", {}).views[0], image)
    assert max(map(len, _read_at_once(view, np.arange(64)))) == 4
    assert {len(part) for part in windows_of_rows(torch.zeros(4, image.values), 1)} == {2}
