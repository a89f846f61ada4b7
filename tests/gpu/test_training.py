"""Training on the GPU, in mixed precision."""

import numpy as np
import pytest
import torch

from models import architectures
from models.files import from_files, to_files
from models.fitting import fit_detector
from models.plan import plan_of
from tests.streams import series_rows

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
NAMES = [name for name in architectures.available() if name != "linear"]


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_learns_as_well(name: str) -> None:
    """It is what `auto` means there; weights stay float32, and the model serves on the CPU."""
    x_NF, held_out, files = series_rows(["a"], 1500, 1, {})[0], {}, {}
    for mixed in ("auto", "never", "always"):
        plan = plan_of("series", 2, name, {"max_epochs": 4, "mixed_precision": mixed}, 16)
        columns = {"a": (60_000 * np.arange(len(x_NF)), x_NF)}
        detector = fit_detector("series", ["cpu", "mem"], plan, columns, device=GPU)
        assert {tensor.dtype for tensor in detector.views[0].network.state_dict().values()} == {torch.float32}
        held_out[mixed] = detector.training["views"][0]["held_out_loss"]
        files[mixed] = to_files(detector)
    assert held_out["auto"] == pytest.approx(held_out["always"], rel=0.05)
    assert held_out["auto"] != held_out["never"]
    assert held_out["auto"] == pytest.approx(held_out["never"], rel=0.2)
    there = from_files(files["auto"]).to(GPU).score_series("a", x_NF)[0]
    here = from_files(files["auto"]).score_series("a", x_NF)[0]
    assert there == pytest.approx(here, abs=1e-3, rel=1e-4)
