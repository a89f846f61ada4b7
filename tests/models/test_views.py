"""What explains a score: how far from the expected value is usual, and where in a window the error is largest."""

from functools import cache

import numpy as np
import pytest
import torch

from models.detector import Detector
from models.fitting import fit_detector
from models.plan import plan_of
from models.scaling import Scaling
from models.views import View
from tests.streams import BEGIN_MS, CPU, STEP_MS, series_rows

ROWS = 3000
VALUES = series_rows(["a"], ROWS, 4, {})[0]


@cache
def default_detector() -> Detector:
    columns = {"a": (BEGIN_MS + STEP_MS * np.arange(ROWS), VALUES)}
    return fit_detector("series", ("cpu", "mem"), plan_of("series", 2, "default", {}), columns, device=CPU)


def scaled(values_NF: np.ndarray) -> torch.Tensor:
    """Return the windows of a series that end in its rows, but for the first ones."""
    pair = default_detector().scaling.for_series("a")
    assert pair is not None
    return torch.from_numpy(Scaling.apply(values_NF, *pair)).unfold(0, 50, 1).transpose(1, 2)


def view_of(inputs: str) -> View:
    return next(view for view in default_detector().views if view.config.inputs == inputs)


@pytest.mark.parametrize("inputs", ["values", "centred", "values and differences"])
def test_ninety_nine_of_a_hundred_training_points_lie_in_the_band(inputs: str) -> None:
    view, z_BTF = view_of(inputs), scaled(VALUES)
    with torch.no_grad():
        reading = view.explain(z_BTF)
    inside_BF = (z_BTF[:, -1] - reading.expected_BF).abs() <= view.band_F
    assert inside_BF.double().mean(dim=0).tolist() == pytest.approx([0.99, 0.99], abs=0.002)


@pytest.mark.parametrize("inputs", ["values", "centred"])
@pytest.mark.parametrize("back", [0, 1, 7, 30, 49])
def test_the_row_of_a_spike_is_named(inputs: str, back: int) -> None:
    values_NF = VALUES[1000:1050].copy()
    values_NF[-1 - back] += 6
    with torch.no_grad():
        assert view_of(inputs).explain(scaled(values_NF)).back_B.tolist() == [back]


@pytest.mark.parametrize("back", [0, 1, 2])
def test_a_view_names_judged_rows_only(back: int) -> None:
    values_NF = VALUES[1000:1050].copy()
    values_NF[-1 - back] += 6
    view = view_of("values and differences")
    with torch.no_grad():
        assert view.explain(scaled(values_NF)).back_B.tolist()[0] < view.config.judged


def test_a_spike_is_told_with_its_row_and_feature() -> None:
    values_NF = VALUES[1000:1050].copy()
    values_NF[-1, 1] += 6
    why = default_detector().explain(scaled(values_NF))
    assert why.back_B.tolist() == [0]
    assert float(why.share_BF[0, 1]) > 0.5
    torch.testing.assert_close(why.share_BF.sum(dim=1), torch.ones(1))


def test_later_rows_change_no_causal_score() -> None:
    changed_NF = VALUES[:400].copy()
    changed_NF[300:] += 10
    detector = default_detector()
    before, after = (detector.score_series("a", each, [0, 2, None]) for each in (VALUES[:400], changed_NF))
    for delay, reach in ((0, 0), (2, 2), (None, 49)):
        assert np.array_equal(before[delay][: 300 - reach], after[delay][: 300 - reach])
        assert (before[delay][300 - reach : 300] != after[delay][300 - reach : 300]).all()


def test_memory_keeps_a_score_up_after_a_spike() -> None:
    values_NF = VALUES[:400].copy()
    values_NF[300] += 6
    score_N = default_detector().score_series("a", values_NF, [0])[0]
    assert score_N[300:304].min() > 2 * score_N[100:300].max()
