"""A topic's retained records -> a trained model version, promoted as the stream's champion without a comparison.

Records pass the same decoder as in the worker; what it would reject is left out and counted.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import torch

from models.dataset import TooFewRows
from models.detector import Detector
from models.files import to_files
from models.fitting import fit_detector
from models.manifest import TENSORS
from models.plan import DEFAULT, Plan, plan_of
from models.ranks import ALONE, Ranks
from models.resume import Unfinished
from models.spec import ImageShape, shortened
from pipeline.config import StreamSettings
from pipeline.errors import ConfigError, PromotionLost, SnapshotError
from pipeline.fields import MOST_VALUES, decoder_of, features_of, label_warning
from pipeline.history import Read, read_columns, read_rows
from pipeline.lanes import Support, support_of
from pipeline.logs import about
from pipeline.protocols import ModelVersion, PartitionRecords, Registry
from pipeline.snapshots import SnapshotRows, Snapshots, mismatch
from pipeline.versions.log import PromotionLog
from pipeline.versions.naming import name_of
from pipeline.versions.origin import ORIGIN, GateResult, Origin, to_file
from pipeline.versions.promoting import TRAIN, append

logger = logging.getLogger(__name__)

_SAMPLE_RECORDS = 1_000
_LEAST_RECORDS = 50


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training came to."""

    stream: str
    version: str
    records: int
    rejected: int
    late: int
    """Not later than an earlier record of their series, and left out."""
    series: int
    features: Sequence[str]
    architecture: str
    seconds: float
    support: Support
    """What its scores and the threshold rest on."""


def train_stream(
    name: str,
    settings: StreamSettings,
    history: Iterable[PartitionRecords],
    registry: Registry,
    *,
    now: Callable[[], datetime],
    device: torch.device,
    progress: Callable[[str, float], None],
    unfinished: Unfinished | None = None,
    by: str = "",
    ranks: Ranks = ALONE,
) -> Trained:
    """Train on the records of `history`, store the version and promote it.

    `progress` is called with the stream's name and the share of the training that is done; in `unfinished` the
    training is kept until its model is stored. `by` says in the log who promotes. `ranks` are those of
    `fit_detector`.

    Raises:
        ConfigError: no such architecture or option; said before anything is read.
        SnapshotError: too few usable records, or no number in them.
        PromotionLost: another promotion came first; the version is stored all the same.
    """
    started = now()
    names, read = read_history(name, settings, history)
    detector = fit_stream(
        name,
        settings,
        names,
        read,
        device=device,
        progress=lambda share: progress(name, share),
        unfinished=unfinished,
        ranks=ranks,
    )
    ended = now()
    seconds = (ended - started).total_seconds()
    champion = registry.log(name).champion
    origin = origin_of(TRAIN, settings, read, ended, seconds, champion.version if champion else None)
    version = publish(name, detector, registry, ended, origin, by=by)
    if unfinished:
        unfinished.clear()
    return Trained(
        name,
        version,
        read.records,
        read.rejected,
        read.late,
        len(read.columns),
        () if settings.image else names,
        detector.name,
        seconds,
        support_of(settings, detector),
    )


def read_history(
    name: str, settings: StreamSettings, history: Iterable[PartitionRecords]
) -> tuple[Sequence[str], Read]:
    """Return the features of a stream, and its records as columns.

    Raises:
        ConfigError: no such architecture or option; said before anything is read.
        SnapshotError: too few usable records, or no number in them.
    """
    if wrong := wrong_option(settings):
        raise ConfigError(f"streams.{name}.model: {wrong[1]}")
    arrived = iter(history)
    sample = _sample(arrived)
    names = settings.features or features_of(sample, settings)
    if odd := label_warning(names, settings):
        logger.warning("stream %s: %s; %s", name, *odd, extra=about(stream=name))
    read = read_columns(_chained(sample, arrived), decoder_of(settings, names))
    if read.records - read.rejected < _LEAST_RECORDS:
        raise SnapshotError(
            f"stream {name}: topic {settings.topic} holds {read.records - read.rejected} usable records of "
            f"{read.records}; training needs {_LEAST_RECORDS} at least: let more arrive, or see `offkey check` for "
            "what is rejected"
        )
    return names, _with_all(name, names, read)


