"""Configuration and the registry's champion -> a stream's stages, ready to run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.calibration import alert_threshold
from models.detector import Detector
from models.files import from_files
from models.golden import check_golden
from models.manifest import ModelFileError
from models.spec import Kind, shortened
from pipeline.alert_settings import AlertSettings
from pipeline.budgets import parse_budget
from pipeline.config import StreamSettings
from pipeline.errors import ConfigError, RegistryError
from pipeline.fields import decoder_of
from pipeline.protocols import ModelVersion, Registry
from pipeline.setting_types import split_path
from pipeline.stages.bounds import Bounds
from pipeline.stages.decode import Decoder, split_series_name
from pipeline.stages.muting import Maintenance, StormLimit
from pipeline.stages.scoring import Scorer
from pipeline.stages.thresholds import OfBudget
from pipeline.stream import Lane, StreamPipeline, StreamPlan
from pipeline.stream_features import FeaturesPipeline
from pipeline.stream_model import ModelSlot, StreamModel
from pipeline.stream_series import SeriesPipeline
from pipeline.versions.log import Promotion


def choose_device(name: str) -> torch.device:
    """Return the device of a `device` setting.

    Raises:
        ConfigError: cuda is asked for and not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("device: cuda is asked for, but torch finds no GPU; set `device: cpu` or `auto`")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def champion_of(stream: str, registry: Registry) -> Promotion:
    """Return the entry by which a stream's champion serves.

    Raises:
        RegistryError: there is none, or it is damaged.
    """
    champion = registry.champion(stream)
    if champion is None:
        raise RegistryError(f"stream {stream}: there is no model yet; train one with: offkey train CONFIG {stream}")
    return champion


def load_champion(stream: str, settings: StreamSettings, registry: Registry) -> tuple[Detector, str]:
    """Return the detector that serves a stream, and its version.

    Raises:
        RegistryError: there is none, or it is damaged.
        ConfigError: it was made for other features than the configuration names.
    """
    version = champion_of(stream, registry).version
    return read_version(registry.load(stream, version), settings), version


def read_version(model: ModelVersion, settings: StreamSettings) -> Detector:
    """Return the detector of a version, once it is found whole and made for what the configuration says.

    Raises:
        RegistryError: it is damaged.
        ConfigError: it was made for other features than the configuration names.
    """
    stream, version = model.stream, model.version
    try:
        detector = from_files(model.files, f"model {stream} {version}")
    except ModelFileError as error:
        raise RegistryError(str(error)) from error
    spec = detector.spec
    window = settings.window or spec.window
    named = settings.features if settings.image is None else settings.image.shape.names
    asked = tuple(named or spec.features)
    if (spec.kind, spec.features, spec.window) != (settings.kind, asked, window):
        made, said = (spec.kind, spec.features, spec.window), (settings.kind, asked, window)
        raise ConfigError(
            f"stream {stream}: model {version} was made for {_input(*made, others=asked)}, the configuration says "
            f"{_input(*said, others=spec.features)}; train again with: offkey train CONFIG {stream}"
        )
    try:
        detector.calibration.of(settings.alerts.delay)
    except ValueError as error:
        raise ConfigError(
            f"stream {stream}: alerts.delay: {error}; train again with: offkey train CONFIG {stream}"
        ) from error
    return detector


def _input(kind: Kind, features: Sequence[str], window: int, others: Sequence[str]) -> str:
    """Say for a message what a model sees; features that others lack stand first, for the list may be long."""
    if kind == "images":
        # The last name is that of the value at the bottom right.
        return f"images of {len(features):,} values, up to {features[-1]}"
    known = set(others)
    told = shortened(sorted(features, key=lambda name: name in known))
    return f"{kind} of {told} in windows of {window}"


def load_model(
    stream: str, settings: StreamSettings, registry: Registry, device: torch.device, version: str
) -> StreamModel:
    """Return a version on its device, once it has scored there as it did where it was made.

    Raises:
        RegistryError: it is missing, damaged, or scores otherwise here.
        ConfigError: it was made for something else than the configuration says.
        TransientError: storage does not answer.
    """
    detector = read_version(registry.load(stream, version), settings).to(device)
    try:
        check_golden(detector, f"model {stream} {version}")
    except ModelFileError as error:
        raise RegistryError(str(error)) from error
    return build_model(settings, detector, version, device)


def build_model(
    settings: StreamSettings,
    detector: Detector,
    version: str,
    device: torch.device,
    thresholds: OfBudget | None = None,
) -> StreamModel:
    """Put a detector and what judges its scores together; a GPU's kernels and graphs are ready then.

    `thresholds` stand in the place of those that follow from the budget.
    """
    scorer = Scorer(detector.to(device), device, settings.alerts.delay)
    return StreamModel(version, detector, scorer, thresholds or _thresholds(settings, detector))


