"""Model files: refused with one clear line when a byte is wrong, and readable for ever."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.files import MANIFEST, TENSORS, ModelFileError, _manifest_hash, from_files, to_files
from tests.streams import features_detector, series_detector

KEPT = Path(__file__).parent.parent / "fixtures" / "v1" / "model"


@pytest.mark.parametrize("file", [MANIFEST, TENSORS])
def test_any_changed_byte_is_refused(file: str) -> None:
    files = to_files(series_detector())
    content = files[file]
    for place in range(0, len(content), max(len(content) // 60, 1)):
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        if file == MANIFEST and same_json(damaged, content):
            continue
        with pytest.raises(ModelFileError, match="model m"):
            from_files({**files, file: damaged}, "model m")


def same_json(one: bytes, two: bytes) -> bool:
    """White space and the spelling of a number may change without a change of meaning."""
    try:
        return bool(json.loads(one) == json.loads(two))
    except ValueError:
        return False


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
    manifest["sha256"][MANIFEST] = _manifest_hash(manifest)
    with pytest.raises(ModelFileError, match=r"^model m: .*it needs another version of offkey$"):
        from_files({**files, MANIFEST: json.dumps(manifest).encode()}, "model m")


@pytest.mark.parametrize("hashes", [None, [], 3])
def test_a_manifest_without_hashes_is_damaged(hashes: object) -> None:
    files = to_files(series_detector())
    manifest = {**json.loads(files[MANIFEST]), "sha256": hashes}
    with pytest.raises(ModelFileError, match=r"manifest\.json is damaged"):
        from_files({**files, MANIFEST: json.dumps(manifest).encode()})


def test_a_manifest_nested_too_deep_is_damaged() -> None:
    files = to_files(series_detector())
    with pytest.raises(ModelFileError, match=r"manifest\.json is damaged"):
        from_files({**files, MANIFEST: b"[" * 200_000})


def test_the_first_format_can_still_be_read() -> None:
    detector = from_files({path.name: path.read_bytes() for path in KEPT.iterdir()})
    assert detector.spec.features == ("cpu", "mem")
    with torch.no_grad():
        scores = detector.surprise(torch.zeros(4, 8, 2))
    assert torch.isfinite(scores).all()


def test_a_denoising_model_of_the_first_format_keeps_its_narrow_code() -> None:
    """It was made narrower than the input by itself; the option in the manifest does not tell."""
    files = {path.name: path.read_bytes() for path in KEPT.iterdir()}
    manifest = json.loads(files[MANIFEST])
    (view,) = manifest["views"]
    assert view["architecture"] == "vanilla"
    options = {**view["options"], "latent": 100, "swapped": 0.1, "noise": 0.1}
    manifest["views"] = [{**view, "architecture": "denoising", "options": options}]
    manifest["sha256"][MANIFEST] = _manifest_hash(manifest)
    denoising = from_files({**files, MANIFEST: json.dumps(manifest).encode()})
    z_BTF = torch.randn(4, 8, 2)
    with torch.no_grad():
        assert torch.equal(denoising.surprise(z_BTF), from_files(files).surprise(z_BTF))
