"""Small streams, trained in a second, and everything a worker needs to run them in memory."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from prometheus_client import REGISTRY

from models.arrays import FloatArray
from models.dataset import Columns
from models.detector import Detector
from models.files import from_files, to_files
from models.fitting import fit_detector
from models.plan import plan_of
from models.spec import ModelSpec
from pipeline.adoptions import Adoption
from pipeline.config import StreamSettings
from pipeline.connectors.memory import (
    MemoryAdoptions,
    MemoryBroker,
    MemoryCheckpoints,
    MemoryPublisher,
    MemorySource,
    MemoryTransactions,
)
from pipeline.delivery import AtLeastOnce
from pipeline.errors import RegistryError
from pipeline.lanes import build_model, lane_around
from pipeline.part_memory import Arrays
from pipeline.protocols import Checkpoint, Delivery, TopicPartition
from pipeline.stream import Lane
from pipeline.stream_model import StreamModel
from pipeline.worker import Worker, WorkerOptions

CPU = torch.device("cpu")
SERIES = StreamSettings.model_validate(
    {
        "topic": "metrics",
        "time": "ts",
        "features": ["cpu", "mem"],
        "window": 8,
        "model": {"architecture": "vanilla"},
        "alerts": {"budget": "1 per day"},
    }
)
FEATURES = StreamSettings.model_validate(
    {
        "topic": "payments",
        "kind": "features",
        "features": ["a", "b", "c"],
        "model": {"architecture": "vanilla"},
        "alerts": {"budget": "1 per 1000 records"},
    }
)
VIEWS = (
    {"window": 8, "inputs": "values", "judged": 8, "power": 4.0, "fade": 0.05},
    {"window": 6, "inputs": "centred", "judged": 6, "measure": "whole", "fade": 0.1},
    {"window": 5},
)
"""Three small views, each of another kind."""
BEGIN_MS = 1_700_000_000_000
STEP_MS = 60_000
HISTORY = 600


def series_rows(
    names: Sequence[str], points: int, seed: int, spikes: Mapping[str, Sequence[int]], noise: float = 0.1
) -> FloatArray:
    """Return values [series, point, feature] of noisy daily cycles, with spikes where asked for."""
    random = np.random.default_rng(seed)
    time = np.arange(points)[None, :, None] / 50 + np.arange(len(names))[:, None, None]
    values: FloatArray = np.sin(time + np.array([0.0, 1.0])) + noise * random.standard_normal(
        (len(names), points, 2)
    )
    for name, where in spikes.items():
        for point in where:
            values[names.index(name), point : point + 3] += 6
    return values


def fit(spec: ModelSpec, architecture: str, options: Mapping[str, Any], columns: Columns, **how: Any) -> Detector:
    """Train on the CPU what a configuration of this architecture asks for."""
    plan = plan_of(spec.kind, len(spec.features), architecture, options, spec.window)
    return fit_detector(spec.kind, spec.features, plan, columns, device=CPU, **how)


_LITTLE: Any = {"hidden": 16, "max_epochs": 3, "batch_windows": 256, "learning_rate": 2e-3}
"""Learned so little, a network does not make a shifted level its own."""


@cache
def series_detector(architecture: str = "vanilla") -> Detector:
    """A detector for `SERIES`, trained on the series a, b and c; `views` are those of `VIEWS`."""
    names = ["a", "b", "c"]
    values = series_rows(names, HISTORY, 1, {})
    time_ms = BEGIN_MS + STEP_MS * np.arange(HISTORY)
    columns = {name: (time_ms, values[i]) for i, name in enumerate(names)}
    spec = ModelSpec("series", ("cpu", "mem"), 8)
    if architecture == "views":
        plan = plan_of("series", 2, "default", {"latent": 4}, views=VIEWS)
        return fit_detector("series", spec.features, plan, columns, device=CPU, delays=[3])
    options = {"latent": 4} if architecture in ("linear", "default") else _LITTLE
    return fit(spec, architecture, options, columns, delays=[3])


@cache
def retrained_detector() -> Detector:
    """Another one for `SERIES`, as of a time when `a` and `b` were larger; of `c` it knows nothing."""
    names = ["a", "b", "new"]
    values = series_rows(names, HISTORY, 5, {}) * np.array([3.0, 0.5]) + np.array([1.0, 0.0])
    time_ms = BEGIN_MS + STEP_MS * np.arange(HISTORY)
    columns = {name: (time_ms, values[i]) for i, name in enumerate(names)}
    return fit(ModelSpec("series", ("cpu", "mem"), 8), "vanilla", {**_LITTLE, "seed": 7}, columns, delays=[3])


VERSIONS: Mapping[str, Callable[[], Detector]] = {"v1": series_detector, "v2": retrained_detector}
"""Models that may follow one another while a stream runs."""


@cache
def features_detector() -> Detector:
    """A detector for `FEATURES`, trained on correlated normal rows."""
    rows = feature_rows(2000, 1)
    spec = ModelSpec("features", ("a", "b", "c"), 1)
    columns = {"": (BEGIN_MS + 1000 * np.arange(len(rows)), rows)}
    return fit(spec, "vanilla", _LITTLE, columns)


def feature_rows(count: int, seed: int, strange: Sequence[int] = ()) -> FloatArray:
    rows = np.random.default_rng(seed).multivariate_normal(
        [0, 5, 10], np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]]), size=count
    )
    rows[list(strange)] += [8, -8, 8]
    return rows


Payload = tuple[bytes | None, bytes | None]
"""Key and value of a record."""


def series_payloads(points: int = 200, seed: int = 2) -> list[Payload]:
    """Records of the series a, b, c and of one that training did not see, interleaved, with spikes."""
    return [*_series_payloads(points, seed)]


@cache
def _series_payloads(points: int, seed: int) -> Sequence[Payload]:
    names = ["a", "b", "c", "new"]
    return payloads_of(names, series_rows(names, points, seed, {"a": [60, 140], "b": [100], "new": [150]}))


def payloads_of(names: Sequence[str], values: FloatArray) -> list[Payload]:
    """Records of these rows [series, points, 2], interleaved, a step after the history of training each."""
    return [
        (
            name.encode(),
            json.dumps(
                {
                    "ts": BEGIN_MS + STEP_MS * (HISTORY + point),
                    "cpu": values[i, point, 0],
                    "mem": values[i, point, 1],
                }
            ).encode(),
        )
        for point in range(values.shape[1])
        for i, name in enumerate(names)
    ]


def feature_payloads(count: int = 400, seed: int = 3) -> list[Payload]:
    return [*_feature_payloads(count, seed)]


@cache
def _feature_payloads(count: int, seed: int) -> Sequence[Payload]:
    rows = feature_rows(count, seed, strange=[50, 51, 300])
    return [(None, json.dumps(dict(zip("abc", row.tolist(), strict=True))).encode()) for row in rows]


def bench_options(**options: Any) -> WorkerOptions:
    """Options of a worker that sees at once what became of a checkpoint, so that each run is the same."""
    return WorkerOptions("alerts", "dead", **{"poll_timeout_s": 0, "checkpoint_wait_s": 30, **options})


def arrays_of(checkpoint: Checkpoint) -> Arrays:
    """Return the arrays of a checkpoint that is one part."""
    (arrays,) = checkpoint.parts()
    return arrays


def state_of(checkpoint: Checkpoint, **options: Any) -> Arrays:
    """Return a checkpoint's state as a new worker restores it, for comparison; `options` are those of `lanes`."""
    (pipeline,) = (lane.pipeline for lane in lanes(**options) if lane.name == checkpoint.stream)
    pipeline.restore(checkpoint.partition, checkpoint.parts())
    return pipeline.snapshot(checkpoint.partition)


