"""The residual autoencoder begins at the principal components, and ends there where training does no better."""

import numpy as np
import pytest
import torch

from models import architectures
from models.architectures import residual
from models.arrays import FloatArray
from models.codes import Coder, fit_coder
from models.dataset import windows_of
from models.training import TrainingConfig, held_out_loss, train
from models.views import View, ViewConfig

FEATURES = 5


def rows(count: int = 400, seed: int = 0) -> FloatArray:
    """Return rows of five features that hang together, each of mean 0 and spread 1."""
    random = np.random.default_rng(seed)
    mixed_NF = random.standard_normal((count, FEATURES)) @ np.random.default_rng(9).standard_normal(
        (FEATURES, FEATURES)
    )
    scaled_NF: FloatArray = (mixed_NF - mixed_NF.mean(axis=0)) / mixed_NF.std(axis=0)
    return scaled_NF


def projected(x_NF: FloatArray, dimensions: int) -> FloatArray:
    """Return what principal components bring back of rows of mean 0."""
    components = np.linalg.svd(x_NF, full_matrices=False)[2][:dimensions]
    back_NF: FloatArray = x_NF @ components.T @ components
    return back_NF


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_it_starts_as_the_principal_components(dimensions: int) -> None:
    config = architectures.configure("residual", {"latent": dimensions})
    network = architectures.build("residual", (1,), FEATURES, config)
    # What is held out is not scaled by: what it learns from lies off the middle.
    x_N1F = 3 + torch.from_numpy(rows()).float()[:, None]
    network.start(x_N1F)
    codes = network.encode(x_N1F).detach()
    np.testing.assert_allclose(network(x_N1F).detach()[:, 0], 3 + projected(rows(), dimensions), atol=1e-4)
    np.testing.assert_allclose(codes.mean(dim=0), 0, atol=1e-4)
    np.testing.assert_allclose(codes.std(dim=0, correction=0), 1, rtol=1e-3)


def test_what_training_spoils_is_not_kept() -> None:
    """At this rate every step makes it worse."""
    spoilt = fit_coder(rows(), 2, options={"learning_rate": 30.0, "max_epochs": 2, "least_epoch_windows": 1})
    network = spoilt.detector.views[0].network
    assert isinstance(network, residual.Autoencoder)
    for name in ("bent_into", "bent_back"):
        assert not network.state_dict()[f"{name}.4.weight"].any()
    assert np.abs(spoilt.read(rows())[1] - projected(rows(), 2)).mean() < 0.1


def test_it_follows_a_curve_that_no_line_follows() -> None:
    cause_N = np.random.default_rng(0).uniform(-3, 3, 2000)
    x_NF = np.stack([cause_N, np.cos(2 * cause_N), np.abs(cause_N)], axis=1)
    coder: Coder = fit_coder(x_NF[:1500], 1, options={"max_epochs": 15})
    left = np.square(coder.off(x_NF[1500:], coder.read(x_NF[1500:])[1])).mean()
    scaled_NF = (x_NF - x_NF.mean(axis=0)) / x_NF.std(axis=0)
    by_line = np.square(scaled_NF - projected(scaled_NF, 1)).mean()
    assert by_line > 0.5
    assert left < 0.1 * by_line


def test_features_that_never_move_and_copies_do_no_harm() -> None:
    x_NF = np.column_stack([rows(100)[:, :2], np.full(100, 7.0), rows(100)[:, 0]])
    coder = fit_coder(x_NF, 4, options={"max_epochs": 1})
    rebuilt_NF = coder.read(x_NF)[1]
    assert np.isfinite(coder.encode(x_NF)).all()
    np.testing.assert_allclose(rebuilt_NF[:, 2], 7, atol=0.5)
    assert coder.off(x_NF, rebuilt_NF).mean() < 0.1


def test_where_all_count_in_training_all_count_when_it_is_judged() -> None:
    """By the median, weights that are wrong about a third of the rows are as good as any."""
    x_NF = rows().astype(np.float32)
    x_NF[::3] *= 40
    windows = windows_of([x_NF], 1)
    every_N = np.arange(len(x_NF))
    view = View(FEATURES, ViewConfig("residual", {"latent": 2}, 1, "values", judged=1))
    train(view, windows, every_N, every_N, TrainingConfig(max_epochs=1, trimmed=0.0))
    robust, plain = (held_out_loss(view, windows, every_N, robust) for robust in (True, False))
    assert plain > 10 * robust
    trained = train(view, windows, every_N, every_N, TrainingConfig(max_epochs=1, trimmed=0.0))
    assert trained.held_out_loss == pytest.approx(held_out_loss(view, windows, every_N, False))
