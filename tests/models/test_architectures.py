"""One contract for every architecture: whatever lies in `models/architectures` is swept."""

import json
from dataclasses import astuple, fields

import numpy as np
import pytest
import torch

from models import architectures
from models.arrays import FloatArray, IntArray
from models.detector import Detector
from models.files import from_files, to_files
from models.online_tail import SERIES_PACE
from models.plan import plan_of
from models.spec import ModelSpec
from tests.streams import fit

CPU = torch.device("cpu")
NAMES = architectures.available()
SPEC = ModelSpec("series", ("a", "b", "c"), 16)
QUICK = {"max_epochs": 3}


def waves(points: int, seed: int = 0) -> tuple[IntArray, FloatArray]:
    time_T = np.arange(points)
    noise = np.random.default_rng(seed).normal(0, 0.05, (points, 3))
    return 60_000 * time_T, np.sin(time_T[:, None] / np.array([5.0, 8, 13])) + noise


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Detector]:
    return {name: fit(SPEC, name, QUICK, {"s": waves(1500)}) for name in NAMES}


def test_there_are_the_six_classic_ones() -> None:
    assert set(NAMES) >= {"vanilla", "sparse", "denoising", "variational", "convolutional", "recurrent"}


@pytest.mark.parametrize("steps", [1, 7, 16, 50])
@pytest.mark.parametrize("channels", [1, 5])
def test_shapes_are_kept(name: str, steps: int, channels: int) -> None:
    network = architectures.build(name, (steps,), channels, architectures.configure(name, {}))
    x_BTC = torch.randn(4, steps, channels)
    assert network(x_BTC).shape == x_BTC.shape
    torch.testing.assert_close(network.newest(x_BTC, 1), network(x_BTC)[:, -1:])
    codes_BL = network.encode(x_BTC)
    assert codes_BL.shape[0] == 4
    assert codes_BL.ndim == 2
    torch.testing.assert_close(network.decode(codes_BL), network(x_BTC))


def test_eight_windows_can_be_learned_by_heart(name: str) -> None:
    torch.manual_seed(0)
    options = {"latent": 16} if name == "linear" else {"latent": 16, "hidden": 64}
    network = architectures.build(name, (16,), 2, architectures.configure(name, options))
    x_BTC = torch.randn(8, 16, 2)
    if network.closed_form:
        network.solve(x_BTC)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(600):
        loss = (network(x_BTC) - x_BTC).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


@pytest.mark.parametrize("done", [0.0, 1.0])
def test_each_window_has_a_loss_of_its_own(name: str, done: float) -> None:
    """A strange window costs the most, and its neighbours what they cost beside any other, less a common term."""
    torch.manual_seed(0)
    network = architectures.build(name, (16,), 2, architectures.configure(name, {}))
    x_BTC = torch.randn(32, 16, 2)
    strange_BTC = x_BTC.clone()
    strange_BTC[7] = 30 * torch.randn(16, 2)
    found = []
    for windows_BTC in (x_BTC, strange_BTC):
        torch.manual_seed(1)
        found.append(network.loss(windows_BTC, done))
    usual_B, beside_B = found
    assert usual_B.shape == (32,)
    assert int(beside_B.argmax()) == 7
    if name != "denoising":  # it swaps values between windows, and scales its noise by the batch
        rest_B = torch.arange(32) != 7
        common_B = (beside_B - usual_B)[rest_B]
        torch.testing.assert_close(common_B, common_B.mean().expand(31), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e4])
def test_gradients_stay_finite(name: str, scale: float) -> None:
    network = architectures.build(name, (16,), 2, architectures.configure(name, {}))
    x_BTC = torch.randn(8, 16, 2) * scale
    network.loss(x_BTC, done=1.0).mean().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_unknown_options_name_the_nearest_known_one(name: str) -> None:
    option = fields(architectures.configure(name, {}))[0].name
    with pytest.raises(ValueError, match=f"no option '{option}x'; did you mean '{option}'"):
        plan_of("series", 3, name, {f"{option}x": 3}, 16)
    with pytest.raises(ValueError, match=f"no architecture '{name}z'; did you mean '{name}'"):
        plan_of("series", 3, f"{name}z", {}, 16)


