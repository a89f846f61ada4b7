"""The settings of a stream of images: its one size is said, and what says nothing there is refused at its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.spec import ImageShape
from pipeline.config import Settings, load_settings
from pipeline.errors import ConfigError

SIZE = {"height": 8, "width": 12, "channels": 3}


def loaded(folder: Path, **changes: Any) -> Settings:
    stream = {"topic": "frames", "kind": "images", "format": "png", "image": SIZE, **changes}
    path = folder / "offkey.yaml"
    path.write_text(json.dumps({"streams": {"camera": {k: v for k, v in stream.items() if v is not None}}}))
    return load_settings(path)


@pytest.mark.parametrize("kind", ["png", "jpeg", "arrow"])
def test_a_size_is_said(kind: str, tmp_path: Path) -> None:
    stream = loaded(tmp_path, format=kind).streams["camera"]
    assert stream.image is not None
    assert stream.image.shape == ImageShape(8, 12, 3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image": None}, "camera.kind: images have one size; write it, such as `image: {height: 480"),
        ({"format": None}, "camera.format: `kind: images` takes png, jpeg or arrow; write one of them"),
        ({"format": "json"}, "camera.format: `kind: images` takes png, jpeg or arrow; write one of them"),
        ({"format": "gif"}, "camera.format is 'gif'; it takes 'json', 'arrow', 'png' or 'jpeg'"),
        ({"kind": "features"}, "camera.image: it needs `kind: images`"),
        ({"kind": "series", "image": None}, "camera.format: `png` needs `kind: images`"),
        ({"image": {**SIZE, "channels": 2}}, "camera.image.channels is 2; it takes 1, 3 or 4"),
        ({"image": {**SIZE, "height": 2}}, "camera.image.height is 2; it takes 4 or more"),
        ({"image": {"height": 8, "channels": 1}}, "camera.image.width is missing; add it"),
        (
            {"image": {"height": 4096, "width": 4096, "channels": 1}},
            "camera.image: 4096 x 4096 pixels of 1 channel are 16,777,216 values, and 262,144 is the most",
        ),
        ({"format": "jpeg", "image": {**SIZE, "channels": 4}}, "camera.image.channels: a JPEG has 1 or 3 channels"),
        ({"features": ["a"]}, "camera.features: an image has no fields, its pixels are judged; leave it out"),
        ({"time": "ts"}, "camera.time: an image has no fields, its time is the record's Kafka timestamp"),
        ({"series": ["host"]}, "camera.series: it needs `kind: series`: images belong to no series"),
        ({"max_series": 5}, "camera.max_series: it needs `kind: series`: images belong to no series"),
        ({"missing": "hold"}, "camera.missing: `hold` needs `kind: series`: an image has no last value"),
        ({"alerts": {"delay": 3}}, "camera.alerts.delay: it needs `kind: series`: after an image comes no other"),
        ({"alerts": {"silence": 3}}, "camera.alerts.silence: it needs `kind: series`: images have no interval"),
        ({"model": {"views": [{"window": 8}]}}, "camera.model.views: it needs `kind: series`: images are judged"),
        ({"window": 8}, "camera.window: it belongs to a single architecture of a series"),
    ],
)
def test_what_says_nothing_of_images_is_refused(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, **changes)
    assert f"offkey.yaml:1: streams.{text}" in str(caught.value)
    assert "\n" not in str(caught.value)
