"""The golden batch: the same everywhere, and it tells a model from one that reads otherwise."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.detector import Detector
from models.files import from_files, to_files
from models.golden import check_golden, golden_windows
from models.manifest import MANIFEST, TENSORS, ModelFileError, seal
from models.spec import ModelSpec
from tests.streams import features_detector, series_detector


@pytest.mark.parametrize("made", [series_detector, lambda: series_detector("views"), features_detector])
def test_a_model_that_is_read_back_reads_it_as_before(made: Callable[[], Detector]) -> None:
    detector = from_files(to_files(made()))
    assert detector.golden_BV is not None
    assert detector.golden_BV.shape == (8, len(detector.views))
    check_golden(detector, "model")


def test_windows_of_a_batch_differ_and_are_the_same_each_time() -> None:
    spec = ModelSpec("series", ("a", "b"), 16)
    z_BTF = golden_windows(spec)
    assert z_BTF.shape == (8, 16, 2)
    assert torch.equal(z_BTF, golden_windows(spec))
    assert len(np.unique(z_BTF.reshape(8, -1).numpy(), axis=0)) == 8
    assert float(z_BTF.abs().max()) < 5
    np.testing.assert_allclose(float(z_BTF[2, 3, 1]), 2 * np.sin(0.37 * 3 * 3 + 1.7), rtol=1e-6)


@pytest.mark.parametrize(("factor", "refused"), [(1.0, False), (1.0 + 1e-6, False), (1.02, True), (np.nan, True)])
def test_other_weights_are_told_from_rounding(factor: float, refused: bool) -> None:
    detector = from_files(to_files(series_detector()))
    for parameter in detector.views[0].parameters():
        parameter.data.mul_(factor)
    if refused:
        with pytest.raises(ModelFileError, match=r"reads its golden batch otherwise|are no numbers"):
            check_golden(detector, "model")
    else:
        check_golden(detector, "model")


def test_a_model_of_before_there_was_one_has_only_to_give_numbers() -> None:
    files = to_files(series_detector())
    said = json.loads(files[MANIFEST])
    del said["golden"], said["sha256"]
    detector = from_files({**files, MANIFEST: seal(said, files[TENSORS])})
    assert detector.golden_BV is None
    check_golden(detector, "model")
    next(iter(detector.views[0].parameters())).data.fill_(float("inf"))
    with pytest.raises(ModelFileError, match="are no numbers"):
        check_golden(detector, "model")
