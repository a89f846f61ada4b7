"""Anomalies put into real images, with labels: what a detector of images should find, at a size that is stated.

Three faults of what stands before a camera, and of the camera. A *patch*: a rectangle is replaced by one from
another place of another image, as if something lay there that does not belong (Li et al., "CutPaste:
Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021). *Noise* on every value. A *shade*: all
values brighter or darker. Of size 8 a patch is half as high and wide as the image, noise has the spread of usual
values, and a shade lies twice that off; smaller ones are proportional.

Legend: N images, F values of each, H height, W width, C channels.
"""

from collections.abc import Sequence

import numpy as np

from models.injection import Anomaly, BoolArray, FloatArray, Injected
from models.spec import ImageShape

_LARGE = 8.0
_PATCH, _NOISE, _SHADE = 0.5, 1.0, 2.0
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
        other = int(random.integers(len(x_NF)))
        faulty_F = _faulty(x_NF[place].astype(np.float64), x_NF[other], anomaly, shape, spread_F, random)
        changed_NF[place] = np.rint(np.clip(faulty_F, 0, 255))
        moved = np.abs(changed_NF[place] - x_NF[place].astype(np.float64)) / spread_F
        found.append(Injected(anomaly, place, place + 1, (), float(moved.mean())))
    return changed_NF, found


def _faulty(
    x_F: FloatArray,
    other_F: FloatArray,
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
    assert anomaly.fault == "patch"
    x_HWC, other_HWC = x_F.reshape(shape), other_F.reshape(shape)
    sides = [max(1, min(round(_PATCH * share * side), side - 1)) for side in shape[:2]]
    to, of = (
        tuple(slice(begin, begin + side) for begin, side in zip(_begins(sides, shape, random), sides, strict=True))
        for _ in range(2)
    )
    x_HWC[to] = other_HWC[of]
    return x_HWC.reshape(-1)


def _begins(sides: Sequence[int], shape: ImageShape, random: np.random.Generator) -> list[int]:
    """Return where a rectangle of these sides begins."""
    return [int(random.integers(whole - side + 1)) for whole, side in zip(shape, sides, strict=False)]
