"""The default for records of features: what it promises of every record, and what its parts are there for."""

from dataclasses import astuple, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from models.architectures import available
from models.arrays import FloatArray
from models.detector import Detector
from models.evaluation import auroc
from models.files import from_files, to_files
from models.fitting import fit_detector
from models.online_tail import STREAM_PACE
from models.plan import plan_of
from models.scaling import LIMIT, compressed, expanded, fit_features
from models.views import View, ViewConfig

CPU = torch.device("cpu")
FEATURES = 6
CHUNK = 512


def records(count: int, seed: int) -> FloatArray:
    """Return records of two causes in different units; the last feature is nearly always zero."""
    random = np.random.default_rng(seed)
    cause_NL = random.standard_normal((count, 2))
    mixed_NF = cause_NL @ np.random.default_rng(9).standard_normal((2, FEATURES - 1))
    mixed_NF += 0.1 * random.standard_normal(mixed_NF.shape)
    rare_N = random.random(count) < 0.01
    return np.column_stack([mixed_NF * [1, 2, 1, 0.5, 3] + 100, rare_N])


def fitted(rows: FloatArray, options: dict[str, Any] | None = None) -> Detector:
    plan = plan_of("features", rows.shape[1], "default", {"max_epochs": 8, **(options or {})})
    names = [f"f{i}" for i in range(rows.shape[1])]
    return fit_detector("features", names, plan, {"": (1000 * np.arange(len(rows)), rows)}, device=CPU)


@cache
def detector() -> Detector:
    return fitted(records(3000, 1))


def scaled(x_NF: FloatArray) -> torch.Tensor:
    scaling = detector().scaling
    return torch.from_numpy(scaling.apply(x_NF, scaling.center_F, scaling.scale_F))[:, None]


def found(model: Detector, z_B1F: torch.Tensor) -> list[torch.Tensor]:
    return [model.surprise(z_B1F), *astuple(model.explain(z_B1F))]


def test_broken_relations_and_far_values_stand_out() -> None:
    """One kind has no value out of the usual range, the other has one value far out."""
    x_NF = records(2000, 2)
    strange_N = np.zeros(2000, bool)
    strange_N[:200] = True
    shuffled = np.random.default_rng(3)
    for feature in range(FEATURES):
        x_NF[:100, feature] = shuffled.permutation(x_NF[:100, feature])
    x_NF[np.arange(100, 200), np.arange(100) % 5] += 40
    score_N = detector().score_rows(x_NF)
    broken = np.r_[:100, 200:2000]
    assert auroc(strange_N[broken], score_N[broken]) > 0.97
    assert auroc(strange_N[100:], score_N[100:]) > 0.999
    share_BF = detector().explain(scaled(x_NF[100:200])).share_BF
    assert (share_BF.argmax(dim=1) == torch.arange(100) % 5).double().mean() > 0.9


def test_a_record_is_read_by_itself() -> None:
    """In chunks of one shape, neighbours and the row in the chunk change no bit."""
    z_B1F = scaled(records(CHUNK, 4))
    order = torch.randperm(CHUNK, generator=torch.Generator().manual_seed(0))
    strangers = z_B1F.clone()
    strangers[:200] = 1e4 * torch.randn(200, 1, FEATURES, generator=torch.Generator().manual_seed(1))
    alone, moved, beside = (found(detector(), z) for z in (z_B1F, z_B1F[order], strangers))
    for one, two, three in zip(alone, moved, beside, strict=True):
        assert torch.equal(two, one[order])
        assert torch.equal(three[200:], one[200:])


