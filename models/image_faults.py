"""Anomalies put into real images, with labels: what a detector of images should find, at a size that is stated.

Three faults of what stands before a camera, and of the camera. A *cover*: a rectangle of one colour, as of
something that lies before the lens or a block that was lost on its way (random erasing: Zhong et al., AAAI 2020).
*Noise* on every value. A *shade*: all values brighter or darker. Of size 8 a cover is half as high and wide as the
image, noise has twice the spread of usual values, and a shade lies three times that off; smaller ones are
proportional.

Legend: N images, F values of each, H height, W width, C channels.
"""

from collections.abc import Sequence

import numpy as np

from models.arrays import BoolArray, FloatArray
from models.injection import Anomaly, Injected
from models.spec import ImageShape

_LARGE = 8.0
_COVER, _NOISE, _SHADE = 0.5, 2.0, 3.0
"""What a fault of that size is."""


def inject_images(
    x_NF: FloatArray,
    free_N: BoolArray,
    anomalies: Sequence[Anomaly],
    shape: ImageShape,
    spread_F: FloatArray,
    seed: int,
) -> tuple[FloatArray, list[Injected]]:
    """Return images of which some have an anomaly, each at most one, and which.

    Args:
        x_NF: whole numbers from 0 to 255, of one byte each as a rule; so are those that are returned.
        free_N: images that may be touched.
        spread_F: usual width of values.
        seed: of all that is drawn.
    """
    random = np.random.default_rng(seed)
    changed_NF, found = x_NF.copy(), list[Injected]()
    chosen = np.sort(random.permutation(np.flatnonzero(free_N))[: len(anomalies)]).tolist()
    for place, anomaly in zip(chosen, anomalies, strict=False):
        faulty_F = _faulty(x_NF[place].astype(np.float64), anomaly, shape, spread_F, random)
        changed_NF[place] = np.rint(np.clip(faulty_F, 0, 255))
        moved = np.abs(changed_NF[place] - x_NF[place].astype(np.float64)) / spread_F
        found.append(Injected(anomaly, place, place + 1, (), float(moved.mean())))
    return changed_NF, found


def _faulty(
    x_F: FloatArray,
    anomaly: Anomaly,
    shape: ImageShape,
    spread_F: FloatArray,
    random: np.random.Generator,
) -> FloatArray:
    share = anomaly.size / _LARGE
    if anomaly.fault == "noise":
        return np.asarray(x_F + _NOISE * share * spread_F * random.standard_normal(len(x_F)))
    if anomaly.fault == "shade":
        return np.asarray(x_F + _SHADE * share * random.choice([-1.0, 1.0]) * spread_F)
    assert anomaly.fault == "cover"
    x_HWC = x_F.reshape(shape)
    sides = [max(1, round(_COVER * share * side)) for side in shape[:2]]
    top, left = (int(random.integers(whole - side + 1)) for whole, side in zip(shape, sides, strict=False))
    x_HWC[top : top + sides[0], left : left + sides[1]] = random.integers(0, 256, shape.channels)
    return x_HWC.reshape(-1)
