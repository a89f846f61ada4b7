"""A stream's settings -> what its records are decoded by."""

from collections.abc import Sequence

from models.spec import shortened
from pipeline.config import StreamSettings
from pipeline.errors import SnapshotError
from pipeline.formats.json import Fields, Malformed, Path, numbers_of
from pipeline.protocols import PartitionRecords
from pipeline.setting_types import split_path
from pipeline.stages.decode import Decoder

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


def decoder_of(settings: StreamSettings, names: Sequence[str]) -> Decoder:
    """Return the decoder of a stream for these features."""
    fields = Fields(
        features=[split_path(name) for name in names],
        series=[split_path(path) for path in settings.series or ()],
        time=split_path(settings.time) if settings.time else None,
        time_is_text=settings.time_unit == "iso8601",
        optional_features=settings.missing == "hold",
    )
    return Decoder(
        fields,
        stateless=settings.kind == "features",
        time_unit=settings.time_unit,
        max_ahead_ms=int(settings.max_ahead * 1000),
        max_record_bytes=settings.max_record_bytes,
    )


def features_of(sample: Sequence[PartitionRecords], settings: StreamSettings) -> list[str]:
    """Return every field that holds a number in all sampled objects, in the order of their first record.

    Raises:
        SnapshotError: there is none.
    """
    taken = {split_path(path) for path in [*(settings.series or ()), *([settings.time] if settings.time else [])]}
    found: list[Path] | None = None
    for record in (record for records in sample for record in records.records):
        try:
            numbers = numbers_of(record.value or b"")
        except Malformed:
            continue
        found = [path for path in (numbers if found is None else found) if path in numbers and path not in taken]
    if not found:
        raise SnapshotError(
            f"topic {settings.topic}: no field holds a number in every sampled record; "
            "name the features in the stream's `features`"
        )
    return [".".join(part.replace("\\", "\\\\").replace(".", "\\.") for part in path) for path in found]


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