@dataclass
class Bench:
    """A broker with both streams' topics, and workers on it."""

    partitions: int = 2
    metrics: str = "metrics"
    payments: str = "payments"
    """Names of the input topics; alert ids depend on them."""
    exactly_once: bool = False
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    checkpoints: MemoryCheckpoints = field(default_factory=MemoryCheckpoints)
    adoptions: MemoryAdoptions = field(default_factory=MemoryAdoptions)
    options: WorkerOptions = field(default_factory=lambda: bench_options())

    def __post_init__(self) -> None:
        for topic, partitions in ((self.metrics, self.partitions), (self.payments, 1), ("alerts", 1), ("dead", 1)):
            self.broker.create_topic(topic, partitions)

    def fill(self, series: Sequence[Payload], features: Sequence[Payload] = ()) -> None:
        """Append records, keyed to partitions as a producer would."""
        for key, value in series:
            partition = sum(key or b"") % self.partitions
            self.broker.append(self.metrics, value, key=key, partition=partition, timestamp=BEGIN_MS + 10**9)
        for _, value in features:
            self.broker.append(self.payments, value, timestamp=BEGIN_MS)

    def worker(
        self,
        wrap: Callable[[Any], Any] = lambda part: part,
        *,
        max_poll_records: int = 97,
        around: Callable[[Lane], Lane] = lambda lane: lane,
        **options: Any,
    ) -> Worker:
        """Return a new worker; `wrap` may put something around each of what it talks to, `around` around a stream's
        stages."""
        source = MemorySource(self.broker, [self.metrics, self.payments], max_poll_records)
        names = {"metrics": self.metrics, "payments": self.payments}
        renamed = [around(replace(lane, topic=names[lane.topic])) for lane in lanes(**options)]
        wrapped = wrap(source)
        delivery: Delivery
        if self.exactly_once:
            delivery = MemoryTransactions(self.broker, source, "bench")
        else:
            delivery = AtLeastOnce(wrap(MemoryPublisher(self.broker)), wrapped)
        return Worker(renamed, wrapped, wrap(delivery), wrap(self.checkpoints), wrap(self.adoptions), self.options)

    def adopted(self, place: TopicPartition, stream: str = "machines") -> Sequence[Adoption]:
        """Return a partition's log of adoptions."""
        return self.adoptions.since(stream, place, self.broker.topic_id(place.topic), 0).entries

    def alerts(self) -> list[dict[str, Any]]:
        """Return the published alerts' bodies with their ids, in order."""
        return [
            {"id": dict(record.headers)["ce_id"].decode(), **json.loads(record.value or b"")}
            for record in self.broker.records("alerts")
        ]


