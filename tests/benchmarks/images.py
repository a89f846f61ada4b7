"""How well strange images are told from usual ones, by the default of `kind: images`; real images.

    python -m tests.benchmarks.images

Handwritten digits of 8 x 8 (Alpaydin and Kaynak, 1998), learned from 1,300 of them; and cuts of 32 x 32 out of the
left half of a photograph ("China" of scikit-learn), learned from 2,000. AUROC of what follows against images that
were not learned from:

- `inverted`: black and white exchanged; `turned`: by a quarter;
- `noise`, `shade`, `cover`: faults of `models.image_faults`, of size 4 and 8;
- `patch`: a quarter of the image, half as high and wide, from another place of another image;
- `unseen`: a digit that was in no image learned from, mean over 0, 3 and 8.
"""

import json
import time
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from models.detector import Detector
from models.evaluation import auroc
from models.fitting import fit_detector
from models.image_faults import inject_images
from models.injection import Anomaly, Fault
from models.plan import DEFAULT, plan_of
from models.spec import ImageShape
from tests.images import SHAPE, Pixels, digits, upside_down

_CUT, _SIDES = ImageShape(32, 32, 3), (427, 640)
_FAULTS: tuple[Fault, ...] = ("noise", "shade", "cover")


def learned(x_NF: Pixels, shape: ImageShape) -> Detector:
    columns: Any = {"": (np.arange(len(x_NF)) * 1000, x_NF)}
    plan = plan_of("images", shape.values, DEFAULT, {})
    return fit_detector("images", shape.names, plan, columns, device=torch.device("cpu"), image=shape)


def told(detector: Detector, usual_NF: Any, strange_NF: Any) -> float:
    """Return the AUROC of strange images against usual ones."""
    scores = [detector.score_rows(each_NF) for each_NF in (usual_NF, strange_NF)]
    strange_N = np.repeat([False, True], [len(each) for each in scores])
    return round(float(auroc(strange_N, np.concatenate(scores))), 3)


def faulty(x_NF: Pixels, shape: ImageShape) -> dict[str, Any]:
    spread_F = np.tile(x_NF.reshape(-1, shape.channels).std(axis=0), shape.height * shape.width)
    found: dict[str, Any] = {}
    for fault in _FAULTS:
        for size in (4.0, 8.0):
            wanted = [Anomaly(fault, size, 1)] * len(x_NF)
            every_N = np.ones(len(x_NF), np.bool_)
            found[f"{fault}_{size:g}"] = inject_images(x_NF, every_N, wanted, shape, spread_F, 3)[0]  # type: ignore[arg-type]
    random, patched_NF = np.random.default_rng(3), x_NF.copy().reshape(-1, *shape)
    high, wide = shape.height // 2, shape.width // 2
    for image in patched_NF:
        top, left, from_top, from_left = random.integers(0, [high + 1, wide + 1] * 2).tolist()
        other = x_NF[random.integers(len(x_NF))].reshape(shape)
        image[top : top + high, left : left + wide] = other[
            from_top : from_top + high, from_left : from_left + wide
        ]
    return {**found, "patch": patched_NF.reshape(len(x_NF), -1)}


def of_digits() -> dict[str, Any]:
    x_NF, digit_N = digits()
    usual_NF = x_NF[1_300:]
    began_s = time.process_time()
    detector = learned(x_NF[:1_300], SHAPE)
    turned_NF = np.ascontiguousarray(np.rot90(usual_NF.reshape(-1, 8, 8), 1, (1, 2))).reshape(-1, 64)
    strange = {"inverted": upside_down(usual_NF), "turned": turned_NF, **faulty(usual_NF, SHAPE)}
    found: dict[str, Any] = {"fit_cpu_s": round(time.process_time() - began_s, 1)}
    found |= {name: told(detector, usual_NF, each_NF) for name, each_NF in strange.items()}
    unseen = []
    for digit in (0, 3, 8):
        without = learned(x_NF[:1_300][digit_N[:1_300] != digit], SHAPE)
        rest_N = digit_N[1_300:] != digit
        unseen.append(told(without, usual_NF[rest_N], usual_NF[~rest_N]))
    return {**found, "unseen": round(float(np.mean(unseen)), 3)}


def of_cuts() -> dict[str, Any]:
    photograph = load_sample_images().images[0]

    def cuts(count: int, seed: int) -> Pixels:
        random = np.random.default_rng(seed)
        places = zip(
            random.integers(_SIDES[0] - 32, size=count),
            random.integers(_SIDES[1] // 2 - 32, size=count),
            strict=True,
        )
        return np.stack([photograph[top : top + 32, left : left + 32].reshape(-1) for top, left in places])

    began_s = time.process_time()
    detector, usual_NF = learned(cuts(2_000, 0), _CUT), cuts(400, 1)
    found = {"fit_cpu_s": round(time.process_time() - began_s, 1)}
    return found | {name: told(detector, usual_NF, each_NF) for name, each_NF in faulty(usual_NF, _CUT).items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"digits": of_digits()}), flush=True)
    print(json.dumps({"cuts": of_cuts()}), flush=True)
