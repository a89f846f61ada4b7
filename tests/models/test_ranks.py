"""Processes that share every batch come to what one process comes to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models import architectures
from models.dataset import windows_of
from models.images import OfImages
from models.ranks import ALONE, Ranks
from models.spec import ImageShape
from models.training import TrainingConfig, train, trimmed_mean, trimmed_part
from models.views import View, ViewConfig
from tests.ranks import ARCHITECTURES, losses

TRAINED = (*ARCHITECTURES, "images")
TOLERANCE = dict.fromkeys(TRAINED, 1e-4) | {"residual": 0.03}
"""Of losses, relative: sums are put together in another order. Measured: 4e-7 after 8 epochs.

The residual one begins where gradients are zero but for rounding, and AdamW scales its first steps by them: another
order of one process's own sums changes as much (measured: 1e-2)."""


class Of(Ranks):
    """One of so many, which is told what the others have."""

    def __init__(self, rank: int, world_size: int, all_N: torch.Tensor | None = None) -> None:
        self.rank, self.world_size, self._all_N = rank, world_size, all_N

    def all_gather(self, own_B: torch.Tensor, count: int) -> torch.Tensor:
        assert self._all_N is not None
        assert torch.equal(own_B.detach(), self._all_N[self.share(count)])
        return self._all_N


def test_two_processes_come_to_the_loss_of_one(tmp_path: Path) -> None:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    others = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", str(rank), "2", str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for rank in range(2)
    ]
    alone = losses()
    said = [other.communicate(timeout=120)[0] for other in others]
    assert [other.returncode for other in others] == [0, 0]
    together = json.loads(said[0])
    assert list(together) == list(TRAINED)
    for name, (loss, epochs) in alone.items():
        assert together[name] == [pytest.approx(loss, rel=TOLERANCE[name]), epochs], name


def test_shares_are_all_windows_once() -> None:
    for world_size in (1, 2, 7):
        shares = [Of(rank, world_size).share(64) for rank in range(world_size)]
        assert [window for share in shares for window in range(64)[share]] == list(range(64))


def test_of_images_a_share_has_the_losses_that_the_batch_has() -> None:
    config = architectures.configure("denoising", {})
    torch.manual_seed(1)
    network = OfImages(architectures.build("denoising", (4, 4), 1, config), ImageShape(4, 4, 1))
    _require_shares(network, torch.randn(17, 1, 16))


@pytest.mark.parametrize("name", architectures.available())
def test_a_share_of_a_batch_has_the_losses_that_the_batch_has(name: str) -> None:
    config = architectures.configure(name, {})
    torch.manual_seed(1)
    _require_shares(architectures.build(name, (8,), 3, config), torch.randn(17, 8, 3))


def _require_shares(network: architectures.Architecture, x_BTC: torch.Tensor) -> None:
    """Each process draws what one would, so the draws that follow are the same too."""
    torch.manual_seed(2)
    whole_B, next_draw = network.loss(x_BTC, 0.5), torch.rand(())
    for rank in range(3):
        own = Of(rank, 3).share(17)
        torch.manual_seed(2)
        part_B = network.loss_of(x_BTC, own, 0.5)
        assert torch.equal(torch.rand(()), next_draw)
        assert torch.allclose(part_B, whole_B[own], rtol=1e-5)


@pytest.mark.parametrize("trimmed", [0.0, 0.3])
def test_parts_of_a_trimmed_mean_add_up_to_it(trimmed: float) -> None:
    """So do their gradients: what one process leaves out is left out by whichever has it."""
    loss_N = torch.rand(21, generator=torch.Generator().manual_seed(0))
    loss_N[4], loss_N[20] = 9.0, 8.0
    whole = loss_N.clone().requires_grad_()
    trimmed_mean(whole, trimmed).backward()  # type: ignore[no-untyped-call]
    gradient_N, parts = torch.zeros(21), 0.0
    for rank in range(4):
        ranks = Of(rank, 4, loss_N)
        own_B = loss_N[ranks.share(21)].clone().requires_grad_()
        part = trimmed_part(own_B, trimmed, 21, ranks)
        part.backward()  # type: ignore[no-untyped-call]
        assert own_B.grad is not None
        gradient_N[ranks.share(21)] += own_B.grad
        parts += float(part.detach())
    assert whole.grad is not None
    assert torch.allclose(gradient_N, whole.grad)
    assert parts == pytest.approx(float(trimmed_mean(loss_N, trimmed)))
    assert trimmed_part(loss_N, trimmed, 21, ALONE) == trimmed_mean(loss_N, trimmed)


def test_more_processes_than_windows_to_a_batch_are_refused() -> None:
    class Many(Of):
        def broadcast(self, what: object = None) -> object:
            return what

    view = View(2, ViewConfig("vanilla", {"latent": 2}, 4, judged=1))
    windows = windows_of([np.zeros((60, 2), np.float32)], 4)
    every_N = np.arange(60)
    with pytest.raises(ValueError, match="9 processes cannot share batches of 4 windows; train with fewer of them"):
        train(view, windows, every_N, every_N[:5], TrainingConfig(batch_windows=4), ranks=Many(0, 9))
