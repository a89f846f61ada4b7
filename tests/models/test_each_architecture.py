"""What is special to one architecture, measured."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from models import architectures
from models.architectures import Architecture, denoising, sparse, variational
from models.files import from_files, to_files
from models.manifest import MANIFEST, ModelFileError
from models.spec import ModelSpec
from models.views import View
from tests.plugins import CHOOSY, installed
from tests.streams import fit

CPU = torch.device("cpu")
SPEC = ModelSpec("series", ("a",), 16)


def trained(name: str, options: Mapping[str, float], x_T: np.ndarray) -> tuple[View, torch.Tensor]:
    """Return the view of a trained detector, and its training windows as the network sees them."""
    columns = {"s": (60_000 * np.arange(len(x_T)), x_T[:, None])}
    detector = fit(SPEC, name, {"max_epochs": 30, "batch_windows": 64, **options}, columns)
    scaling = detector.scaling.for_series("s")
    assert scaling is not None
    z_TF = torch.from_numpy(detector.scaling.apply(columns["s"][1], *scaling))
    view = detector.views[0].requires_grad_(False)
    return view, view.inputs(z_TF.unfold(0, SPEC.window, 1).transpose(1, 2))


def waves(points: int = 3000) -> np.ndarray:
    time_T = np.arange(points)
    random = np.random.default_rng(0)
    return np.sin(time_T / 5) + 0.5 * np.sin(time_T / 13) + random.normal(0, 0.05, points)


def test_the_penalty_makes_codes_sparse() -> None:
    """A unit counts as used in a window when what it writes there is visible."""
    used = {}
    for sparsity in (0.0, 0.05):
        view, x_BTC = trained("sparse", {"sparsity": sparsity}, waves())
        network = view.network
        assert isinstance(network, sparse.Autoencoder)
        written_BL = network.encode(x_BTC) * network.writes.weight.norm(dim=0)
        used[sparsity] = float((written_BL > 0.01 * written_BL.sum(dim=1, keepdim=True)).sum(dim=1).double().mean())
        error_BT = (network(x_BTC) - x_BTC)[..., 0].square()
        assert float(error_BT.mean()) < 0.05 * float(x_BTC[..., 0].var())
    assert used[0.05] < 0.5 * used[0.0]
    assert used[0.05] < 20


def test_damage_is_undone() -> None:
    """Trained on whole windows, the same network undoes less of it."""
    torch.manual_seed(0)
    errors = {}
    for name, options in (("denoising", {"latent": 16}), ("vanilla", {"latent": 16})):
        view, x_BTC = trained(name, options, waves())
        damage = denoising.Autoencoder((16,), 2, denoising.Autoencoder.Config())
        damaged_BTC = damage.damaged(x_BTC)
        assert 0.05 < float(((damaged_BTC - x_BTC).abs() > 0.6 * x_BTC.std()).double().mean()) < 0.2
        errors[name] = float((view.network(damaged_BTC) - x_BTC).square().mean())
    assert errors["denoising"] < 0.8 * errors["vanilla"]


def test_samples_look_like_the_data_and_codes_like_a_normal() -> None:
    view, x_BTC = trained("variational", {}, waves(6000))
    network = view.network
    assert isinstance(network, variational.Autoencoder)
    torch.manual_seed(0)
    new_BTC = network.sample(4000)
    assert new_BTC.shape[1:] == x_BTC.shape[1:]
    values, new = x_BTC[..., 0], new_BTC[..., 0]
    assert float(new.mean()) == pytest.approx(float(values.mean()), abs=0.2 * float(values.std()))
    assert float(new.std()) == pytest.approx(float(values.std()), rel=0.25)
    neighbours = [float(torch.corrcoef(part[:, 7:9].T)[0, 1]) for part in (values, new)]
    assert neighbours[1] == pytest.approx(neighbours[0], abs=0.15)
    codes_BL = network.encode(x_BTC)
    assert float(codes_BL.mean(dim=0).abs().max()) < 0.4
    assert float(codes_BL.std(dim=0).max()) < 1.3


def test_the_divergence_is_warmed_up() -> None:
    torch.manual_seed(0)
    network = variational.Autoencoder((16,), 2, variational.Autoencoder.Config())
    x_BTC = 5 * torch.randn(64, 16, 2)
    losses = []
    for done in (0.0, 1 / 6, 1 / 3, 1.0):
        torch.manual_seed(1)
        losses.append(network.loss(x_BTC, done).mean().item())
    assert losses[0] < losses[1] < losses[2] == losses[3]
    assert losses[1] - losses[0] == pytest.approx((losses[2] - losses[0]) / 2, rel=0.01)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (7, 13), (1, 1)])
@pytest.mark.parametrize("name", ["convolutional", "vanilla", "variational"])
def test_images_are_taken(name: str, shape: tuple[int, int]) -> None:
    network = architectures.build(name, shape, 3, architectures.configure(name, {}))
    x_BHWC = torch.randn(4, *shape, 3)
    assert network(x_BHWC).shape == x_BHWC.shape
    assert network.encode(x_BHWC).ndim == 2


def test_the_recurrent_one_refuses_images() -> None:
    with pytest.raises(ValueError, match="recurrent takes series; for images take `convolutional`"):
        architectures.build("recurrent", (8, 8), 1, architectures.configure("recurrent", {}))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="option 'kernel' is 4; it takes an odd number"):
        architectures.configure("convolutional", {"kernel": 4})


def test_another_distribution_adds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options may be truth values and texts; a saved model is built again from them."""
    columns = {"s": (60_000 * np.arange(3000), waves()[:, None])}
    with installed(tmp_path, monkeypatch, CHOOSY):
        assert "mine" in architectures.available()
        options = {"residual": True, "bend": "tanh", "latent": 3, "max_epochs": 2}
        detector = fit(SPEC, "mine", options, columns)
        assert isinstance(detector.views[0].network, Architecture)
        files = to_files(detector)
        manifest = json.loads(files[MANIFEST])
        (view,) = manifest["views"]
        assert manifest["libraries"]["added"] == "1.0"
        assert view["options"] == {"residual": True, "bend": "tanh", "side": "left", "latent": 3, "hidden": 64}
        x_NF = columns["s"][1][:200]
        again = from_files(files)
        assert again.score_series("s", x_NF)[0].tolist() == detector.score_series("s", x_NF)[0].tolist()
    with pytest.raises(ModelFileError, match=r"no architecture 'mine'.* or of the package that its architecture"):
        from_files(files)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"residual": 1}, "option 'residual' is 1; it takes true or false"),
        ({"residual": "yes"}, "option 'residual' is 'yes'; it takes true or false"),
        ({"bend": 3}, "option 'bend' is 3; it takes text: put quotes around it"),
        ({"side": "middle"}, "option 'side' is 'middle'; it takes one of: left, right"),
        ({"latent": True}, "option 'latent' is True; it takes a whole number of 1 or more"),
    ],
)
def test_an_option_is_of_its_defaults_type(
    options: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(tmp_path, monkeypatch, CHOOSY), pytest.raises(ValueError, match=said):
        architectures.configure("mine", options)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import no_such_library",
            r"architecture 'mine' of added 1\.0 cannot be loaded \(No module named 'no_such_library'\); install",
        ),
        (
            "Autoencoder = 3",
            r"of added 1\.0: added:Autoencoder is no subclass of models\.architectures\.Architecture",
        ),
        ("1 / 0", r"of added 1\.0 cannot be loaded \(division by zero\)"),
        ("", r"of added 1\.0 cannot be loaded \(module 'added' has no attribute 'Autoencoder'\)"),
        (
            CHOOSY.replace("bool = False", "None = None"),
            "architecture mine: the default of option 'residual' is no number, truth value or text",
        ),
    ],
)
def test_an_architecture_that_cannot_be_used_is_one_line(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(tmp_path, monkeypatch, code), pytest.raises(ValueError, match=said) as caught:
        architectures.configure("mine", {})
    assert "\n" not in str(caught.value)
