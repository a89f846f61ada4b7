"""What the keys of a stream have to do with its `kind`: which of them say nothing there, and the size of images."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from models.spec import MOST_PIXEL_VALUES, ImageShape
from pipeline.alert_settings import OF_SERIES
from pipeline.mistakes import mistake_at
from pipeline.setting_types import Section, no_truth

if TYPE_CHECKING:
    from pipeline.config import StreamSettings

_RECORDS = {"features": "records of features", "images": "images"}
_RECORD = {"features": "a record of features", "images": "an image"}
_IMAGE_FILES = ("png", "jpeg")
Side = Annotated[int, Field(ge=4, le=4096), BeforeValidator(no_truth)]


class ImageSettings(Section):
    """The one size of a stream's images; any other makes a record a dead letter, nothing is resized."""

    height: Side
    """Rows of pixels."""
    width: Side
    """Pixels of a row."""
    channels: Annotated[Literal[1, 3, 4], BeforeValidator(no_truth)]
    """1: grey. 3: red, green, blue. 4: alpha, too."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.shape.values > MOST_PIXEL_VALUES:
            raise mistake_at(
                (),
                f"{self.shape} are {self.shape.values:,} values, and {MOST_PIXEL_VALUES:,} is the most; have the "
                "producer scale images down, or cut them into tiles",
            )
        return self

    @property
    def shape(self) -> ImageShape:
        return ImageShape(self.height, self.width, self.channels)


def check_kind(stream: "StreamSettings") -> None:
    """Refuse keys that say nothing of a stream of this kind, by a mistake at the key."""
    if stream.kind != "images":
        if stream.image is not None:
            raise mistake_at(("image",), "it needs `kind: images`")
        if stream.format in _IMAGE_FILES:
            raise mistake_at(("format",), f"`{stream.format}` needs `kind: images`")
    if stream.kind != "series":
        _check_stateless(stream)
    if stream.kind == "images":
        _check_images(stream)


def _check_stateless(stream: "StreamSettings") -> None:
    records, record = _RECORDS[stream.kind], _RECORD[stream.kind]
    if stream.missing == "hold":
        raise mistake_at(("missing",), f"`hold` needs `kind: series`: {record} has no last value")
    for key in ("series", "max_series", "series_ttl"):
        if key in stream.model_fields_set and (key != "series" or stream.series is not None):
            raise mistake_at((key,), f"it needs `kind: series`: {records} belong to no series")
    if stream.alerts.delay:
        raise mistake_at(("alerts", "delay"), f"it needs `kind: series`: after {record} comes no other")
    for key, why in OF_SERIES.items():
        if key in stream.alerts.model_fields_set and getattr(stream.alerts, key) is not None:
            raise mistake_at(("alerts", key), f"it needs `kind: series`: {records} {why}")
    if stream.model.views:
        raise mistake_at(("model", "views"), f"it needs `kind: series`: {records} are judged by one view")


def _check_images(stream: "StreamSettings") -> None:
    if stream.format == "json":
        raise mistake_at(("format",), "`kind: images` takes png, jpeg or arrow; write one of them")
    if stream.image is None:
        raise mistake_at(
            ("kind",), "images have one size; write it, such as `image: {height: 480, width: 640, channels: 1}`"
        )
    if stream.format == "jpeg" and stream.image.channels == 4:
        raise mistake_at(("image", "channels"), "a JPEG has 1 or 3 channels; write one of them")
    for key in ("features", "time", "time_unit"):
        if key in stream.model_fields_set and getattr(stream, key) is not None:
            what = "its pixels are judged" if key == "features" else "its time is the record's Kafka timestamp"
            raise mistake_at((key,), f"an image has no fields, {what}; leave it out")