_files = cache(to_files)
"""Of a detector, which never changes: many workers are made of few."""


def lanes(
    series: StreamSettings = SERIES,
    architecture: str = "vanilla",
    version: str = "v1",
    others: Mapping[str, Callable[[], Detector]] = MappingProxyType({}),
) -> list[Lane]:
    """Fresh stages of both streams, as a new process would build them; `others`: all versions that machines has."""
    own = others[version]() if version in others else series_detector(architecture)
    detectors = {"machines": own, "payments": features_detector()}
    settings = {"machines": series, "payments": FEATURES}

    def load(other: str) -> StreamModel:
        if other not in others:
            raise RegistryError(f"model machines {other}: there is no such version")
        return build_model(series, from_files(_files(others[other]())), other, CPU)

    built = []
    for name, detector in detectors.items():
        model = build_model(settings[name], from_files(_files(detector)), version, CPU)
        built.append(lane_around(name, settings[name], model, load=load if name == "machines" else None))
    return built


def counted(name: str, **labels: str) -> float:
    """Return what a metric has counted so far, of the stream of series unless `labels` names another."""
    return REGISTRY.get_sample_value(name, {"stream": "machines", **labels}) or 0.0


def drain(worker: Worker) -> None:
    """Step until nothing is left."""
    idle = 0
    while idle < 3:
        idle = idle + 1 if worker.step() == 0 else 0


def batches(payloads: Sequence[Payload], size: int) -> Iterator[Sequence[Payload]]:
    for low in range(0, len(payloads), size):
        yield payloads[low : low + size]
