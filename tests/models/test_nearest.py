"""The distance to stored records: of the right neighbour, exact where records are nearly equal."""

import numpy as np
import pytest
import torch

from models.dataset import windows_of
from models.nearest import Nearest
from models.training import store_and_trim
from models.views import View, ViewConfig


def nearest_of(stored_SD: torch.Tensor) -> Nearest:
    nearest = Nearest(*stored_SD.shape)
    nearest.stored_SD.copy_(stored_SD)
    return nearest


@pytest.mark.parametrize(("share", "k"), [(0.0, 1), (0.04, 2), (0.5, 25), (1.0, 50)])
def test_the_distance_is_to_the_kth_nearest(share: float, k: int) -> None:
    random = torch.Generator().manual_seed(0)
    stored_SD, x_BD = torch.randn(50, 7, generator=random), torch.randn(200, 7, generator=random)
    found_B = nearest_of(stored_SD).squared(x_BD, share).sum(dim=1)
    every_BS = (x_BD[:, None] - stored_SD).square().sum(dim=2)
    torch.testing.assert_close(found_B, every_BS.sort(dim=1).values[:, k - 1])


def test_nearly_equal_records_have_their_own_distance() -> None:
    """By the expanded square alone, a distance of 1e-6 between values near 10 would be lost in rounding."""
    stored_SD = 10 + torch.arange(4.0)[:, None].expand(4, 30).contiguous()
    moved_BD = stored_SD + torch.tensor([[0.0], [1e-3], [2e-3], [4e-3]])
    found_B = nearest_of(stored_SD).squared(moved_BD, 0).sum(dim=1)
    torch.testing.assert_close(found_B, 30 * torch.tensor([0.0, 1e-6, 4e-6, 16e-6]), rtol=5e-3, atol=0)


def test_a_record_does_not_count_itself() -> None:
    stored_SD = torch.randn(50, 3)
    nearest = nearest_of(stored_SD)
    assert float(nearest.squared(stored_SD, 0).sum()) == 0
    apart_SS = torch.cdist(stored_SD, stored_SD).square().fill_diagonal_(torch.inf)
    torch.testing.assert_close(
        nearest.squared(stored_SD, 0, besides=1).sum(dim=1), apart_SS.amin(dim=1), rtol=1e-3, atol=1e-5
    )


def test_what_lies_far_from_everything_is_not_learned_from() -> None:
    """All of the planted ones are left out, stored or not, and no more than the share that is."""
    z_NF = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    planted = np.arange(7, 2000, 66)
    z_NF[planted] = 50 * np.sign(z_NF[planted])
    view = View(4, ViewConfig("denoising", {}, 1, "compressed", judged=1, fade=None, stored=256))
    usual_N = store_and_trim(view, windows_of([z_NF], 1), seed=0)
    assert not usual_N[planted].any()
    assert (~usual_N).sum() == pytest.approx(40, abs=1)
    assert view.nearest is not None
    stored_SD = view.nearest.stored_SD
    assert 1 <= int((stored_SD.abs() > 5).any(dim=1).sum()) <= 10, "stored records are a sample of all"