def read_snapshots(
    name: str,
    settings: StreamSettings,
    snapshots: Snapshots,
    from_ms: int,
    to_ms: int,
) -> tuple[Sequence[str], Read]:
    """Return the features of a stream, and as columns what its snapshots hold of a range of Kafka timestamps.

    What they lack is said in the log, and left out.

    Raises:
        ConfigError: no such architecture or option; said before anything is read.
        SnapshotError: too few usable rows, or a file that is damaged, or of other features or another kind.
    """
    if wrong := wrong_option(settings):
        raise ConfigError(f"streams.{name}.model: {wrong[1]}")
    held = snapshots.schema(name)
    if other := mismatch(held, settings.kind, settings.image_shape):
        raise SnapshotError(f"stream {name}: {other}, or learn from the topic")
    names = settings.features or (held.features if held else ())
    rows = snapshots.read(name, from_ms, to_ms, lambda gap: logger.warning("%s", gap), names or None)
    read = read_rows(each for each in _fitting(name, rows, settings.image_shape) if len(each))
    if read.records < _LEAST_RECORDS:
        raise SnapshotError(
            f"stream {name}: its snapshots hold {read.records:,} rows of that time; training needs "
            f"{_LEAST_RECORDS} at least: run `offkey record` for longer, or ask for more time"
        )
    return names, _with_all(name, names, read)


