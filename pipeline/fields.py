"""A stream's settings -> what its records are decoded by."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from models.spec import ImageShape, shortened
from pipeline.config import StreamSettings
from pipeline.errors import SnapshotError
from pipeline.formats.fields import Fields, Malformed, Path
from pipeline.formats.json import numbers_of
from pipeline.protocols import PartitionRecords
from pipeline.setting_types import split_path
from pipeline.stages.decode import Decoder, RowDecoder
from pipeline.stages.tables import TableDecoder

_LABEL_NAMES = {
    "label",
    "labels",
    "is_anomaly",
    "anomaly",
    "anomalous",
    "attack",
    "outlier",
    "target",
    "class",
    "y",
}


MOST_VALUES = 2**27
"""Of images to learn from: a byte each as they are read, four as they are learned from."""


def decoder_of(settings: StreamSettings, names: Sequence[str]) -> Decoder:
    """Return the decoder of a stream for these features.

    Raises:
        ConfigError: what the format needs is not installed.
    """
    if settings.image is not None:
        return _image_decoder(settings, settings.image.shape)
    fields = Fields(
        features=[split_path(name) for name in names],
        series=[split_path(path) for path in settings.series or ()],
        time=split_path(settings.time) if settings.time else None,
        time_is_text=settings.time_unit == "iso8601",
        optional_features=settings.missing == "hold",
    )
    rules: dict[str, Any] = {
        "stateless": settings.kind != "series",
        "time_unit": settings.time_unit,
        "max_ahead_ms": int(settings.max_ahead * 1000),
        "max_record_bytes": settings.max_record_bytes,
    }
    if settings.format == "arrow":
        from pipeline.formats.arrow import ArrowFormat

        return TableDecoder(fields, ArrowFormat(fields, settings.max_record_bytes), **rules)
    return RowDecoder(fields, **rules)


def _image_decoder(settings: StreamSettings, shape: ImageShape) -> Decoder:
    from pipeline.stages.images import ImageDecoder

    rules: dict[str, Any] = {"max_record_bytes": settings.max_record_bytes}
    if settings.format == "arrow":
        from pipeline.formats.arrow_tensors import TensorFormat

        return ImageDecoder(TensorFormat(shape, settings.max_record_bytes), shape.values, **rules)
    assert settings.format != "json"
    from pipeline.formats.png_jpeg import PngJpegFormat

    return ImageDecoder(PngJpegFormat(settings.format, shape), shape.values, **rules)


def features_of(sample: Sequence[PartitionRecords], settings: StreamSettings) -> list[str]:
    """Return every field that holds a number in all sampled records or rows, in the order of their first record.

    Of images it is the names of their pixels' values, without a look.

    Raises:
        SnapshotError: there is none.
    """
    if settings.image is not None:
        return list(settings.image.shape.names)
    taken = {split_path(path) for path in [*(settings.series or ()), *([settings.time] if settings.time else [])]}
    found: list[Path] | None = None
    unread = ""
    for record in (record for records in sample for record in records.records):
        try:
            numbers = _numbers_of(record.value or b"", settings)
        except Malformed as error:
            unread = unread or str(error)
            continue
        found = [path for path in (numbers if found is None else found) if path in numbers and path not in taken]
    if found is None and unread:
        raise SnapshotError(
            f"topic {settings.topic}: no sampled record can be read as {settings.format} ({unread}); mend "
            "the producer or the stream's `format`"
        )
    if not found:
        raise SnapshotError(
            f"topic {settings.topic}: no field holds a number in every sampled record; "
            "name the features in the stream's `features`"
        )
    return [".".join(part.replace("\\", "\\\\").replace(".", "\\.") for part in path) for path in found]


def records_of_rows(rows: int, settings: StreamSettings, newest: Iterable[PartitionRecords]) -> int:
    """Return how many records hold about so many rows, to judge by a topic's newest ones.

    Of images no more than memory holds of their values.
    """
    if settings.image is not None:
        rows = min(rows, max(1, MOST_VALUES // settings.image.shape.values))
    if settings.format != "arrow":
        return rows
    from pipeline.formats.arrow import ArrowFormat

    table = ArrowFormat(Fields(()), settings.max_record_bytes)
    counts = [table.count(record.value or b"") for records in newest for record in records.records]
    return max(1, rows * len(counts) // max(1, sum(counts)))


def _numbers_of(value: bytes, settings: StreamSettings) -> Collection[Path]:
    if settings.format == "arrow":
        from pipeline.formats.arrow import number_fields

        return number_fields(value, settings.max_record_bytes)
    return numbers_of(value)


def is_called_like_a_label(name: str) -> bool:
    """Tell whether this is a name that labels have."""
    return name.lower() in _LABEL_NAMES


def label_warning(names: Sequence[str], settings: StreamSettings) -> tuple[str, str] | None:
    """Return (what is odd, what to do) where a feature that nobody named is called like a label; else None.

    In training a label gives each anomaly away. Later nobody writes it, or it alerts by itself.
    """
    suspects = [] if settings.features else [name for name in names if is_called_like_a_label(split_path(name)[-1])]
    if not suspects:
        return None
    return (
        f"taken for features, but called like labels: {shortened(suspects)}",
        "name the fields to judge in the stream's `features`",
    )
