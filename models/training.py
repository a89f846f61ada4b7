"""The training loop: AdamW on squared error, stopped by the last part of the time.

Legend: B batch, T steps, F features, N windows.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from models import architectures
from models.dataset import Windows
from models.views import View


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to learn."""

    seed: int = 0
    max_epochs: int = 30
    max_seconds: float = 60.0
    patience: int = 4
    """Epochs without a better held-out loss before training stops."""
    batch_windows: int = 256
    epoch_windows: int = 40_000
    """Most windows of an epoch, drawn anew each time: a bound for streams of thousands of series."""
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4


def split_options(options: Mapping[str, Any]) -> tuple[TrainingConfig, dict[str, Any]]:
    """Return (training options, the architecture's own)."""
    training = {name: value for name, value in options.items() if name in TrainingConfig.__dataclass_fields__}
    return architectures.checked(TrainingConfig, training), {
        name: value for name, value in options.items() if name not in training
    }


def train(
    view: View,
    windows: Windows,
    learning_N: np.ndarray[Any, np.dtype[np.int64]],
    stopping_N: np.ndarray[Any, np.dtype[np.int64]],
    config: TrainingConfig,
    progress: Callable[[float], None] = lambda share: None,
) -> list[float]:
    """Fit the view's network on the learning windows; keep the weights that did best on the stopping ones.

    Returns the held-out loss of each epoch.
    """
    device = view.step_F.device
    random = np.random.default_rng(config.seed)
    optimizer = torch.optim.AdamW(
        view.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    started_s = time.monotonic()
    losses: list[float] = []
    best: dict[str, Any] = copy.deepcopy(view.network.state_dict())
    held_out_N = random.permutation(stopping_N)[: config.epoch_windows // 4]
    for epoch in range(config.max_epochs):
        view.train()
        chosen_N = random.permutation(learning_N)[: config.epoch_windows]
        for chosen_B in np.array_split(chosen_N, max(1, len(chosen_N) // config.batch_windows)):
            x_BTC = view.inputs(torch.from_numpy(windows.take(chosen_B)).to(device))
            loss = nn.functional.mse_loss(view.network(x_BTC), x_BTC)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(view.network.parameters(), 1.0)
            optimizer.step()
        losses.append(held_out_loss(view, windows, held_out_N))
        if losses[-1] <= min(losses):
            best = copy.deepcopy(view.network.state_dict())
        elapsed_s = time.monotonic() - started_s
        progress(max((epoch + 1) / config.max_epochs, min(elapsed_s / config.max_seconds, 1.0)))
        waited = len(losses) - 1 - int(np.argmin(losses))
        if waited >= config.patience or elapsed_s > config.max_seconds:
            break
    view.network.load_state_dict(best)
    view.eval()
    progress(1.0)
    return losses


@torch.no_grad()
def held_out_loss(view: View, windows: Windows, chosen_N: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """Return the median of the windows' mean squared errors: a few anomalies do not decide when to stop."""
    view.eval()
    losses = []
    for chosen_B in np.array_split(chosen_N, max(1, len(chosen_N) // 1024)):
        x_BTC = view.inputs(torch.from_numpy(windows.take(chosen_B)).to(view.step_F.device))
        losses.append((view.network(x_BTC) - x_BTC).square().mean(dim=(1, 2)))
    return float(torch.cat(losses).median()) if len(chosen_N) else 0.0
