"""The linear autoencoder: the principal components, and anomalies in training that leave no trace."""

import numpy as np
import pytest
import torch

from models import architectures
from models.architectures import linear

CHANNELS, STEPS, LATENT = 2, 6, 3


def network(steps: int = STEPS, channels: int = CHANNELS, latent: int = LATENT) -> linear.Autoencoder:
    built = architectures.build("linear", (steps,), channels, architectures.configure("linear", {"latent": latent}))
    assert isinstance(built, linear.Autoencoder)
    return built


def windows(count: int, seed: int = 0) -> torch.Tensor:
    """Return windows that few directions explain, each less than the one before, and some noise."""
    random = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(random.standard_normal((STEPS * CHANNELS, 5)))
    codes = random.standard_normal((count, 5)) * np.array([8.0, 4.0, 2.0, 0.2, 0.1])
    flat = 3 + codes @ directions.T + 0.01 * random.standard_normal((count, STEPS * CHANNELS))
    return torch.from_numpy(flat.reshape(count, STEPS, CHANNELS)).float()


def exact(x_BTC: torch.Tensor, latent: int = LATENT) -> tuple[np.ndarray, np.ndarray]:
    """Return (centre, projection on the leading principal components) of flat windows."""
    flat = x_BTC.flatten(1).double().numpy()
    center = flat.mean(axis=0)
    components = np.linalg.svd(flat - center, full_matrices=False)[2][:latent].T
    return center, components @ components.T


def projection(solved: linear.Autoencoder) -> np.ndarray:
    components_WL = solved.components_WL.detach().double().numpy()
    return np.asarray(components_WL @ components_WL.T)


@pytest.mark.parametrize("count", [40, 99])
def test_it_is_the_principal_components(count: int) -> None:
    x_BTC, solved = windows(count), network()
    solved.solve(x_BTC)
    center, expected = exact(x_BTC)
    np.testing.assert_allclose(solved.center_W.detach(), center, atol=1e-5)
    np.testing.assert_allclose(projection(solved), expected, atol=1e-4)
    np.testing.assert_allclose(
        solved(x_BTC).detach().flatten(1), center + (x_BTC.flatten(1).numpy() - center) @ expected, atol=1e-3
    )


def test_gross_outliers_hardly_change_it() -> None:
    """A plain solution follows them; without the windows it explains worst, it stays where it was."""
    clean_BTC = windows(2000)
    spoilt_BTC = clean_BTC.clone()
    # Each breaks in its own way, as anomalies do.
    spoilt_BTC[::200] += (
        15 * torch.from_numpy(np.random.default_rng(1).standard_normal((10, STEPS, CHANNELS))).float()
    )
    _, wanted = exact(clean_BTC)
    solved = network()
    solved.solve(spoilt_BTC)
    moved = np.linalg.norm(projection(solved) - wanted)
    plainly = np.linalg.norm(exact(spoilt_BTC)[1] - wanted)
    assert moved < 0.05
    assert moved < 0.1 * plainly


def test_fewer_windows_than_codes_are_all_explained() -> None:
    x_BTC, solved = windows(3), network(latent=8)
    solved.solve(x_BTC)
    torch.testing.assert_close(solved(x_BTC), x_BTC, atol=1e-4, rtol=1e-4)
    assert (solved.components_WL[:, 3:] == 0).all()
    other_BTC = windows(50, seed=3)
    assert float((solved(other_BTC) - other_BTC).detach().square().mean()) > 0.1


def test_one_feature() -> None:
    x_BTC = torch.sin(torch.arange(300.0)[:, None] / 9 + torch.arange(16.0) / 3)[:, :, None]
    solved = network(16, 1, 2)
    solved.solve(x_BTC)
    torch.testing.assert_close(solved(x_BTC), x_BTC, atol=1e-3, rtol=0)
    assert solved(x_BTC + torch.eye(16)[-1][:, None]).sub(x_BTC).abs().max() < 0.5


def test_constant_windows_are_explained_and_a_jump_is_not() -> None:
    x_BTC, solved = torch.full((200, STEPS, CHANNELS), 0.7), network()
    solved.solve(x_BTC)
    assert all(torch.isfinite(weights).all() for weights in solved.parameters())
    torch.testing.assert_close(solved(x_BTC), x_BTC)
    jumped_BTC = x_BTC.clone()
    jumped_BTC[:, -1] += 1
    assert float((solved(jumped_BTC) - jumped_BTC).detach().square().sum(dim=(1, 2)).min()) > 0.1


@pytest.mark.parametrize("rows", [1, 3, STEPS])
def test_the_newest_rows_are_those_of_the_whole_reconstruction(rows: int) -> None:
    x_BTC, solved = windows(150), network()
    solved.solve(x_BTC)
    torch.testing.assert_close(solved.newest(x_BTC, rows), solved(x_BTC)[:, -rows:])
