"""One stream's way from raw records to alerts: what its stages need, what they return.

`stream_series` and `stream_features` put the stages in a row for the two kinds of stream. `process` does no
I/O, so the worker, the demo's report and a backtest run the very same code.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray, IntArray
from pipeline.budgets import Budget
from pipeline.changes import Cut
from pipeline.feedback import Feedback, FeedbackSlot
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages.alerts import Alert
from pipeline.stages.bounds import Bounds, Reason
from pipeline.stages.decode import Decoder, Reject
from pipeline.stages.muting import Maintenance, Muted, StormLimit
from pipeline.stages.series import Points
from pipeline.stream_model import ModelSlot, StreamModel

Step = TypeVar("Step")
LEVELS = (10, 20, 30, 40, 50, 60)
"""Scores; how many points reach each of them is counted."""
Measure = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What the stages of a stream need to know beside the model."""

    name: str
    decoder: Decoder
    budget: Budget
    """False incidents that one series may raise; of `features` the stream."""
    series_in_budget: float | None
    """So many live series of a partition use up its share of the stream's budget; None: that has no bound."""
    fields_of: Callable[[str], dict[str, str]]
    """A series' name -> the fields that name it."""
    quiet_points: int
    hysteresis: float
    """How far under its threshold an incident goes on."""
    merge_points: int
    """Within so many points of a series after a resolution the incident opens again."""
    repeat_after_ms: float | None
    """After how long an unchanged incident is told again; None: never."""
    storm: StormLimit | None
    """So many series that begin an incident in so long are one alert; None: each is told."""
    maintenance: Sequence[Maintenance]
    """When incidents that begin are not told."""
    silence_intervals: int | None
    """After so many of its intervals a quiet series has an incident; None: never."""
    accept_after_ms: float | None
    """How long a series is strange until that is its usual; None: no level is accepted."""
    hold_points: int
    """0: a missing feature rejects the record."""
    bounds: Bounds = field(default_factory=Bounds)
    """How many series are held, and for how long."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Score and threshold of each judged point, for those who draw or compare them."""

    series: Sequence[str]
    time_ms_M: IntArray
    offset_M: IntArray
    score_M: FloatArray
    threshold_M: FloatArray
    row_M: IntArray
    """Row in the record."""


def scored_of(judged: Sequence[tuple[Points, FloatArray, FloatArray]], names: Sequence[str]) -> Scored:
    """Return scores and thresholds of points that were judged together, part by part."""
    points = [each for each, _, _ in judged]
    return Scored(
        [names[slot] for each in points for slot in each.slot_M.tolist()],
        np.concatenate([np.zeros(0, np.int64), *(each.time_ms_M for each in points)]),
        np.concatenate([np.zeros(0, np.int64), *(each.offset_M for each in points)]),
        np.concatenate([np.zeros(0), *(score_K for _, score_K, _ in judged)]),
        np.concatenate([np.zeros(0), *(threshold_K for _, _, threshold_K in judged)]),
        np.concatenate([np.zeros(0, np.int64), *(each.inner_M for each in points)]),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a poll's records of one stream came to."""

    alerts: Sequence[Alert]
    """Those that are told, in the order of partition and offset."""
    rejects: Sequence[Reject]
    scored_now: Callable[[], Scored]
    points_scored: int = 0
    points_warming: int = 0
    late: int = 0
    held: int = 0
    series_moved: int = 0
    muted: Sequence[Muted] = ()
    """Alerts that are not told."""
    excused: int = 0
    """Points that begin no incident for what was said of others."""
    evicted: Sequence[tuple[TopicPartition, int, Reason]] = ()
    """(partition, offset, why) of each series that had to leave."""
    reached: Sequence[int] = (0,) * len(LEVELS)
    """Points whose score reached each of `LEVELS`."""
    allowed: float = 0.0
    """False incidents that the budget allows for the points scored."""

    @property
    def scored(self) -> Scored:
        """Put together on demand, for the worker has no use for it; to be read before the next `process`."""
        return self.scored_now()


def reached_by(scores: Sequence[FloatArray]) -> list[int]:
    """Return how many of these scores reach each of `LEVELS`."""
    return [sum(int(np.count_nonzero(score_K >= level)) for score_K in scores) for level in LEVELS]


def timed(steps: Iterator[Step], measure: Measure, stage: str) -> Iterator[Step]:
    """Yield the steps of a stage; what each takes is measured, what is done with it is not."""
    while True:
        with measure(stage):
            step = next(steps, None)
        if step is None:
            return
        yield step


def hash_of(features: Sequence[str]) -> str:
    """Return what tells one list of features from another, for the `shape` of a stream's state."""
    return hashlib.blake2b(json.dumps(features).encode(), digest_size=8).hexdigest()


class StreamPipeline(Protocol):
    """The stages of one stream. State is kept for each partition between calls."""

    def adopt_feedback(self, partition: TopicPartition, offset: int, said: Mapping[str, Feedback]) -> None:
        """Have what was said, by incident, act on a partition's records from an offset on, and nothing else.

        To be said again after `restore` and `drop`; offsets never go back but then.
        """

    def use(self, model: StreamModel) -> None:
        """Have the records that come next judged by a model, which is not `unlike` the one before.

        What a series brings from the one before it takes over at its next record.
        """

    @property
    def shape(self) -> str:
        """What the state's arrays depend on."""

    @property
    def series_held(self) -> int: ...
    @property
    def open_incidents(self) -> int: ...

    def process(self, arrived: Sequence[PartitionRecords], measure: Measure = nullcontext) -> Outcome:
        """Take records, each partition's after those of the call before; return what they came to."""

    def begin_chain(self, partition: TopicPartition) -> None:
        """Have the parts that are cut from now on hold all of a partition's state, whatever earlier ones hold."""

    def cut(self, partition: TopicPartition, memory: PartMemory, most_bytes: int) -> Cut:
        """Fill a part of a checkpoint with what has changed since the parts before; about so many bytes at most.

        Whether the parts now hold the whole state the result says; see `pipeline.changes`.
        """

    def uncut(self, partition: TopicPartition, cut: Cut) -> None:
        """Have the next parts hold again what a part held that was not written."""

    def snapshot(self, partition: TopicPartition) -> Arrays:
        """Return all of a partition's state as one part, on its own and in memory of its own."""

    def restore(self, partition: TopicPartition, parts: Iterable[Mapping[str, npt.NDArray[Any]]]) -> None:
        """Put back a state from its parts in their order; of none, the state before the first record.

        One fault in them leaves a state to be dropped.

        Raises:
            CheckpointError: reading the parts does, or one of them lacks what it rests on.
        """

    def drop(self, partition: TopicPartition) -> None:
        """Forget a partition."""

    def divide(self, partition: TopicPartition, partitions: int) -> None:
        """Say, before its state is put back, among how many partitions the stream's bounds are divided."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One stream as the worker sees it: its stages, and where they read."""

    name: str
    topic: str
    pipeline: StreamPipeline
    slot: ModelSlot
    """The models that its records may be judged by."""
    pipeline_of: Callable[[StreamModel], StreamPipeline]
    """Puts the same stages together around another model, without state."""
    start: str
    """Where a partition without a usable committed offset begins: earliest, latest or fail."""
    split: Callable[[Sequence[PartitionRecords]], Iterable[Sequence[PartitionRecords]]] = lambda arrived: (arrived,)
    """Cuts a poll into parts that are processed one behind the other."""
    feedback: FeedbackSlot = field(default_factory=FeedbackSlot)
    """What was said of its incidents, as far as it is known."""
