"""`offkey plan`: what so many series will take, before the worker is started.

No broker is asked and nothing is written. What can be measured is measured on this machine, with the stream's own
model or, before there is one, with one of the same kind that learns made-up records: see `sizing_measured`. How
often the worker's loop turns at the rate that is asked about is told in `sizing_turns`.

What is expected of alerts is what the budget allows: incidents on normal data, for each series as many as its
threshold means. Where a budget is so generous that its threshold would lie below the lowest there is, that counts.
"""

import dataclasses
import math
import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from models.detector import Detector, Judgement
from models.files import to_files
from models.fitting import fit_detector
from pipeline.budgets import parse_budget
from pipeline.config import Settings, StreamSettings
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import ConfigError, OffkeyError, TransientError
from pipeline.jobs.sizing_measured import Machine, Measured, Surroundings, Work, measure
from pipeline.jobs.sizing_records import ROWS_OF_ARROW, MadeUp
from pipeline.jobs.sizing_turns import CLIENT, Turn, client_share_of, most_points_per_s, turn_of
from pipeline.kafka_settings import KafkaSettings
from pipeline.lanes import choose_device, load_champion, series_in_budget
from pipeline.stages.thresholds import halvings_of
from pipeline.train import plan_of_settings, wrong_option

SHORTEST_S, LONGEST_S = 0.001, 30 * 86_400.0
_DAY_S = 86_400.0
_TRAINED_SERIES, _TRAINED_POINTS, _TRAINING_S = 8, 600, 5.0
_NAME_WIDTH, _LEAST_NAME_WIDTH = 12, 6
"""Of series' names; all that are made up are equally long."""
_RECORD_BYTES = 400
"""Of the client's object for a record in memory, beside key and value: see `connectors.poll_size`."""
_ANSWERS = 2
"""Answers of a broker that may be in memory beside a poll, each of `fetch_max_bytes`."""


@dataclass(frozen=True)
class Asked:
    """What is asked of each stream."""

    series: int
    """For records that belong to no series: how many sources there are."""
    interval_s: float
    """Between two points of a series, or two records of a source."""
    streams: Sequence[str]

    @property
    def per_s(self) -> float:
        return self.series / self.interval_s


@dataclass(frozen=True)
class OfStream:
    """What one stream takes; bytes, and seconds where it says so."""

    stream: str
    model: str
    """Which one it was measured with."""
    series: int
    """That are held."""
    incidents_a_day: float
    """False ones that are expected on normal data."""
    alerts_a_day: float
    """Messages that these make."""
    bytes_per_series: float
    memory_bytes: float
    """All its series together."""
    checkpoint_bytes: float
    """One that holds all."""
    cpu_share: float
    """Of one core, the client's part left out."""
    gpu_bytes: float | None
    remarks: Sequence[str]


@dataclass(frozen=True)
class Sized:
    """What one worker process takes."""

    asked: Asked
    streams: Sequence[OfStream]
    base_bytes: float
    """The process with its models and without series."""
    working_bytes: float
    """What the loop and the Kafka client hold beside, once there was a backlog."""
    unpacking_s: float
    """See `Machine`."""
    memory_bytes: float
    """Process and series, between two checkpoints."""
    most_memory_bytes: float
    """The same while a checkpoint is written and series fill their first window, with the largest polls."""
    checkpoint_bytes: float
    cpu_share: float
    client_share: float
    """Of it the part that was not measured here."""
    gpu_bytes: float | None
    incidents_a_day: float
    alerts_a_day: float
    points_per_s: float
    turn: Turn
    most_points_per_s: float
    """That one core takes, in the largest polls."""
    remarks: Sequence[str]


def size(settings: Settings, asked: Asked, say: Callable[[str], None] = lambda text: None) -> Sized:
    """Measure, and reckon what so many series take; `say` is told what is done.

    Raises:
        ConfigError: a number is out of range, or the configuration names no features before there is a model.
        RegistryError: the model is damaged.
        TransientError: the process that measures was ended from outside.
    """
    check_asked(asked)
    if not Path("/proc/self/clear_refs").exists():
        raise ConfigError("what a process holds in memory is read from /proc, which is not here; plan on Linux")
    registry = _registry(settings)
    detectors: dict[str, Detector] = {}
    told: dict[str, str] = {}
    for name in asked.streams:
        stream = settings.streams[name]
        if stream.image is not None:
            raise ConfigError(
                f"stream {name}: it is of `kind: images`, whose records cannot be made up to measure with; run a "
                "worker on the topic and watch offkey_lag_records, and name the other streams with --stream"
            )
        if registry is not None and registry.champion(name) is not None:
            detectors[name], version = load_champion(name, stream, registry)
            told[name] = f"{detectors[name].name}, version {version}"
        else:
            detectors[name] = _trained(name, settings, asked, say)
            told[name] = f"{detectors[name].name}, trained on made-up records: there is no model yet"
    works = [
        Work(
            name,
            settings.streams[name],
            to_files(detector),
            _held(settings.streams[name], asked),
            asked.interval_s,
            _name_width(detector),
        )
        for name, detector in detectors.items()
    ]
    say("measuring in a process of its own, for some seconds")
    kafka = settings.kafka
    around = Surroundings(settings.device, kafka.max_poll_records, settings.worker.checkpoint_every)
    machine, measured = _measured(works, around)
    return reckon(settings, asked, detectors, told, machine, dict(zip(asked.streams, measured, strict=True)))


