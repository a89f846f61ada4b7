"""Model files: refused with one clear line when a byte is wrong, and readable for ever."""

import json
from pathlib import Path

import pytest
import torch

from models.files import MANIFEST, TENSORS, ModelFileError, from_files, to_files
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
    newer = files[MANIFEST].replace(b'"format_version": 1', b'"format_version": 2')
    with pytest.raises(ModelFileError, match=r"format offkey\.model 2 is not offkey\.model 1"):
        from_files({**files, MANIFEST: newer})


def test_the_first_format_can_still_be_read() -> None:
    detector = from_files({path.name: path.read_bytes() for path in KEPT.iterdir()})
    assert detector.spec.features == ("cpu", "mem")
    with torch.no_grad():
        scores = detector.score(torch.zeros(4, 8, 2))
    assert torch.isfinite(scores.surprise_B).all()