def build_lane(
    stream: str,
    settings: StreamSettings,
    detector: Detector,
    version: str,
    device: torch.device,
    partitions: int = 1,
    thresholds: OfBudget | None = None,
) -> Lane:
    """Put a stream's stages together around a detector; no other version will be found."""
    return lane_around(stream, settings, build_model(settings, detector, version, device, thresholds), partitions)


def lane_around(
    stream: str,
    settings: StreamSettings,
    model: StreamModel,
    partitions: int = 1,
    load: Callable[[str], StreamModel] | None = None,
    decoder: Decoder | None = None,
) -> Lane:
    """Put a stream's stages together around a model; its topic's partitions share the stream's budget.

    `load` gets its other versions; `decoder` stands in the place of the one that the stream's format asks for.
    """
    kind = SeriesPipeline if settings.kind == "series" else FeaturesPipeline

    def stages(model: StreamModel) -> tuple[StreamPipeline, StreamPlan]:
        plan = _plan(stream, settings, model, partitions, decoder)
        return kind(plan, model, model.detector.device), plan

    pipeline, plan = stages(model)
    slot = ModelSlot(model, load)
    return Lane(
        stream, settings.topic, pipeline, slot, lambda model: stages(model)[0], settings.start, plan.decoder.split
    )


def _plan(
    stream: str, settings: StreamSettings, model: StreamModel, partitions: int, decoder: Decoder | None
) -> StreamPlan:
    alerts = settings.alerts
    return StreamPlan(
        name=stream,
        decoder=decoder or decoder_of(settings, model.detector.spec.features),
        budget=parse_budget(alerts.budget),
        series_in_budget=series_in_budget(alerts, partitions),
        fields_of=_fields_of(settings),
        quiet_points=alerts.quiet_points,
        hysteresis=alerts.hysteresis,
        merge_points=alerts.merge_points,
        repeat_after_ms=None if alerts.repeat_after is None else 1000 * alerts.repeat_after,
        storm=None if alerts.storm is None else StormLimit(alerts.storm, 1000 * alerts.storm_within),
        maintenance=[Maintenance(each.series, each.from_ms, each.to_ms) for each in alerts.maintenance],
        silence_intervals=alerts.silence,
        accept_after_ms=None if alerts.accept_after is None else 1000 * alerts.accept_after,
        hold_points=settings.hold_points if settings.missing == "hold" else 0,
        bounds=Bounds(
            settings.max_series, None if settings.series_ttl is None else int(1000 * settings.series_ttl)
        ),
    )


@dataclass(frozen=True, slots=True)
class Support:
    """How far a model's scores rest on its training points, and the threshold that is asked of them.

    Scores are those of a series that is as strange as its stream on the whole.
    """

    points: int | None
    """Training points behind the tail; None where an older model does not say."""
    extrapolated_above: float
    threshold: float

    def __str__(self) -> str:
        """Say it in one line."""
        known = "" if self.points is None else f"{self.points:,} training points; "
        return (
            f"{known}scores above {_rare(self.extrapolated_above)} are extrapolated; "
            f"the threshold for the budget is {_rare(self.threshold)}"
        )


_RARELY = 150.0


def support_of(settings: StreamSettings, detector: Detector) -> Support:
    """Return what a stream's alerts rest on, for its budget and delay."""
    judgement, interval_ms = detector.calibration.of(settings.alerts.delay), detector.calibration.interval_ms
    budget = parse_budget(settings.alerts.budget)
    # Of no series of training: the threshold of the stream.
    points = np.array([float(budget.points_per_incident(interval_ms))])
    threshold = alert_threshold(points, judgement.cluster_points)
    return Support(judgement.points, round(judgement.extrapolated_above, 3), round(float(threshold[0]), 3))


def _rare(score: float) -> str:
    # Beyond, it says no more than that such a point is never seen, and soon leaves the numbers.
    return f"{score:.1f} (one in {10 ** (score / 10):,.0f} points)" if score <= _RARELY else f"{score:.1f}"


def _thresholds(settings: StreamSettings, detector: Detector) -> OfBudget:
    budget = parse_budget(settings.alerts.budget)
    judgement = detector.calibration.of(settings.alerts.delay)
    return lambda names, interval_ms, halvings: judgement.thresholds(
        names, budget.points_per_incident(interval_ms) * 2.0**halvings
    )


def series_in_budget(alerts: AlertSettings, partitions: int) -> float | None:
    """Return how many series' budgets are a partition's share of the stream's; None: it has none."""
    if alerts.stream_budget is None:
        return None
    whole, each = parse_budget(alerts.stream_budget), parse_budget(alerts.budget)
    assert whole.per_s is not None
    assert each.per_s is not None
    return (whole.incidents / whole.per_s) / (each.incidents / each.per_s) / partitions


def _fields_of(settings: StreamSettings) -> Callable[[str], dict[str, str]]:
    if not settings.series:
        return lambda name: {"key": name}
    names = [".".join(split_path(path)) for path in settings.series]
    return lambda name: dict(zip(names, split_series_name(name, len(names)), strict=True))