def reckon(
    settings: Settings,
    asked: Asked,
    detectors: Mapping[str, Detector],
    told: Mapping[str, str],
    machine: Machine,
    measured: Mapping[str, Measured],
) -> Sized:
    """Return what follows from what was measured; see `size`."""
    kafka, every_s = settings.kafka, settings.worker.checkpoint_every
    slower = machine.unpacking_s / CLIENT.unpacking_s
    turn = turn_of([measured[name] for name in asked.streams], asked.per_s, kafka, slower)
    each_points = turn.points / len(asked.streams)
    streams = []
    for name in asked.streams:
        stream, found = settings.streams[name], measured[name]
        held = _held(stream, asked) if stream.kind == "series" else 0
        incidents = incidents_a_day(stream, detectors[name], asked)
        share = found.turn_s(each_points, turn.rested) / turn.seconds + found.checkpoint_s.of(held) / every_s
        streams.append(
            OfStream(
                stream=name,
                model=told[name],
                series=held,
                incidents_a_day=incidents,
                alerts_a_day=incidents * (2 if stream.kind == "series" else 1),
                bytes_per_series=found.memory.each,
                memory_bytes=found.memory.of(held),
                checkpoint_bytes=found.checkpoint.of(held),
                cpu_share=share,
                gpu_bytes=None if found.gpu is None else found.gpu.of(held),
                remarks=_remarks(stream, asked),
            )
        )
    client_share = client_share_of(turn, kafka, slower)
    # Streams are worked on one behind the other.
    working = max(found.working_bytes for found in measured.values()) + CLIENT.memory_bytes
    memory = machine.base_bytes + working + sum(each.memory_bytes for each in streams)
    point_bytes = float(np.mean([found.point_bytes for found in measured.values()]))
    poll_bytes = min(kafka.max_poll_bytes, kafka.max_poll_records * (_RECORD_BYTES + point_bytes))
    # Partitions are written one after the other, so at most one stream's checkpoint is being written.
    written = max(
        found.checkpoint_memory.of(each.series) for each, found in zip(streams, measured.values(), strict=True)
    )
    warming = max(found.warming_bytes for found in measured.values())
    on_gpu = [each.gpu_bytes for each in streams if each.gpu_bytes is not None]
    return Sized(
        asked=asked,
        streams=streams,
        base_bytes=machine.base_bytes,
        working_bytes=working,
        unpacking_s=machine.unpacking_s,
        memory_bytes=memory,
        most_memory_bytes=memory + written + warming + poll_bytes + _ANSWERS * kafka.fetch_max_bytes,
        checkpoint_bytes=sum(each.checkpoint_bytes for each in streams),
        cpu_share=sum(each.cpu_share for each in streams) + client_share,
        client_share=client_share,
        gpu_bytes=None if machine.gpu_base_bytes is None else machine.gpu_base_bytes + sum(on_gpu),
        incidents_a_day=sum(each.incidents_a_day for each in streams),
        alerts_a_day=sum(each.alerts_a_day for each in streams),
        points_per_s=asked.per_s * len(asked.streams),
        turn=turn,
        most_points_per_s=most_points_per_s([measured[name] for name in asked.streams], slower),
        remarks=_remarks_on_all(kafka),
    )


def check_asked(asked: Asked) -> None:
    """Refuse numbers that say nothing."""
    if asked.series < 1:
        raise ConfigError(f"--series {asked.series}: how many there are, 1 or more")
    if not SHORTEST_S <= asked.interval_s <= LONGEST_S:
        raise ConfigError(
            f"--interval {asked.interval_s:g}: seconds between two points of a series, from {SHORTEST_S:g} to "
            f"{LONGEST_S:.0f} (30 days); event times are whole milliseconds"
        )


def incidents_a_day(stream: StreamSettings, detector: Detector, asked: Asked) -> float:
    """Return how many false incidents are expected of normal data in a day, in the whole stream."""
    budget, held = parse_budget(stream.alerts.budget), _held(stream, asked)
    # A threshold of records follows from their rate in training, whatever comes later.
    interval_ms = detector.calibration.interval_ms if stream.kind == "features" else 1000 * asked.interval_s
    bound = series_in_budget(stream.alerts, 1)
    halvings = 0 if bound is None else int(halvings_of(np.array([held]), bound)[0])
    wanted = float(budget.points_per_incident(interval_ms)) * 2.0**halvings
    return held / asked.interval_s * _DAY_S / points_meant(detector.calibration.of(stream.alerts.delay), wanted)