def test_everything_is_finite_whatever_comes() -> None:
    x_NF = np.zeros((CHUNK, FEATURES))
    x_NF[:6] = np.array([0, 1e-300, 1e30, -1e30, 1e300, -1.7e308])[:, None]
    x_NF[6:12] = np.diag([1e300] * FEATURES)
    x_NF[12:] = records(CHUNK - 12, 5) * 10.0 ** np.arange(-250, 250)[:, None]
    tail = detector().calibration.of(0).online_tail(CPU, STREAM_PACE)
    tail.begin(np.array([0]), [""])
    surprise_B, expected_BF = detector().surprise(scaled(x_NF)), detector().explain(scaled(x_NF)).expected_BF
    for column in found(detector(), scaled(x_NF)):
        assert torch.isfinite(column).all()
    assert torch.isfinite(tail.score(np.zeros(CHUNK, np.int64), surprise_B)).all()
    assert np.isfinite(detector().score_rows(x_NF)).all()
    assert expected_BF.abs().max() <= LIMIT


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_shares_sum_to_one(share: float) -> None:
    """Even where a record lies on the stored ones and is rebuilt to the bit."""
    rows = np.repeat(np.array([[1.0, 2, 3]]), 200, axis=0)
    rows[: int(200 * share)] += 1
    still = fitted(rows)
    z_B1F = torch.cat([torch.zeros(4, 1, 3), torch.full((4, 1, 3), 7.0)])
    share_BF = still.explain(z_B1F).share_BF
    torch.testing.assert_close(share_BF.sum(dim=1), torch.ones(8))
    share_BF = detector().explain(scaled(records(CHUNK, 6))).share_BF
    torch.testing.assert_close(share_BF.sum(dim=1), torch.ones(CHUNK))
    assert (share_BF >= 0).all()


def test_a_share_tells_of_both_parts() -> None:
    """Half from the reconstruction, which misses the first feature; half from the neighbour, off in the second."""
    view = View(2, ViewConfig("vanilla", {}, 1, "compressed", 1, "whole", fade=None, stored=1, distance_weight=0.5))
    view.store(torch.tensor([[[2.0, 3.0]]]))
    for weight in view.network.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        # Rebuilt as zeros, whatever comes.
        error_B, share_BF = view.errors(z_11F := torch.tensor([[[2.0, 0.0]]])), view.explain(z_11F).share_BF
    torch.testing.assert_close(share_BF, torch.tensor([[0.5, 0.5]]))
    # Halves of log 2 and log 3: roots of squared errors, as in every view.
    torch.testing.assert_close(error_B, torch.tensor([0.5 * np.log(2) + 0.5 * np.log(3)], dtype=torch.float32))


def test_compression_is_undone() -> None:
    z = torch.cat([torch.linspace(-LIMIT, LIMIT, 4001), torch.linspace(-5, 5, 4001)])
    squeezed = compressed(z)
    torch.testing.assert_close(expanded(squeezed), z, rtol=1e-5, atol=0)
    assert torch.equal(squeezed[z.abs() <= 4], z[z.abs() <= 4])
    assert (squeezed[4001:].diff() > 0).all()
    assert float(squeezed.max()) == pytest.approx(4 + np.log(LIMIT - 3))


def test_expected_values_and_bands_are_in_scaled_units() -> None:
    """A record that training knows well is expected where it is, far out as well."""
    rows = records(3000, 1)
    rows[::25, 0] += 60
    known = fitted(rows, {"max_epochs": 30})
    z_NF = torch.from_numpy(known.scaling.apply(rows[::25], known.scaling.center_F, known.scaling.scale_F))
    expected_BF = known.explain(z_NF[:, None]).expected_BF
    far = float(z_NF[:, 0].median())
    assert far > 4.5
    assert float(expected_BF[:, 0].median()) == pytest.approx(far, rel=0.1)


def test_bands_are_those_of_values_not_of_what_is_compressed() -> None:
    rows = records(3000, 1)
    known = fitted(rows, {"max_epochs": 10})
    z_NF = torch.from_numpy(known.scaling.apply(rows, known.scaling.center_F, known.scaling.scale_F))
    why = known.explain(z_NF[:, None])
    inside_F = ((z_NF - why.expected_BF).abs() <= why.band_BF).double().mean(dim=0)
    torch.testing.assert_close(inside_F, torch.full_like(inside_F, 0.99), atol=0.005, rtol=0)


