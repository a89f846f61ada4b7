"""What a worker takes, measured in a process of its own: its real stages and loop over made-up records.

The process imports what a worker imports and loads the models: what it holds then is the base. Of each stream the
state of some hundred series is reckoned from made-up points until all buffers are full, and repeated for as many
series as two sizes ask for; what grows between the two is a series' own, the rest is fixed. Buffers have another
layout from `windows.MANY` series on, so sizes lie on the side that is asked about.

- A series' memory is that of the arrays and objects of the stages, which are counted: what the system says of a
  process is too coarse, for memory that was freed is used again. What the loop holds beside them is by how much the
  process has grown after the largest polls and some checkpoints.
- A checkpoint is what `snapshot` returns. Its memory is by how much the process holds more at most while one is
  made; it is written nowhere.
- Time is that of the processor, of all threads, for one turn of the loop with polls of several sizes, both one
  after the other and after a rest. Records are unpacked by the Kafka client's code. No alarm is raised in it: false
  ones are rare, and true ones nobody knows.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch

import pipeline.connectors.kafka
import pipeline.endpoint  # noqa: F401  # a worker holds these too
from models.detector import Detector
from models.files import from_files
from pipeline.collector import quiet_collector
from pipeline.config import StreamSettings
from pipeline.connectors.rehearsed import RehearsedSource
from pipeline.heap import give_back_large_pieces
from pipeline.jobs.sizing_loop import Loop, Polls
from pipeline.jobs.sizing_memory import forget_peak, held_bytes, peak_bytes, resident_bytes
from pipeline.jobs.sizing_records import MadeUp
from pipeline.lanes import build_lane, choose_device
from pipeline.part_memory import Arrays
from pipeline.protocols import TopicPartition
from pipeline.stages.windows import MANY
from pipeline.stream import Lane

_FEW = 89
"""Series whose state is repeated."""
_SIZES, _TURNED = (2_048, 4_096), 16_384
"""Series that are held to measure with, where buffers are those of few; and most of them while turns are timed."""
_TURNS_S = 2.5
"""Larger polls are not timed where those before have taken so long."""
_AT_ONCE = 4_096
_POLLS = {1: 60, 16: 60, 128: 60, 512: 30, 2_048: 8, 8_192: 3, 16_000: 2}
"""Sizes of polls, and how many of each are measured."""
REST_S = 0.01
_RESTED_POINTS = 2_048
"""Larger polls are those of a backlog."""
_CHECKPOINTS = 3
_UNPACKED, _UNPACKINGS = 1_000, 15


@dataclass(frozen=True)
class Work:
    """One stream to measure."""

    name: str
    settings: StreamSettings
    files: Mapping[str, bytes]
    """Of its model."""
    series: int
    interval_s: float
    name_width: int


@dataclass(frozen=True)
class Surroundings:
    """What all streams of a worker share."""

    device: str
    most_records: int
    """Of a poll."""
    checkpoint_every_s: float


@dataclass(frozen=True)
class Line:
    """What grows with the number of series: so much, and so much for each."""

    fixed: float
    each: float

    def of(self, count: float) -> float:
        return max(self.fixed + self.each * count, 0.0)

    @classmethod
    def through(cls, sizes: Sequence[int], found: Sequence[float]) -> "Line":
        """Return the line through two points; what is measured never shrinks with the number."""
        each = max((found[1] - found[0]) / (sizes[1] - sizes[0]), 0.0)
        return cls(found[1] - each * sizes[1], each)


@dataclass(frozen=True)
class Turned:
    """The processor's time for a turn of the loop with a poll of so many points."""

    points: int
    seconds: float
    rested_s: float
    """After the loop has waited for `REST_S`: others have had the caches meanwhile."""


@dataclass(frozen=True)
class Measured:
    """What one stream takes; memory in bytes, times in seconds of one core."""

    memory: Line
    """Of its series."""
    working_bytes: float
    """What the loop holds beside them."""
    checkpoint: Line
    """Size of one that holds all."""
    checkpoint_memory: Line
    """What is held more while one is written."""
    checkpoint_s: Line
    warming_bytes: float
    """What is held more while as many series as a poll may have fill their first window with one poll."""
    gpu: Line | None
    """None: no GPU."""
    turns: tuple[Turned, ...]
    """By ascending number of points."""
    point_bytes: float
    """What a point takes on its way from the broker, uncompressed, in a large batch."""

    def turn_s(self, points: float, rested: float = 0.0) -> float:
        """Return the time of a turn with so many points; between the sizes measured in a straight line.

        `rested`, from 0 to 1, is how much of what comes with a rest is to be added.
        """
        sizes = [each.points for each in self.turns]
        times = [each.seconds + rested * (each.rested_s - each.seconds) for each in self.turns]
        return float(np.interp(points, sizes, times) * max(points / sizes[-1], 1.0))