def points_meant(judgement: Judgement, wanted: float) -> float:
    """Return the points of a series for each false incident at the threshold that so many have.

    They are those wanted, or where the lowest threshold stands for fewer, those that it means.
    """

    def threshold(points: float) -> float:
        return float(judgement.thresholds(["not in training"], np.array([points]))[0])

    lowest, low, high = threshold(wanted), wanted, 2 * wanted
    if threshold(1.0001 * wanted) > lowest:
        return wanted
    while threshold(high) <= lowest:
        low, high = high, 2 * high
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if threshold(middle) <= lowest else (low, middle)
    return low


def _held(stream: StreamSettings, asked: Asked) -> int:
    return min(asked.series, stream.max_series) if stream.kind == "series" else asked.series


def _remarks(stream: StreamSettings, asked: Asked) -> list[str]:
    found = []
    if stream.kind == "features":
        found.append(
            f"records belong to no series: --series says how many sources there are, each with one every "
            f"{asked.interval_s:g} s"
        )
    elif asked.series > stream.max_series:
        found.append(
            f"max_series is {stream.max_series:,}: of {asked.series:,} series no more are held, and others are "
            "forgotten before they are warm; raise it"
        )
    if stream.kind == "series" and stream.series_ttl is not None and stream.series_ttl < 2 * asked.interval_s:
        found.append(f"series_ttl is {stream.series_ttl:g} s: series leave between two of their points; raise it")
    if stream.format == "arrow":
        found.append(
            f"records are taken to hold {ROWS_OF_ARROW:,} rows each, or one where their key names the series"
        )
    return found


def _remarks_on_all(kafka: KafkaSettings) -> list[str]:
    if kafka.delivery == "at_least_once":
        return []
    return ["kafka.delivery is exactly_once: what its transactions take of the processor is not in it"]


def _registry(settings: Settings) -> StoredRegistry | None:
    """Return the registry; None where its folder is not there, for opening it would make one."""
    url = settings.storage
    if url.startswith("file://") and not Path(url.removeprefix("file://")).is_dir():
        return None
    return StoredRegistry(ObjectStorage(url))


def _trained(name: str, settings: Settings, asked: Asked, say: Callable[[str], None]) -> Detector:
    """Train what the configuration names on made-up records, quickly: only its size and its speed count."""
    stream = settings.streams[name]
    if stream.features is None:
        place = settings.place_of("streams", name)
        raise ConfigError(
            f"{place}: stream {name} names no features, and there is no model that knows them; name them in "
            f"streams.{name}.features, or train first with: offkey train CONFIG {name}"
        )
    if wrong := wrong_option(stream):
        place = settings.place_of("streams", name, "model", wrong[0])
        raise ConfigError(f"{place}: streams.{name}.model: {wrong[1]}")
    say(f"{name}: there is no model yet; one of its kind learns made-up records")
    made = MadeUp(stream, stream.features, 1000 * asked.interval_s, asked.series, _NAME_WIDTH)
    plan = plan_of_settings(stream, len(stream.features))
    quick = dataclasses.replace(plan.training, max_epochs=1, max_seconds=_TRAINING_S)
    return fit_detector(
        stream.kind,
        stream.features,
        dataclasses.replace(plan, training=quick),
        made.columns(_TRAINED_SERIES, max(_TRAINED_POINTS, 4 * plan.window)),
        device=choose_device(settings.device),
        delays=[stream.alerts.delay],
    )


def _name_width(detector: Detector) -> int:
    """Return how long names of series are, by those that the model knows."""
    known = list(detector.calibration.interval_of_series)
    lengths = [len(name) for name in known if name]
    return max(round(float(np.mean(lengths))), _LEAST_NAME_WIDTH) if lengths else _NAME_WIDTH


def _measured(works: Sequence[Work], around: Surroundings) -> tuple[Machine, list[Measured]]:
    """Measure in a process of its own: what this one has trained with would be taken for a worker's."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_measure_and_send, args=(theirs, works, around), daemon=True)
    child.start()
    theirs.close()
    try:
        found: tuple[Machine, list[Measured]] | OffkeyError = ours.recv()
    except EOFError as error:
        child.join()
        raise TransientError(
            f"the process that measures ended without an answer (status {child.exitcode}), perhaps for want of "
            "memory; ask for fewer series, or when the machine is less busy"
        ) from error
    finally:
        # Whoever stops the command does not wait for it.
        child.terminate()
        child.join()
    if isinstance(found, OffkeyError):
        raise found
    return found


def _measure_and_send(pipe: Connection, works: Sequence[Work], around: Surroundings) -> None:
    # Ctrl-C reaches all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send(measure(works, around))
    except OffkeyError as error:
        pipe.send(error)
