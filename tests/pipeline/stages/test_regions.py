"""What explains an image is told of its regions: nothing is lost but where in a region it lies."""

from typing import Any

import msgspec
import numpy as np
import pytest

from models.spec import ImageShape
from pipeline.stages.regions import BANDS, PIXELS, Regions


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 3), (4, 4, 1), (5, 9, 4), (7, 100, 1)])
def test_regions_cover_each_pixel_once(shape: tuple[int, int, int]) -> None:
    regions, values = Regions(ImageShape(*shape)), int(np.prod(shape))
    x_KF = np.random.default_rng(0).random((3, values))
    assert len(regions.names) == len(set(regions.names)) <= BANDS**2
    np.testing.assert_allclose(regions.sums(x_KF).sum(axis=1), x_KF.sum(axis=1))
    np.testing.assert_allclose(regions.means(np.full((2, values), 7.0)), 7.0)


def test_a_region_is_where_its_name_says() -> None:
    regions, image = Regions(ImageShape(8, 12, 3)), np.zeros((8, 12, 3), np.uint8)
    image[2:4, 9:12] = 255
    x_1F: Any = image.reshape(1, -1)
    means_R = regions.means(x_1F)[0]
    assert dict(zip(regions.names, means_R.tolist(), strict=True))["rows 2-3, columns 9-11"] == 255
    assert means_R.sum() == 255


def test_the_strangest_values_are_named_by_their_place() -> None:
    shape = ImageShape(6, 5, 3)
    share_F = np.zeros(shape.values)
    share_F[shape.names.index("row4.column2.green")] = 0.75
    share_F[shape.names.index("row0.column4.red")] = 0.25
    found = Regions(shape).strangest(np.full(90, 200.0), np.full(90, 100.0), share_F)
    assert len(found) == PIXELS
    assert [msgspec.structs.astuple(each) for each in found[:2]] == [
        (4, 2, 1, 200.0, 100.0, 0.75),
        (0, 4, 0, 200.0, 100.0, 0.25),
    ]