@dataclass(frozen=True)
class Machine:
    """What was measured of this machine beside the streams."""

    base_bytes: float
    """A worker with its models and without series."""
    gpu_base_bytes: float | None
    unpacking_s: float
    """One thousand small records unpacked by the Kafka client: how fast this machine runs such code."""


def measure(works: Sequence[Work], around: Surroundings) -> tuple[Machine, list[Measured]]:
    """Measure the streams of one worker; to be called in a process that has done nothing else."""
    torch.set_num_threads(1)
    device = choose_device(around.device)
    of_gpu = device.type == "cuda"
    detectors = [from_files(work.files, f"the model of {work.name}") for work in works]
    stages = [_Stages(work, detector, device, around) for work, detector in zip(works, detectors, strict=True)]
    for each in stages:
        each.begin()
    quiet_collector()
    give_back_large_pieces()
    machine = Machine(resident_bytes(), float(torch.cuda.memory_allocated()) if of_gpu else None, _unpacking_s())
    return machine, [each.measured() for each in stages]


class _Stages:
    """One stream's stages, to be measured."""

    def __init__(self, work: Work, detector: Detector, device: torch.device, around: Surroundings) -> None:
        self._work, self._detector, self._device, self._around = work, detector, device, around
        # All sizes are held, whatever the bound is.
        settings = work.settings
        if settings.kind == "series":
            settings = settings.model_copy(update={"max_series": max(settings.max_series, 4 * MANY)})
        self._settings = settings
        names = detector.spec.features
        self._made = MadeUp(settings, names, 1000 * work.interval_s, work.series, work.name_width)
        self._place = TopicPartition(settings.topic, 0)
        self._of_series = settings.kind == "series"

    def begin(self) -> None:
        """Have everything loaded that comes with a first poll."""
        lane, source = self._lane(), RehearsedSource(self._place)
        for point in range(self._detector.spec.window + 2):
            self._process(lane, source, point, 8)

    def measured(self) -> Measured:
        few = self._state_of_few(self._warm) if self._of_series else None
        sizes = sizes_for(self._work.series)
        # What comes with the first checkpoint is no part of a series either.
        self._look(few, _FEW)
        if few is None:
            # Records that belong to no series leave nothing behind.
            memory, gpu, checkpoint, more, checkpoint_s = (Line(found, 0.0) for found in self._look(few, sizes[0]))
        else:
            looks = [self._look(few, series) for series in sizes]
            memory, gpu, checkpoint, more, checkpoint_s = (
                Line.through(sizes, found) for found in zip(*looks, strict=True)
            )
        turns, point_bytes, working = self._turns(few, min(self._work.series, max(sizes[1], _TURNED)))
        on_gpu = gpu if self._device.type == "cuda" else None
        warming = 0.0 if few is None else self._warming_bytes()
        return Measured(memory, working, checkpoint, more, checkpoint_s, warming, on_gpu, turns, point_bytes)

    def _lane(self) -> Lane:
        settings, detector = self._settings, self._detector
        return build_lane(self._work.name, settings, detector, "", self._device, thresholds=_never)

    def _process(self, lane: Lane, source: RehearsedSource, point: int, series: int) -> None:
        source.prepare(self._made.payloads(point, 0, series))
        for part in lane.split(source.poll(0)):
            lane.pipeline.process(part)

    @property
    def _warm(self) -> int:
        """Points after which all buffers are full."""
        return 2 * self._detector.spec.window + self._settings.alerts.delay + 8

    def _state_of_few(self, points: int) -> Arrays:
        lane, source = self._lane(), RehearsedSource(self._place)
        for point in range(points):
            self._process(lane, source, point, _FEW)
        return lane.pipeline.snapshot(self._place)

    def _look(self, few: Arrays | None, series: int) -> tuple[float, ...]:
        """Return (memory, GPU memory, a checkpoint's bytes, its memory, its time) with so many series."""
        state = None if few is None else _repeated(few, series, self._made)
        loop = self._loop()
        polls = Polls(self._made, series, self._warm)
        before_gpu = self._gpu_bytes(anew=True)
        if state is not None:
            loop.lane.pipeline.restore(self._place, [state])
        loop.take(polls.of(_AT_ONCE), 2 * math.ceil(series / _AT_ONCE))
        held, gpu, resident = self._held(loop.lane), self._gpu_bytes(), resident_bytes()
        checkpoint = sum(array.nbytes for array in loop.lane.pipeline.snapshot(self._place).values())
        forget_peak()
        loop.checkpoint()
        # From the second one on they are as they go on to be.
        moved = min(series, math.ceil(series * self._around.checkpoint_every_s / self._work.interval_s))
        taken_s = []
        for _ in range(2):
            loop.take(polls.of(min(_AT_ONCE, moved)), math.ceil(moved / min(_AT_ONCE, moved)))
            taken_s.append(loop.checkpoint())
        more = max(peak_bytes() - resident, 0)
        return held, gpu - before_gpu, checkpoint, more, min(taken_s)

    def _turns(self, few: Arrays | None, series: int) -> tuple[tuple[Turned, ...], float, float]:
        """Return (turns with polls of several sizes, bytes of a point in the largest, working memory)."""
        turns: list[Turned] = []
        point_bytes, before = 0.0, resident_bytes()
        loop = self._loop()
        polls = Polls(self._made, series, self._warm)
        if few is not None:
            loop.lane.pipeline.restore(self._place, [_repeated(few, series, self._made)])
        spent_s = 0.0
        for points in self._sizes_of_polls():
            if spent_s > _TURNS_S:
                break
            count = next(count for most, count in _POLLS.items() if points <= most)
            loop.take(polls.of(points), max(1, count // 12))
            seconds, size = loop.timed(polls.of(points), count)
            rested_s = seconds
            if points <= _RESTED_POINTS:
                # Never less than without: what differs then is chance.
                rested_s = max(loop.timed(polls.of(points), count, REST_S)[0], seconds)
            turns.append(Turned(points, seconds / count, rested_s / count))
            point_bytes, spent_s = size / (count * points), spent_s + seconds + rested_s
        for _ in range(_CHECKPOINTS):
            loop.take(polls.of(points), 1)
            loop.checkpoint()
        working = resident_bytes(trimmed=False) - before - self._held(loop.lane)
        return tuple(turns), point_bytes, max(working, 0)

    def _warming_bytes(self) -> float:
        """Return what it takes that series fill their first window, as many at once as can be."""
        last, most = self._detector.spec.window - 1, min(self._work.series, self._around.most_records)
        series, loop = min(most, _SIZES[1]), self._loop()
        state = _repeated(self._state_of_few(last), series, self._made)
        loop.lane.pipeline.restore(self._place, [state])
        before = resident_bytes()
        forget_peak()
        loop.take(Polls(self._made, series, last).of(series), 1)
        return (peak_bytes() - before) / series * most

    def _held(self, lane: Lane) -> int:
        return sum(held_bytes(lane.pipeline, {id(self._detector)}).values())

    def _sizes_of_polls(self) -> list[int]:
        most = min(max(_POLLS), self._around.most_records * self._made.rows_of_record)
        return [*(points for points in _POLLS if points < most), most]

    def _loop(self) -> Loop:
        return Loop(self._lane(), self._place, self._around.checkpoint_every_s)

    def _gpu_bytes(self, *, anew: bool = False) -> int:
        """Return the most memory of the GPU that was taken since this was asked anew."""
        if self._device.type != "cuda":
            return 0
        if anew:
            # The peak is then what is taken now.
            torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.max_memory_allocated())


def sizes_for(series: int) -> tuple[int, int]:
    """Return the two numbers of series to measure with, for what so many take."""
    return (MANY, MANY + MANY // 2) if series >= MANY else _SIZES


def _repeated(few: Arrays, series: int, made: MadeUp) -> Arrays:
    """Return the state of more series than it was made of; names are new, and no incident is open."""
    of_which = np.arange(series) % _FEW
    # One row a series, and beside them texts.
    rows = {name for name, array in few.items() if len(array) == _FEW and array.dtype != np.uint8}
    many: Arrays = {name: array[of_which] if name in rows else array for name, array in few.items()}
    names = [made.series_name(number) for number in range(series)]
    many["names"] = np.frombuffer(msgspec.json.encode(names), np.uint8)
    return many | dict.fromkeys(("incidents", "resolved"), np.frombuffer(b"{}", np.uint8))


def _never(names: Sequence[str], interval_ms: Any, halvings: int) -> Any:
    return np.full(len(names), 1e9)


def _unpacking_s() -> float:
    """Return the least time of the processor to unpack a thousand small records."""
    source, taken_s = RehearsedSource(TopicPartition("any", 0)), []
    payloads = [(b"host-%05d" % number, b'{"ts":1700000000000,"value":0.1234}', 0) for number in range(_UNPACKED)]
    for _ in range(_UNPACKINGS):
        source.prepare(payloads)
        began_s = time.process_time()
        source.poll(0)
        taken_s.append(time.process_time() - began_s)
    return min(taken_s)
