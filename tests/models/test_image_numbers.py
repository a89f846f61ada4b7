"""What tells an image from others in few numbers: blur, noise, brightness and place."""

import numpy as np

from models.image_numbers import ImageNumbers
from models.marginals import OfPixels
from models.spec import ImageShape
from tests.images import SHAPE, coloured, digits


def test_each_measure_tells_what_it_is_for() -> None:
    shape, random = ImageShape(16, 16, 1), np.random.default_rng(0)
    plain_NF = np.full((2, 256), 100, np.uint8)
    noisy_NF = random.integers(50, 150, (2, 256)).astype(np.uint8)
    corner_NF = plain_NF.copy().reshape(2, 16, 16)
    corner_NF[:, :4, :4] = 200
    numbers = ImageNumbers(shape, np.concatenate([plain_NF, noisy_NF]))
    of = dict(zip(numbers.names, numbers.of(corner_NF.reshape(2, 256))[0], strict=True))
    assert of["mean of rows 0-3, columns 0-3"] == 200
    assert of["mean of rows 4-7, columns 0-3"] == 100
    assert of["spread of rows 0-3, columns 0-3"] == 0
    assert of["step of rows 12-15, columns 12-15"] == 0 < of["step of rows 0-3, columns 0-3"]
    noisy = dict(zip(numbers.names, numbers.of(noisy_NF)[0], strict=True))
    assert noisy["step of rows 0-3, columns 0-3"] > 20 < noisy["spread of rows 0-3, columns 0-3"]


def test_directions_are_principal_components() -> None:
    x_NF = digits()[0][:300].astype(np.float64)
    numbers = ImageNumbers(SHAPE, x_NF)
    assert len(numbers.names) == 3 * 16 + 32
    of_NP = numbers.of(x_NF)[:, 48:]
    centred_NF = x_NF - x_NF.mean(axis=0)
    spread = np.linalg.svd(centred_NF, compute_uv=False)[:32]
    np.testing.assert_allclose(np.sqrt(np.square(of_NP).sum(axis=0)), spread, rtol=1e-6)


def test_small_and_constant_images_have_numbers_too() -> None:
    for shape in (ImageShape(1, 1, 1), ImageShape(3, 2, 3)):
        x_NF = np.full((5, shape.values), 7, np.uint8)
        numbers = ImageNumbers(shape, x_NF)
        assert numbers.of(x_NF).shape == (5, len(numbers.names))
        assert np.isfinite(numbers.of(x_NF)).all()


def test_pixels_of_a_channel_have_one_spread() -> None:
    x_NF = coloured()[:200].astype(np.float64)
    of_all = OfPixels.of(x_NF, 3)
    score_NF = of_all.scores(x_NF)
    # The same byte has the same score wherever it stands in a channel, and leads back to itself.
    for channel in range(3):
        own, score = x_NF.reshape(-1, 3)[:, channel], score_NF.reshape(-1, 3)[:, channel]
        assert len(np.unique(np.stack([own, score]), axis=1).T) == len(np.unique(own))
    assert np.array_equal(of_all.values(score_NF), x_NF)
