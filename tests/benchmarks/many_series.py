"""A stream of very many series of one feature, and the state of them all with full buffers, for benchmarks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from models.arrays import FloatArray
from models.detector import Detector
from models.spec import ModelSpec
from pipeline.config import StreamSettings
from pipeline.lanes import build_lane
from pipeline.part_memory import Arrays
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stream import Lane
from tests.records import Record
from tests.streams import fit

WINDOW, STEP_MS = 64, 60_000
BEGIN_MS = 1_700_000_000_000
TOPIC = "metrics"
CPU = torch.device("cpu")
SETTINGS = StreamSettings.model_validate(
    {
        "topic": TOPIC,
        "time": "ts",
        "features": ["value"],
        "window": WINDOW,
        "model": {"architecture": "vanilla"},
        "alerts": {"budget": "1 per week"},
    }
)
_HISTORY, _TRAINED, _WARM, _PHASES = 2_000, 8, 4 * WINDOW, 97


def values(first: int, points: int, series: int) -> FloatArray:
    """Return noisy cycles [points, series] from a point in time on."""
    random = np.random.default_rng(first)
    phase = np.arange(first, first + points)[:, None] / 60 + np.arange(series) % _PHASES
    return np.asarray(np.sin(phase) + 0.1 * random.standard_normal((points, series)))


def model() -> Detector:
    """Train one dense view on a few series of the same kind."""
    x = values(0, _HISTORY, _TRAINED)
    time_ms = BEGIN_MS + STEP_MS * np.arange(_HISTORY)
    columns = {f"trained-{number}": (time_ms, x[:, number, None]) for number in range(_TRAINED)}
    return fit(ModelSpec("series", ("value",), WINDOW), "vanilla", {"max_epochs": 2}, columns)


def lane_of(detector: Detector, settings: StreamSettings = SETTINGS) -> Lane:
    return build_lane("metrics", settings, detector, "v1", CPU)


def name_of(number: int) -> str:
    return f"host-{number:07d}"


def records(partition: TopicPartition, point: int, x: Sequence[float], low: int, offset: int) -> PartitionRecords:
    """Return the records of one point in time, with these values of the series from `low` on."""
    time_ms = BEGIN_MS + STEP_MS * point
    found = [
        Record(offset + at, time_ms, name_of(low + at).encode(), f'{{"ts":{time_ms},"value":{value}}}'.encode(), ())
        for at, value in enumerate(x)
    ]
    return PartitionRecords(partition, found)


def values_at(point: int, series: int) -> list[float]:
    """Return a point in time of all series, rounded."""
    x: list[float] = values(point, 1, series)[0].round(4).tolist()
    return x


def points_of_few(lane: Lane, partition: TopicPartition, series: int) -> None:
    """Run some series through a lane until their buffers are full."""
    for point in range(_WARM):
        lane.pipeline.process([records(partition, point, values_at(point, series), 0, point * series)])


def state_of_many(detector: Detector, series: int, few: int = 2 * _PHASES) -> Arrays:
    """Return the state of so many series with full buffers, as of the point `_WARM`: that of a few, repeated."""
    lane, partition = lane_of(detector), TopicPartition(TOPIC, 0)
    points_of_few(lane, partition, few)
    return repeated(lane.pipeline.snapshot(partition), series, few)


def repeated(arrays: Mapping[str, npt.NDArray[Any]], series: int, few: int) -> Arrays:
    """Return arrays of more series: those by slot are repeated, and names are made anew."""
    of_which = np.arange(series) % few
    many: Arrays = {name: array[of_which] for name, array in arrays.items() if len(array) == few}
    many |= {name: array for name, array in arrays.items() if len(array) != few}
    many["names"] = np.frombuffer(msgspec.json.encode([name_of(number) for number in range(series)]), np.uint8)
    many["incidents"] = np.frombuffer(b"{}", np.uint8)
    return many


def parts_of(arrays: Mapping[str, npt.NDArray[Any]], most: int = 10_000) -> Iterator[tuple[Arrays, bool]]:
    """Yield a state of many series as parts of so many, and whether a part is the last one."""
    names = msgspec.json.decode(arrays["names"].tobytes(), type=list[str])
    series = len(names)
    rows = {name: array for name, array in arrays.items() if len(array) == series}
    others = {name: array for name, array in arrays.items() if len(array) != series}
    for low in range(0, series, most):
        slots = np.arange(low, min(low + most, series))
        part = {**others, **{name: array[slots] for name, array in rows.items()}}
        part |= {"slots": slots, "named": slots, "dropped": slots[:0]}
        part["names"] = np.frombuffer(msgspec.json.encode(names[low : low + most]), np.uint8)
        yield part, low + most >= series


def live_polls(
    partition: TopicPartition, series: int, polled: int, first: int = _WARM
) -> Iterator[PartitionRecords]:
    """Yield polls without end, every series once in a point of time."""
    offset, point = first * series, first
    while True:
        x = values_at(point, series)
        for low in range(0, series, polled):
            some = x[low : low + polled]
            yield records(partition, point, some, low, offset)
            offset += len(some)
        point += 1
