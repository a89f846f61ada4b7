"""Model files: refused with one clear line when a byte is wrong, and readable for ever."""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.detector import Detector
from models.files import from_files, to_files
from models.manifest import MANIFEST, TENSORS, ModelFileError, manifest_hash
from models.mapping import DELAYS
from tests.streams import features_detector, series_detector, series_rows

FIXTURES = Path(__file__).parent.parent / "fixtures"


def kept(version: str) -> Detector:
    return from_files({path.name: path.read_bytes() for path in (FIXTURES / version / "model").iterdir()})


@pytest.mark.parametrize("architecture", ["vanilla", "views"])
@pytest.mark.parametrize("file", [MANIFEST, TENSORS])
def test_any_changed_byte_is_refused(file: str, architecture: str) -> None:
    files = to_files(series_detector(architecture))
    content = files[file]
    for place in range(0, len(content), max(len(content) // 60, 1)):
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with pytest.raises(ModelFileError, match="model m"):
            from_files({**files, file: damaged}, "model m")


@pytest.mark.parametrize(
    "written",
    [
        lambda manifest: json.dumps(manifest),
        lambda manifest: json.dumps(manifest, indent=1) + "\n",
        lambda manifest: json.dumps(manifest, indent=1).replace(" 0.05,", " 5e-2,"),
    ],
    ids=["one line", "a new line", "a number's spelling"],
)
def test_a_manifest_in_other_words_is_refused(written: Callable[[Any], str]) -> None:
    files = to_files(series_detector("views"))
    other = written(json.loads(files[MANIFEST])).encode()
    assert other != files[MANIFEST]
    with pytest.raises(
        ModelFileError, match=r"model m: manifest\.json is damaged, it says the same in other bytes"
    ):
        from_files({**files, MANIFEST: other}, "model m")


def test_a_model_says_by_which_libraries_it_was_made() -> None:
    libraries = json.loads(to_files(series_detector())[MANIFEST])["libraries"]
    assert libraries.keys() == {"torch", "numpy", "safetensors", "offkey"}
    assert libraries["offkey"] == version("offkey")


@pytest.mark.parametrize("file", [MANIFEST, TENSORS])
def test_a_missing_file_is_named(file: str) -> None:
    files = to_files(features_detector())
    del files[file]
    with pytest.raises(ModelFileError, match=f"{file} is missing"):
        from_files(files)


def test_a_newer_format_is_refused() -> None:
    files = to_files(series_detector())
    newer = files[MANIFEST].replace(b'"format_version": 2', b'"format_version": 3')
    with pytest.raises(ModelFileError, match=r"format offkey\.model 3 is not offkey\.model 1 to 2"):
        from_files({**files, MANIFEST: newer})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda view: [{**view, "architecture": "of a later version"}], id="architecture"),
        pytest.param(lambda view: [{**view, "inputs": "values"}], id="inputs"),
        pytest.param(lambda view: [{**view, "rank": 0.3}], id="another key"),
        pytest.param(lambda view: [view, view], id="two views"),
        pytest.param(lambda view: [], id="no view"),
    ],
)
def test_whole_files_that_ask_for_what_is_not_here_are_refused(change: Callable[[Any], list[Any]]) -> None:
    """Nothing is damaged, so no hash tells; scoring by a part of such a model would be wrong."""
    files = to_files(series_detector())
    manifest = json.loads(files[MANIFEST])
    manifest["views"] = change(manifest["views"][0])
    manifest["sha256"][MANIFEST] = manifest_hash(manifest)
    with pytest.raises(ModelFileError, match=r"^model m: .*it needs another version of offkey, or of the package"):
        from_files({**files, MANIFEST: json.dumps(manifest, indent=1).encode()}, "model m")


@pytest.mark.parametrize("hashes", [None, [], 3])
def test_a_manifest_without_hashes_is_damaged(hashes: object) -> None:
    files = to_files(series_detector())
    manifest = {**json.loads(files[MANIFEST]), "sha256": hashes}
    with pytest.raises(ModelFileError, match=r"manifest\.json is damaged"):
        from_files({**files, MANIFEST: json.dumps(manifest, indent=1).encode()})