def test_saved_and_loaded_it_reads_the_same() -> None:
    again = from_files(to_files(detector()))
    z_B1F = scaled(records(CHUNK, 7))
    for one, two in zip(found(detector(), z_B1F), found(again, z_B1F), strict=True):
        assert torch.equal(one, two)
    assert again.views[0].config == detector().views[0].config


def test_equal_seeds_give_equal_models() -> None:
    rows = records(400, 8)
    one, two, other = (to_files(fitted(rows, {"max_epochs": 2, "seed": seed})) for seed in (0, 0, 1))
    assert one == two
    assert one["model.safetensors"] != other["model.safetensors"]


@pytest.mark.parametrize("count", [50, 120])
def test_few_records_are_all_stored(count: int) -> None:
    few = fitted(records(count, 10))
    assert few.views[0].config.stored == count
    assert np.isfinite(few.score_rows(records(100, 11))).all()
    from_files(to_files(few))


def test_gross_outliers_are_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that saw them rebuilds them; the one that did not finds them far stranger."""
    rows, planted = records(3000, 12), np.arange(0, 3000, 100)
    rows[planted] += np.array([60.0, -60, 60, -60, 60, 0])
    error = {}
    for share in (0.0, 0.02):
        monkeypatch.setattr("models.training._TRIMMED", share)
        trained = fitted(rows, {"max_epochs": 15})
        view, scaling = trained.views[0], trained.scaling
        z_NF = torch.from_numpy(scaling.apply(rows, scaling.center_F, scaling.scale_F))
        with torch.no_grad():
            e_N = view.squared_errors(view.inputs(z_NF[:, None]))[0].sum(dim=(1, 2)).numpy()
        error[share] = float(np.median(e_N[planted]) / np.median(e_N))
    assert error[0.02] > 10 * error[0.0]


@pytest.mark.parametrize("network", available())
def test_any_network_serves_the_view(network: str) -> None:
    """All but the network stays: what the view sees, stores and measures."""
    options: dict[str, Any] = {"network": network, "max_epochs": 1}
    other = plan_of("features", 5, "default", options)
    usual = plan_of("features", 5, "default", {"max_epochs": 1})
    (view,), (known,) = other.views, usual.views
    assert view == replace(known, architecture=view.architecture, options=view.options)
    assert view.architecture == network
    assert other.training == usual.training
    trained = fitted(records(200, 13), options)
    assert np.isfinite(trained.score_rows(records(50, 14))).all()


def test_a_single_architecture_has_neither() -> None:
    (view,) = plan_of("features", 5, "vanilla", {}).views
    assert (view.inputs, view.measure, view.stored) == ("values", "features", 0)


def test_a_code_may_be_wider_than_the_record() -> None:
    (view,) = detector().views
    with torch.no_grad():
        assert view.network.encode(torch.zeros(2, 1, FEATURES)).shape == (2, 128)


def test_scales_of_features() -> None:
    random = np.random.default_rng(0)
    rare_N = (np.arange(1000) % 250 == 0).astype(float)
    usual_NF = random.normal(5, 2, (1000, 3))
    x_NF = np.column_stack([usual_NF, 7 * rare_N, rare_N, np.full(1000, 9.0)])
    scale_F = fit_features(x_NF).scale_F
    median = float(np.median(x_NF[:, :5].std(axis=0)))
    np.testing.assert_allclose(scale_F[:3], x_NF[:, :3].std(axis=0))
    # Half of the usual deviation; not beyond the range; the usual one.
    np.testing.assert_allclose(scale_F[3:], [median / 2, min(1.0, median / 2), median])
    np.testing.assert_allclose(fit_features(np.full((60, 2), [3.0, 0.0])).scale_F, [3, 1])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"stored": -1}, "a view stores 0 windows or more, not -1"),
        ({"neighbour_share": 1.5}, "neighbour_share is a share from 0 to 1, not 1.5"),
        ({"distance_weight": -0.1}, "distance_weight is a share from 0 to 1, not -0.1"),
    ],
)
def test_views_without_sense_are_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ViewConfig("vanilla", {}, 1, judged=1, **wrong)
