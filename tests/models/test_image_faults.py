"""Anomalies put into images are of the kind and the size that is said, and nothing else changes."""

from typing import Any

import numpy as np
import pytest

from models.image_faults import inject_images
from models.injection import Anomaly, Fault, faults_of
from models.spec import ImageShape

SHAPE = ImageShape(16, 24, 3)
SPREAD_F = np.full(SHAPE.values, 40.0)


def images(count: int = 30) -> Any:
    return np.random.default_rng(0).integers(60, 200, (count, SHAPE.values), np.uint8)


def injected(fault: Fault, size: float, seed: int = 0, count: int = 10) -> tuple[Any, list[Any]]:
    free_N = np.arange(30) % 3 > 0
    return inject_images(images(), free_N, [Anomaly(fault, size, 1)] * count, SHAPE, SPREAD_F, seed)


@pytest.mark.parametrize("fault", faults_of("images", SHAPE.values))
def test_labelled_images_alone_are_changed(fault: Fault) -> None:
    changed_NF, found = injected(fault, 4.0)
    assert changed_NF.dtype == np.uint8
    assert [each.end - each.begin for each in found] == [1] * 10
    places = [each.begin for each in found]
    assert len(set(places)) == 10
    assert all(place % 3 for place in places)
    assert set(np.flatnonzero((changed_NF != images()).any(axis=1))) == set(places)
    assert np.array_equal(injected(fault, 4.0)[0], changed_NF)
    assert not np.array_equal(injected(fault, 4.0, seed=1)[0], changed_NF)


def test_a_cover_is_a_rectangle_of_its_size_and_of_one_colour() -> None:
    changed_NF, found = injected("cover", 8.0)
    off_NHW = (changed_NF != images()).reshape(-1, *SHAPE).any(axis=3)
    for each in found:
        rows, columns = off_NHW[each.begin].any(axis=1).sum(), off_NHW[each.begin].any(axis=0).sum()
        assert (rows, columns) == (8, 12)
        covered = changed_NF[each.begin].reshape(SHAPE)[off_NHW[each.begin]]
        assert np.unique(covered, axis=0).shape == (1, 3)


def test_noise_and_shades_are_as_large_as_said() -> None:
    for size in (1.0, 2.0):
        changed_NF, found = injected("noise", size)
        off_NF = changed_NF[[each.begin for each in found]].astype(float) - images()[[each.begin for each in found]]
        assert off_NF.std() == pytest.approx(80 * size / 8, rel=0.05)
        shaded_NF, found = injected("shade", size)
        off_NF = shaded_NF[[each.begin for each in found]].astype(float) - images()[[each.begin for each in found]]
        assert np.abs(off_NF).max() == 120 * size / 8
        np.testing.assert_allclose([each.moved for each in found], np.abs(off_NF).mean(axis=1) / 40)


def test_there_are_no_more_than_images_that_are_free() -> None:
    assert len(injected("noise", 8.0, count=50)[1]) == 20