def test_a_saved_model_names_all_its_options(name: str, fitted: dict[str, Detector]) -> None:
    """A later default must not change what a saved model is built from."""
    (view,) = json.loads(to_files(fitted[name])["manifest.json"])["views"]
    assert set(view["options"]) == {field.name for field in fields(architectures.configure(name, {}))}


def test_equal_seeds_give_equal_models(name: str) -> None:
    one, two = (fit(SPEC, name, QUICK, {"s": waves(400)}) for _ in range(2))
    files, again = to_files(one), to_files(two)
    assert files == again
    other = fit(SPEC, name, {**QUICK, "seed": 1}, {"s": waves(400)})
    assert to_files(other)["model.safetensors"] != files["model.safetensors"]


def test_saved_and_loaded_scores_are_equal(name: str, fitted: dict[str, Detector]) -> None:
    detector = fitted[name]
    again = from_files(to_files(detector))
    z_BTF = torch.randn(64, 16, 3)
    assert torch.equal(detector.surprise(z_BTF), again.surprise(z_BTF))
    before, after = detector.explain(z_BTF), again.explain(z_BTF)
    for one, two in zip(astuple(before), astuple(after), strict=True):
        assert torch.equal(one, two)
    assert again.spec == detector.spec
    assert again.calibration.interval_of_series == detector.calibration.interval_of_series
    assert again.calibration.judgements.keys() == detector.calibration.judgements.keys()
    assert json.loads(to_files(again)["manifest.json"])["training"]["rows"] == 1500


def test_a_score_depends_on_nothing_but_its_window(name: str, fitted: dict[str, Detector]) -> None:
    """In chunks of one shape, neighbours and the row in the chunk change no bit."""
    z_BTF = torch.randn(512, 16, 3)
    order = torch.randperm(512)
    strangers = z_BTF.clone()
    strangers[:200] = 1e4 * torch.randn(200, 16, 3)
    with torch.no_grad():
        scores = fitted[name].surprise(z_BTF)
        moved = fitted[name].surprise(z_BTF[order])
        beside_strangers = fitted[name].surprise(strangers)
    assert torch.equal(moved, scores[order])
    assert torch.equal(beside_strangers[200:], scores[200:])


@pytest.mark.parametrize("size", [1, 3, 64, 511])
def test_errors_do_not_depend_on_the_batch_size(name: str, fitted: dict[str, Detector], size: int) -> None:
    """Matrix products of another shape add up in another order, so the last bits differ: a worker's is fixed."""
    z_BTF = torch.randn(512, 16, 3, generator=torch.Generator().manual_seed(0))
    z_BTF[:4] *= 1e4
    detector = fitted[name]
    with torch.no_grad():
        parts_BV = torch.cat([detector.errors(part_BTF) for part_BTF in torch.split(z_BTF, size)])
        torch.testing.assert_close(parts_BV, detector.errors(z_BTF), atol=1.5e-5, rtol=0)


def test_injected_anomalies_stand_out(name: str, fitted: dict[str, Detector]) -> None:
    detector = fitted[name]
    _, x_TF = waves(600, seed=5)
    x_TF[300] += 1.5
    x_TF[450:456, 1] = x_TF[450, 1]
    scaling = detector.scaling.for_series("s")
    assert scaling is not None
    z_BTF = torch.from_numpy(detector.scaling.apply(x_TF, *scaling)).unfold(0, 16, 1).transpose(1, 2)
    surprise_B, share_BF = detector.surprise(z_BTF), detector.explain(z_BTF).share_BF
    surprise_T = np.append(np.zeros(15), surprise_B.numpy())
    normal = np.delete(surprise_T, np.r_[295:330, 445:480])
    assert surprise_T[300] > normal.max()
    assert np.median(normal) < 10
    torch.testing.assert_close(share_BF.sum(dim=1), torch.ones(len(z_BTF)))


def test_scores_are_finite_whatever_comes(name: str, fitted: dict[str, Detector]) -> None:
    detector = fitted[name]
    tail = detector.calibration.of(0).online_tail(CPU, SERIES_PACE)
    tail.begin(np.array([0]), ["s"])
    for scale in (0.0, 1e30, -1e30):
        with torch.no_grad():
            surprise_B = detector.surprise(torch.full((512, 16, 3), scale))
        assert torch.isfinite(surprise_B).all()
        assert torch.isfinite(tail.score(np.zeros(512, np.int64), surprise_B)).all()
