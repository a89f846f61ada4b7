"""A topic's retained records -> a trained model version, promoted as the stream's champion.

Records pass the same decoder as in the worker; what it would reject is left out and counted. Late records and
points with a missing feature are left out too.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import numpy as np
import torch

from models.detector import Detector, fit_detector
from models.spec import ModelSpec
from pipeline.config import StreamSettings, split_path
from pipeline.errors import SnapshotError
from pipeline.formats.json import Fields, Malformed, Path, numbers_of
from pipeline.protocols import ModelVersion, PartitionRecords, Promotion, Registry
from pipeline.stages.decode import Decoder
from pipeline.stages.series import FloatArray, IntArray

logger = logging.getLogger(__name__)

_SAMPLE_RECORDS = 1_000
_LEAST_RECORDS = 50

Columns = Mapping[str, tuple[IntArray, FloatArray]]


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training came to."""

    stream: str
    version: str
    records: int
    rejected: int
    series: int
    features: Sequence[str]
    architecture: str
    seconds: float


def train_stream(
    name: str,
    settings: StreamSettings,
    history: Iterable[PartitionRecords],
    registry: Registry,
    *,
    now: Callable[[], datetime],
    device: torch.device,
    progress: Callable[[str, float], None],
) -> Trained:
    """Train on the records of `history`, store the version and promote it.

    `progress` is called with the stream's name and the share of the training that is done.

    Raises:
        SnapshotError: too few usable records, or no number in them.
        RegistryError: another promotion came first.
    """
    started = now()
    arrived = iter(history)
    sample = _sample(arrived)
    names = settings.features or features_of(sample, settings)
    columns, read, rejected = columns_of(_chained(sample, arrived), decoder_of(settings, names))
    if read - rejected < _LEAST_RECORDS:
        raise SnapshotError(
            f"stream {name}: topic {settings.topic} holds {read - rejected} usable records of {read}; training "
            f"needs {_LEAST_RECORDS} at least: let more arrive, or see `offkey check` for what is rejected"
        )
    spec = ModelSpec(settings.kind, tuple(names), settings.window if settings.kind == "series" else 1)
    architecture, options = settings.model.architecture, settings.model.options
    try:
        detector = fit_detector(
            spec, architecture, options, columns, device=device, progress=lambda share: progress(name, share)
        )
    except ValueError as error:
        raise SnapshotError(f"stream {name}: {error}") from error
    version = publish(name, detector, registry, now())
    seconds = (now() - started).total_seconds()
    return Trained(name, version, read, rejected, len(columns), names, architecture, seconds)


def publish(stream: str, detector: Detector, registry: Registry, at: datetime) -> str:
    """Store a detector as a new version and promote it; return the version."""
    files = detector.to_files()
    version = f"{at.astimezone(UTC):%Y%m%dT%H%M%S}-{detector.fingerprint}"
    registry.add(ModelVersion(stream, version, files))
    number = max((promotion.number for promotion in registry.promotions(stream)), default=0) + 1
    registry.promote(stream, Promotion(number, version, int(at.timestamp() * 1000), "offkey train"))
    return version


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
        max_ahead_ms=int(settings.max_ahead_s * 1000),
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


def columns_of(history: Iterable[PartitionRecords], decoder: Decoder) -> tuple[Columns, int, int]:
    """Return (columns of each series, records read, records rejected)."""
    parts: dict[str, list[tuple[IntArray, FloatArray]]] = {}
    read = rejected = 0
    for records in history:
        batch, rejects = decoder.decode(records)
        read, rejected = read + len(records.records), rejected + len(rejects)
        whole_N = ~np.isnan(batch.values_NF).any(axis=1)
        codes_N = np.unique(np.array(batch.series, object), return_inverse=True) if len(batch) else ([], [])
        for code, series in enumerate(codes_N[0]):
            rows = np.flatnonzero((codes_N[1] == code) & whole_N)
            parts.setdefault(series, []).append((batch.time_ms_N[rows], batch.values_NF[rows]))
    columns = {}
    for series, chunks in parts.items():
        time_ms_T = np.concatenate([chunk[0] for chunk in chunks])
        values_TF = np.concatenate([chunk[1] for chunk in chunks])
        if series:
            newest_T = np.maximum.accumulate(time_ms_T)
            on_time_T = np.append(True, time_ms_T[1:] > newest_T[:-1])
            time_ms_T, values_TF = time_ms_T[on_time_T], values_TF[on_time_T]
        columns[series] = (time_ms_T, values_TF)
    return columns, read, rejected


def _sample(arrived: Iterator[PartitionRecords]) -> list[PartitionRecords]:
    sample: list[PartitionRecords] = []
    while sum(len(records.records) for records in sample) < _SAMPLE_RECORDS:
        more = list(islice(arrived, 1))
        if not more:
            break
        sample += more
    return sample


def _chained(
    sample: Sequence[PartitionRecords], rest: Iterator[PartitionRecords]
) -> Iterator[PartitionRecords]:
    yield from sample
    yield from rest
