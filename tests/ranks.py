"""One of several processes that train every architecture: `python -m tests.ranks RANK WORLD_SIZE FILE`.

The first one prints the held-out loss and the epochs of each as JSON.
"""

import json
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from models.fitting import fit_detector
from models.helping import help_training
from models.plan import plan_of
from models.ranks import ALONE, ProcessGroup, Ranks
from models.spec import ImageShape

ARCHITECTURES = ("vanilla", "sparse", "denoising", "variational", "convolutional", "recurrent", "residual")
_ROWS, _CPU = 700, torch.device("cpu")


def losses(ranks: Ranks = ALONE) -> dict[str, list[Any]]:
    """Return [held-out loss, epochs] of each architecture."""
    random = np.random.default_rng(0)
    waves_TF = np.sin(np.arange(_ROWS)[:, None] / np.array([7.0, 23, 50]))
    time_ms = 60_000 * np.arange(_ROWS)
    columns = {name: (time_ms, waves_TF + 0.2 * random.standard_normal((_ROWS, 3))) for name in ("a", "b")}
    found = {}
    for name in ARCHITECTURES:
        plan = plan_of("series", 3, name, {"max_epochs": 2, "trimmed_from": 0.0, "batch_windows": 63}, 8)
        detector = fit_detector("series", ["a", "b", "c"], plan, columns, device=_CPU, ranks=ranks)
        (view,) = detector.training["views"]
        found[name] = [view["held_out_loss"], view["epochs"]]
    found["images"] = _of_images(ranks)
    return found


def _of_images(ranks: Ranks) -> list[Any]:
    """Return the same of a convolutional one for images."""
    shape = ImageShape(8, 8, 1)
    random, names = np.random.default_rng(1), shape.names
    pixels_NF = np.clip(128 + 40 * random.standard_normal((600, len(names))).cumsum(axis=1) / 8, 0, 255)
    plan = plan_of("images", len(names), "convolutional", {"max_epochs": 2, "trimmed_from": 0.0}, 1)
    columns = {"": (1000 * np.arange(len(pixels_NF)), pixels_NF)}
    detector = fit_detector("images", names, plan, columns, device=_CPU, ranks=ranks, image=shape)
    (view,) = detector.training["views"]
    return [view["held_out_loss"], view["epochs"]]


def main() -> None:
    rank, world_size, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    ranks = ProcessGroup()
    if rank:
        help_training(ranks, _CPU)
    else:
        print(json.dumps(losses(ranks)))
        ranks.broadcast(None)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
