"""A series from which something was taken out is learned piece by piece: no window holds rows of both sides."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from models.dataset import Columns, TooFewRows, pieces_of
from models.detector import Detector
from models.files import from_files, to_files
from models.fitting import fit_detector
from models.online_tail import SERIES_PACE, quantiles
from models.plan import plan_of
from models.resume import Unfinished
from pipeline.connectors.storage import ObjectStorage
from tests.streams import BEGIN_MS, CPU, STEP_MS, series_rows

NAMES = ["a", "b"]
CUT_MS = BEGIN_MS + 400 * STEP_MS


def history(points: int = 800) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Series of which `a` goes on at another level after the cut: together they would look like a break."""
    x_STF = series_rows(NAMES, points, 1, {})
    x_STF[0, 400:] += 3
    return {name: (BEGIN_MS + STEP_MS * np.arange(points), x_TF) for name, x_TF in zip(NAMES, x_STF, strict=True)}


def fitted(columns: Columns, begins_ms: Mapping[str, Sequence[int]], architecture: str = "vanilla") -> Detector:
    options = {"latent": 4} if architecture != "vanilla" else {"hidden": 8, "max_epochs": 2}
    plan = plan_of("series", 2, architecture, options, 8 if architecture == "vanilla" else None)
    return fit_detector("series", ["cpu", "mem"], plan, columns, device=CPU, begins_ms=begins_ms)


def test_pieces_begin_at_these_moments() -> None:
    time_ms_T = np.array([10, 20, 30, 40, 50])
    assert pieces_of(time_ms_T, ()) == [slice(0, 5)]
    assert pieces_of(time_ms_T, [30]) == [slice(0, 2), slice(2, 5)]
    assert pieces_of(time_ms_T, [31, 35, 50, 10, 90]) == [slice(0, 3), slice(3, 4), slice(4, 5)]
    assert pieces_of(time_ms_T[:0], [30]) == []


@pytest.mark.parametrize("architecture", ["vanilla", "default"])
def test_no_window_holds_rows_of_both_sides(architecture: str) -> None:
    whole, cut = (fitted(history(), begins, architecture) for begins in ({}, {"a": [CUT_MS]}))
    # In a short history the default judges halves, each by the other one.
    lost = (cut.spec.window - 1) * (2 if architecture == "default" else 1)
    assert (whole.calibration.of(0).points, cut.calibration.of(0).points) == (1600 - 2 * lost, 1600 - 3 * lost)
    # Nor is the break a step that the series takes.
    steps = [float(detector.views[0].step_F.max()) for detector in (cut, whole)]
    assert steps[0] < 0.98 * steps[1]


def test_what_is_usual_is_that_of_each_whole_series() -> None:
    cut = fitted(history(), {"a": [CUT_MS]})
    judgement = cut.calibration.of(0)
    assert list(judgement.quantiles_of_series) == list(judgement.clusters_of_series) == NAMES
    lost = cut.spec.window - 1
    own_N = cut.score_series("b", history()["b"][1], (0,))[0][lost:]
    assert judgement.quantiles_of_series["b"] == pytest.approx(quantiles(own_N, SERIES_PACE), rel=1e-4)
    again = fitted(history(), {"a": [CUT_MS], "b": []})
    assert again.calibration.of(0).quantiles_of_series == judgement.quantiles_of_series
    assert to_files(from_files(to_files(cut))) == to_files(cut)


def test_without_cuts_all_is_as_before() -> None:
    none, outside = (fitted(history(), begins) for begins in ({}, {"a": [BEGIN_MS], "gone": [CUT_MS]}))
    weights = [torch.cat([p.flatten() for p in d.views[0].parameters()]) for d in (none, outside)]
    assert torch.equal(*weights)


def test_a_piece_shorter_than_a_window_teaches_nothing() -> None:
    columns = history()
    short = fitted(columns, {"a": [CUT_MS, CUT_MS + 3 * STEP_MS]})
    assert short.training["rows"] == 1600 - 3
    begins = [BEGIN_MS + STEP_MS * row for row in range(0, 800, 7)]
    with pytest.raises(TooFewRows):
        fitted({"a": columns["a"]}, {"a": begins})


def test_a_training_with_other_pieces_is_not_gone_on_with(tmp_path: object) -> None:
    storage, said = ObjectStorage(f"file://{tmp_path}"), list[str]()

    def interrupted(share: float) -> None:
        if share > 0.2:
            raise KeyboardInterrupt

    def train(begins_ms: Mapping[str, Sequence[int]], stop: bool) -> None:
        plan = plan_of("series", 2, "vanilla", {"hidden": 8, "max_epochs": 6}, 8)
        fit_detector(
            "series",
            ["cpu", "mem"],
            plan,
            history(),
            device=CPU,
            progress=interrupted if stop else lambda share: None,
            unfinished=Unfinished(storage, "unfinished", said.append, every_s=0),
            begins_ms=begins_ms,
        )

    with pytest.raises(KeyboardInterrupt):
        train({"a": [CUT_MS]}, stop=True)
    train({"b": [CUT_MS]}, stop=False)
    assert not any("goes on" in line for line in said)