def test_a_manifest_nested_too_deep_is_damaged() -> None:
    files = to_files(series_detector())
    with pytest.raises(ModelFileError, match=r"manifest\.json is damaged"):
        from_files({**files, MANIFEST: b"[" * 200_000})


def test_three_views_and_all_delays_come_back_with_equal_scores() -> None:
    detector = series_detector("views")
    back = from_files(to_files(detector))
    assert [view.config for view in back.views] == [view.config for view in detector.views]
    assert list(back.calibration.judgements) == [0, 2, 3, 4, 8, 16, 32, None]
    x_NF = series_rows(["a"], 200, 5, {"a": [50, 120]})[0]
    for name in ("a", "new"):
        before, after = (each.score_series(name, x_NF, [*DELAYS, 3]) for each in (detector, back))
        for delay in before:
            assert before[delay].tolist() == after[delay].tolist()
    for delay, judgement in detector.calibration.judgements.items():
        same = back.calibration.of(delay)
        assert same.cluster_points == judgement.cluster_points
        assert same.quantiles_of_series == judgement.quantiles_of_series
        assert torch.equal(same.reach.fading_VR, judgement.reach.fading_VR)
    for one, two in zip(back.views, detector.views, strict=True):
        assert torch.equal(one.band_F, two.band_F)


FIRST_FORMAT = {
    0.0: (10.0421, 0.1898, 0.1799),
    0.1: (6.3798, 0.1884, 0.1698),
    0.3: (80.4569, 0.2310, 0.1510),
    1.0: (288.1294, 0.6213, 0.2428),
    5.0: (564.2567, 4.2416, 1.1787),
    100.0: (1075.7168, 81.9574, 18.5797),
}
"""By the size of a spike in the newest row: surprise and expected values, as the code of the first format found."""


def test_the_first_format_scores_as_it_did() -> None:
    detector = kept("v1")
    assert detector.spec.features == ("cpu", "mem")
    time_T = torch.arange(8.0)
    waves = [
        torch.stack([0.5 + 0.5 * torch.sin(time_T / 8 + k), 0.5 + 0.5 * torch.cos(time_T / 8 + k)], dim=1)
        for k in range(len(FIRST_FORMAT))
    ]
    z_BTF = torch.stack(waves)
    z_BTF[:, -1] += torch.tensor(list(FIRST_FORMAT))[:, None]
    known = torch.tensor(list(FIRST_FORMAT.values()))
    torch.testing.assert_close(detector.surprise(z_BTF), known[:, 0], atol=0.01, rtol=0)
    torch.testing.assert_close(detector.explain(z_BTF).expected_BF, known[:, 1:], atol=1e-3, rtol=1e-5)


def test_the_second_format_can_still_be_read() -> None:
    detector = kept("v2")
    assert [view.config.window for view in detector.views] == [8, 6, 5]
    x_NF = series_rows(["a"], 100, 5, {"a": [50]})[0]
    for delay, score_N in detector.score_series("a", x_NF, [0, 3, None]).items():
        assert np.isfinite(score_N).all()
        assert score_N[50:53].min() > 2 * score_N[10:42].max(), delay


def test_a_denoising_model_of_the_first_format_keeps_its_narrow_code() -> None:
    """It was made narrower than the input by itself; the option in the manifest does not tell."""
    files = {path.name: path.read_bytes() for path in (FIXTURES / "v1" / "model").iterdir()}
    manifest = json.loads(files[MANIFEST])
    (view,) = manifest["views"]
    assert view["architecture"] == "vanilla"
    options = {**view["options"], "latent": 100, "swapped": 0.1, "noise": 0.1}
    manifest["views"] = [{**view, "architecture": "denoising", "options": options}]
    manifest["sha256"][MANIFEST] = manifest_hash(manifest)
    denoising = from_files({**files, MANIFEST: json.dumps(manifest, indent=1).encode()})
    z_BTF = torch.randn(4, 8, 2)
    with torch.no_grad():
        assert torch.equal(denoising.surprise(z_BTF), from_files(files).surprise(z_BTF))
