"""Views read together find what each of them finds by itself."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.reader import Reader
from models.views import View, ViewConfig

FEATURES, WINDOW = 3, 12


def fitted(config: ViewConfig) -> View:
    """Return a view that has learned noisy waves."""
    view = View(FEATURES, config).eval()
    view.step_F.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x_BTC = view.inputs(waves(400))
    if view.network.closed_form:
        view.network.solve(x_BTC)
    with torch.no_grad():
        high_C, off_BF = view.off(waves(400))
        view.set_usual(high_C.quantile(0.99, dim=0), off_BF.quantile(0.99, dim=0))
        view.high_error.fill_(0.25)
    return view


def waves(count: int, seed: int = 0) -> torch.Tensor:
    """Return windows [count, WINDOW, FEATURES] around a level of 5."""
    random = torch.Generator().manual_seed(seed)
    phase_B = 6 * torch.rand(count, 1, 1, generator=random)
    rows = torch.arange(WINDOW)[:, None] / 3 * torch.tensor([1.0, 0.5, 2.0])
    return 5 + torch.sin(rows + phase_B) + 0.1 * torch.randn(count, WINDOW, FEATURES, generator=random)


@st.composite
def linear_views(draw: st.DrawFn) -> ViewConfig:
    window = draw(st.integers(4, WINDOW))
    return ViewConfig(
        draw(st.sampled_from(["linear", "linear", "vanilla"])),
        {"latent": draw(st.integers(1, 3))},
        window,
        draw(st.sampled_from(["values", "values and differences", "centred", "compressed"])),
        judged=draw(st.sampled_from([1, min(3, window), window])),
        measure=draw(st.sampled_from(["features", "whole"])),
        largest=draw(st.integers(0, 2)),
        power=draw(st.sampled_from([1.0, 4.0])),
    )


def apart(views: Sequence[View], z_BTF: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([view.errors(z_BTF) for view in views], dim=1)


@settings(deadline=None, max_examples=60)
@given(configs=st.lists(linear_views(), min_size=1, max_size=4))
def test_together_they_find_what_each_finds(configs: list[ViewConfig]) -> None:
    views = [fitted(config) for config in configs]
    z_BTF = waves(64, seed=1)
    z_BTF[::4, -1, 1] += 3
    z_BTF[1::4, 2, 0] -= 5
    torch.testing.assert_close(Reader(views, WINDOW).errors(z_BTF), apart(views, z_BTF), atol=2e-3, rtol=1e-4)


def test_windows_that_overlap_in_memory_are_read_alike() -> None:
    views = [fitted(ViewConfig("linear", {}, 12, inputs, 12, "whole")) for inputs in ("centred", "values")]
    rows_NF = waves(3).reshape(-1, FEATURES)
    every_BTF = rows_NF.unfold(0, WINDOW, 1).transpose(1, 2)
    reader = Reader(views, WINDOW)
    torch.testing.assert_close(reader.errors(every_BTF), reader.errors(every_BTF.contiguous()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("level", [0.0, 1.0, 1000.0])
def test_a_level_far_from_zero_hides_no_change_of_shape(level: float) -> None:
    """Lengths are taken of what is left without the mean, so that single precision suffices."""
    view = fitted(ViewConfig("linear", {}, WINDOW, "centred", WINDOW, "whole"))
    z_BTF = level + 0.05 * waves(8, seed=2)
    broken_BTF = z_BTF.clone()
    broken_BTF[:, 6] += 0.1
    usual_B1, found_B1 = (Reader([view], WINDOW).errors(each) for each in (z_BTF, broken_BTF))
    assert (found_B1 - usual_B1 > 1).all()


def test_what_rounding_leaves_of_a_perfect_reconstruction_is_no_error() -> None:
    """What codes leave of a length is a difference of large numbers: below their last bits it says nothing."""
    view = fitted(ViewConfig("linear", {"latent": 6}, WINDOW, "centred", WINDOW, "whole"))
    noise_BTF = torch.randn(256, WINDOW, FEATURES, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        known_BTF = view.network(0.5 * noise_BTF)
    errors = [Reader([view], WINDOW).errors(level + known_BTF) for level in (0.0, 0.25, 1.0)]
    for moved_B1 in errors[1:]:
        torch.testing.assert_close(moved_B1, errors[0], atol=0.2, rtol=0)


@pytest.mark.parametrize("measure", ["features", "whole"])
def test_errors_are_finite_whatever_comes(measure: str) -> None:
    views = [
        fitted(ViewConfig("linear", {}, 12, inputs, 12, measure))  # type: ignore[arg-type]
        for inputs in ("values", "centred", "values and differences")
    ]
    sizes = torch.tensor([0.0, 1e-30, 1.0, 1e4, 1e6])
    z_BTF = sizes[:, None, None] * torch.ones(5, WINDOW, FEATURES)
    z_BTF[:, -1] *= -1
    assert torch.isfinite(Reader(views, WINDOW).errors(z_BTF)).all()
