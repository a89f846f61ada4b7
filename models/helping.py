"""What the other processes of a training do while the first one fits a detector."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from models.arrays import IntArray
from models.dataset import windows_of
from models.ranks import Ranks
from models.spec import ImageShape
from models.training import TrainingConfig, train
from models.views import View, ViewConfig


@dataclass(frozen=True)
class TrainingTask:
    """A network that the first process has all of them train."""

    features: int
    config: ViewConfig
    step_F: npt.NDArray[np.float32]
    scaled: list[npt.NDArray[np.float32]]
    """Rows of each series, or of each piece of one."""
    parts: tuple[IntArray, IntArray]
    """Windows to learn from, and to stop by."""
    training: TrainingConfig
    image: ImageShape | None = None
    """Of images, whose values are the features."""


def help_training(ranks: Ranks, device: torch.device) -> None:
    """Train beside the first process whatever it trains, until it tells that nothing is left.

    Networks with a closed form it solves by itself.

    Raises:
        PeerLost: it, or another one, has ended.
    """
    task: TrainingTask | None
    while (task := ranks.broadcast()) is not None:
        # What is stored beside a network takes no part in its training.
        view = View(task.features, replace(task.config, stored=0), task.image).to(device)
        view.step_F.copy_(torch.from_numpy(task.step_F))
        learning_N, stopping_N = task.parts
        windows = windows_of(task.scaled, task.config.window)
        train(view, windows, learning_N, stopping_N, task.training, ranks=ranks)