def _fitting(name: str, rows: Iterable[SnapshotRows], image: ImageShape | None) -> Iterator[SnapshotRows]:
    """Pass rows on; of images no more than memory holds."""
    held, most = 0, 0 if image is None else max(1, MOST_VALUES // image.values)
    for each in rows:
        held += len(each)
        if image is not None and held > most:
            raise SnapshotError(
                f"stream {name}: its snapshots hold more than {most:,} images of that time, and of {image} "
                "no more are learned from; ask for less time, by `retrain.history` or --snapshots"
            )
        yield each


def _with_all(name: str, names: Sequence[str], read: Read) -> Read:
    """Return what was read, if it holds every feature."""
    if read.absent:
        absent = shortened([names[place] for place in read.absent])
        raise SnapshotError(f"stream {name}: no record has a value of: {absent}; take that out of `features`")
    return read


def fit_stream(
    name: str,
    settings: StreamSettings,
    names: Sequence[str],
    read: Read,
    *,
    device: torch.device,
    progress: Callable[[float], None],
    unfinished: Unfinished | None = None,
    begins_ms: Mapping[str, Sequence[int]] | None = None,
    ranks: Ranks = ALONE,
) -> Detector:
    """Train what a stream's settings ask for on its columns; `begins_ms` and `ranks` are those of `fit_detector`.

    Raises:
        SnapshotError: they hold too little to train on.
    """
    try:
        return fit_detector(
            settings.kind,
            names,
            plan_of_settings(settings, len(names)),
            read.columns,
            device=device,
            delays=[settings.alerts.delay],
            progress=progress,
            unfinished=unfinished,
            begins_ms=begins_ms,
            ranks=ranks,
            image=settings.image_shape,
        )
    except TooFewRows as error:
        raise SnapshotError(f"stream {name}: {_why_so_few(str(error), settings, read)}") from error
    except ValueError as error:
        raise SnapshotError(f"stream {name}: {error}") from error


def _why_so_few(said: str, settings: StreamSettings, read: Read) -> str:
    """Return what is lacking, and what to do where most records were late, or where windows can be set."""
    if 2 * read.late > read.records:
        return (
            f"{read.late:,} of {read.records:,} records are not later than an earlier one of their series and were "
            f"left out, so {said}; produce a series in the order of its time, or name the right field as `time`"
        )
    windows_are_set = settings.kind == "series" and (
        settings.model.architecture != DEFAULT or settings.model.views is not None
    )
    return f"{said}; let more arrive" + (" or set a shorter `window`" if windows_are_set else "")


def wrong_option(settings: StreamSettings) -> tuple[str, str] | None:
    """Return the key under `model` that is wrong, and why; None where none is."""
    options = settings.model.options
    # The other options are those of the network, so it is looked at first and stays beside each.
    network = {name: value for name, value in options.items() if name == "network"}
    tried: list[tuple[str, Mapping[str, Any]]] = [("views" if settings.model.views else "architecture", {})]
    tried += [(option, {**network, option: options[option]}) for option in [*network, *options]]
    for key, some in [*tried, ("architecture", options)]:
        try:
            plan_of_settings(settings, 2, some)
        except ValueError as error:
            return key, str(error)
    return None


def plan_of_settings(settings: StreamSettings, features: int, options: Mapping[str, Any] | None = None) -> Plan:
    """Return what a stream's settings ask for of a model for so many features; `options` in place of the model's.

    Raises:
        ValueError: no such architecture or option.
    """
    written = [view.model_dump(exclude_unset=True) for view in settings.model.views or ()]
    # Only of `fade` a null says something.
    views = [{key: value for key, value in view.items() if value is not None or key == "fade"} for view in written]
    options = settings.model.options if options is None else options
    return plan_of(settings.kind, features, settings.model.architecture, options, settings.window, views)


def origin_of(
    command: str,
    settings: StreamSettings,
    read: Read,
    at: datetime,
    seconds: float,
    parent: str | None,
    gate: GateResult | None = None,
) -> Origin:
    """Return what the pipeline knows of a version that was trained on these records."""
    return Origin(
        command,
        int(at.timestamp() * 1000),
        settings.topic,
        read.offsets,
        read.records,
        read.rejected,
        read.late,
        len(read.columns),
        round(seconds, 1),
        parent,
        gate,
    )


def publish(
    stream: str,
    detector: Detector,
    registry: Registry,
    at: datetime,
    origin: Origin | None = None,
    *,
    log: PromotionLog | None = None,
    reason: str = TRAIN,
    by: str = "",
) -> str:
    """Store a detector as a new version and promote it; return the version.

    `log` is the one on which that was decided; None: as it is now, whatever was promoted meanwhile.

    Raises:
        PromotionLost: another promotion came first; the text names the version, which is stored.
    """
    version = store(stream, detector, registry, at, origin)
    try:
        append(registry, stream, log or registry.log(stream), version, reason, int(at.timestamp() * 1000), by=by)
    except PromotionLost as error:
        raise PromotionLost(
            f"stream {stream}: version {version} is trained and stored, but someone else has promoted another one "
            f"meanwhile; if yours should serve: offkey models promote CONFIG {stream} {version}"
        ) from error
    return version


def store(stream: str, detector: Detector, registry: Registry, at: datetime, origin: Origin | None) -> str:
    """Store a detector as a new version, which does not serve by that; return the version."""
    files = to_files(detector)
    if origin is not None:
        files[ORIGIN] = to_file(origin)
    version = name_of(at, hashlib.sha256(files[TENSORS]).hexdigest()[:8])
    registry.add(ModelVersion(stream, version, files))
    return version


def _sample(arrived: Iterator[PartitionRecords]) -> list[PartitionRecords]:
    sample: list[PartitionRecords] = []
    while sum(len(records.records) for records in sample) < _SAMPLE_RECORDS:
        more = list(islice(arrived, 1))
        if not more:
            break
        sample += more
    return sample


def _chained(sample: Sequence[PartitionRecords], rest: Iterator[PartitionRecords]) -> Iterator[PartitionRecords]:
    yield from sample
    yield from rest
