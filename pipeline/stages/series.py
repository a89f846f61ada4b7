"""Batches -> points of known series: which slot each belongs to, whether it comes late, what it lacks.

The table holds what is known about each series on the host, as columns indexed by slot. A series is keyed
by (partition, name): state moves with its partition.

Legend: N records of a poll, M points admitted, S slots, F features.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray
from models.snapshots import Memory, copied, fresh
from pipeline.protocols import TopicPartition
from pipeline.stages.bounds import Bounds, Evicted
from pipeline.stages.decode import MAX_TIME_MS, Batch
from pipeline.stages.runs import runs
from pipeline.stages.seats import Seats

KnownScaling = Callable[[str], tuple[FloatArray, FloatArray] | None]

_STEPS = "warming_steps_ms"
_MOVED = ("last_time_ms", "held_run", "last_values")
_SEGMENT_MS = 1 << 42
assert _SEGMENT_MS > MAX_TIME_MS


@dataclass(frozen=True, slots=True)
class Points:
    """Admitted points, sorted by slot and within a slot by offset and row in the record."""

    slot_M: IntArray
    index_M: IntArray
    """How many points of the series were admitted before this one."""
    time_ms_M: IntArray
    values_MF: FloatArray
    """Observed values; a held one is the series' last value."""
    held_M: BoolArray
    """At least one feature was missing and is held."""
    offset_M: IntArray
    inner_M: IntArray
    """Row in the record at that offset."""

    def __len__(self) -> int:
        return len(self.slot_M)

    def take(self, position_K: IntArray) -> "Points":
        """Return some of the points."""
        return Points(*(getattr(self, column)[position_K] for column in self.__slots__))


@dataclass(frozen=True, slots=True)
class Admitted:
    points: Points
    place_M: IntArray
    """Where each point stands among the records of all batches."""
    late: int
    """Records not later than the last one of their series: counted and left out."""
    lacking: Sequence[tuple[TopicPartition, int, int, str]]
    """(partition, row, row in the record, reason) where a missing feature cannot be held."""
    moved: int
    """Series first seen in this poll that stand in another partition too."""
    evicted: Sequence[Evicted] = ()
    """Series that had to leave. Their points are among the others; their slots are free with `take_evicted`."""
    seen: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Slots of the series that any record was of, ascending; some stand more than once."""


@dataclass
class SeriesTable:
    """What is known on the host about each series of a stream."""

    n_features: int
    window: int
    known_scaling: KnownScaling
    known_interval_ms: Callable[[str], float | None]
    hold_points: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    mark: int = 1
    """Of the model that scaling and intervals are known to."""
    _new: list[int] = field(default_factory=list)
    _steps_ms: dict[int, "array[float]"] = field(default_factory=dict)
    """Steps between the points of each series whose interval is not known before its first window is full, as
    32-bit floats: there may be a million such series."""

    def __post_init__(self) -> None:
        self._seats = Seats(self.bounds)
        self.columns: dict[str, npt.NDArray[Any]] = {
            "count": np.zeros(0, np.int64),
            "last_time_ms": np.zeros(0, np.int64),
            "interval_ms": np.zeros(0, np.float64),
            "learned": np.zeros(0, np.bool_),
            "mark": np.zeros(0, np.uint32),
            "center": np.zeros((0, self.n_features), np.float64),
            "scale": np.zeros((0, self.n_features), np.float64),
        }
        """One row a slot. `interval_ms`: 0 while it is not known. `learned`: the scaling is final; before that
        the first value is its centre. `mark`: of the model that was asked for both. Only what is held for missing
        features needs the last values."""
        if self.hold_points:
            self.columns["held_run"] = np.zeros(0, np.int64)
            self.columns["last_values"] = np.zeros((0, self.n_features), np.float64)

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def capacity(self) -> int:
        return len(self.columns["count"])

    @property
    def names(self) -> Sequence[str]:
        """Name of each slot's series."""
        return self._seats.names

    @property
    def partitions(self) -> Sequence[TopicPartition]:
        """Partition of each slot's series."""
        return self._seats.partitions

    def held(self, partition: TopicPartition) -> IntArray:
        """Return the slots of a partition's series."""
        return self._seats.held(partition)

    def are_held(self, partition: TopicPartition) -> BoolArray:
        """Tell of each slot whether it has a series of this partition."""
        return self._seats.are_held(partition)

    def are_of(self, partition: TopicPartition, slot_K: IntArray) -> BoolArray:
        """Tell which of these slots have a series of a partition."""
        return self._seats.partitions.are(partition, slot_K)

    def divide(self, partition: TopicPartition, partitions: int) -> None:
        """Give a partition its share, as one of so many, of the series that the stream may hold."""
        self._seats.divide(partition, partitions)

    def admit(self, batches: Sequence[Batch]) -> Admitted:
        """Give each record its slot, leave out the late ones, hold what is missing; the table moves on."""
        if not batches:
            return Admitted(self._empty_points(), np.zeros(0, np.int64), 0, (), 0)
        moved = self._seats.moved
        slot_N = np.concatenate([self._seats.find(batch) for batch in batches])
        moved = self._seats.moved - moved
        self._begin()
        order_N = np.argsort(slot_N, kind="stable")
        slot_N = slot_N[order_N]
        time_ms_N = np.concatenate([batch.time_ms_N for batch in batches])[order_N]
        values_NF = np.concatenate([batch.values_NF for batch in batches])[order_N]
        offset_N = np.concatenate([batch.offset_N for batch in batches])[order_N]
        row_N = np.concatenate([batch.row_N for batch in batches])[order_N]
        inner_N = np.concatenate([batch.place_in_record_N for batch in batches])[order_N]

        late_N = self._late(slot_N, time_ms_N)
        held_N = np.zeros(len(slot_N), bool)
        lacking: dict[int, str] = {}
        if self.hold_points:
            lacking = self._hold(slot_N, time_ms_N, values_NF, late_N, held_N)
        keep_N = ~late_N
        keep_N[list(lacking)] = False
        slot_M, time_ms_M, values_MF = slot_N[keep_N], time_ms_N[keep_N], values_NF[keep_N]
        index_M = self._advance(slot_M, time_ms_M, values_MF)
        points = Points(slot_M, index_M, time_ms_M, values_MF, held_N[keep_N], offset_N[keep_N], inner_N[keep_N])
        unheld = [(self.partitions[slot_N[i]], int(row_N[i]), int(inner_N[i]), why) for i, why in lacking.items()]
        return Admitted(points, order_N[keep_N], int(late_N.sum()), unheld, moved, self._seats.evicted, slot_N)

    def drop(self, partition: TopicPartition) -> IntArray:
        """Forget a partition's series; return the slots that became free."""
        return self._emptied(self._seats.drop(partition))

    def release(self, partition: TopicPartition, slots: IntArray) -> None:
        """Forget some of a partition's series; their slots are free from here on."""
        self._seats.release(partition, slots)
        self._emptied(slots)

    def take_evicted(self) -> IntArray:
        """Return the slots whose series had to leave; they are free from here on."""
        return self._emptied(self._seats.take_evicted())

    def _emptied(self, slots: IntArray) -> IntArray:
        for slot in slots.tolist() if self._steps_ms else ():
            self._steps_ms.pop(slot, None)
        return slots

    def add_all(self, partition: TopicPartition, names: Sequence[str]) -> IntArray:
        """Give series slots of their own, with their scaling and interval from training where they were there."""
        slots = self._seats.add_all(partition, names)
        self._begin()
        return slots

    def _begin(self) -> None:
        """Let new slots start as those of series that were never seen here."""
        slots, columns = self._seats.take_new(), self.columns
        if not len(slots):
            return
        self._grow()
        for column in columns.values():
            column[slots] = 0
        columns["scale"][slots] = 1.0
        known, center_SF, scale_SF = self.known_to_model(slots)
        columns["center"][known], columns["scale"][known], columns["learned"][known] = center_SF, scale_SF, True
        self._new += slots.tolist()

    def of_other_models(self, slots: IntArray) -> IntArray:
        """Return those of the slots whose series have not asked this model yet."""
        other_S: BoolArray = self.columns["mark"][slots] != self.mark
        return slots[other_S]

    def known_to_model(self, slots: IntArray) -> tuple[IntArray, FloatArray, FloatArray]:
        """Have these series ask the model; those without a point take their interval from it, where it knows one.

        Others keep theirs, or go on to learn it: what happens within a poll is told by one interval, and would
        depend on where the poll begins.

        Returns (those whose scaling it knows, their centres, their scales), which are not taken yet.
        """
        names, known = self.names, []
        interval_ms_S, count_S = self.columns["interval_ms"], self.columns["count"]
        self.columns["mark"][slots] = self.mark
        for slot in slots.tolist():
            if (pair := self.known_scaling(names[slot])) is not None:
                known.append((slot, *pair))
            if not count_S[slot] and (interval_ms := self.known_interval_ms(names[slot])):
                interval_ms_S[slot] = interval_ms
        center_SF, scale_SF = (
            np.array([each[column] for each in known], np.float64).reshape(len(known), self.n_features)
            for column in (1, 2)
        )
        return np.array([slot for slot, _, _ in known], np.int64), center_SF, scale_SF

    def snapshot(self, slots: IntArray, memory: Memory = fresh) -> dict[str, npt.NDArray[Any]]:
        """Return the rows of these slots, for a checkpoint."""
        rows = self._seats.snapshot_rows(slots, memory)
        for name, column in self.columns.items():
            rows[name] = memory(name, (len(slots), *column.shape[1:]), column.dtype)
            # Where an index may be out of bounds, it would be written to other memory first.
            column.take(slots, axis=0, out=rows[name], mode="clip")
        warming = slots[rows["interval_ms"] == 0].tolist() if self._steps_ms else ()
        held = (self._steps_ms.get(slot) for slot in warming)
        steps_ms = np.concatenate([np.zeros(0, np.float32), *(np.frombuffer(s, np.float32) for s in held if s)])
        rows[_STEPS] = copied(_STEPS, steps_ms, memory)
        return rows

    def snapshot_moved(self, slots: IntArray, memory: Memory = fresh) -> dict[str, npt.NDArray[Any]]:
        """Return what every point moves of series past their first window, but for how many points they had."""
        rows = self._seats.snapshot_rows(slots, memory)
        return rows | {name: copied(name, self.columns[name][slots], memory) for name in self._moved}

    def restore_moved(self, slots: IntArray, points_S: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot_moved` returned, so many points after what is there."""
        self._seats.restore_rows(slots, arrays)
        self.columns["count"][slots] += points_S
        for name in self._moved:
            self.columns[name][slots] = _known(name, arrays)

    @property
    def _moved(self) -> Sequence[str]:
        return [name for name in _MOVED if name in self.columns]

    def snapshot_bounds(self, partition: TopicPartition) -> dict[str, npt.NDArray[Any]]:
        """Return what beside its series' rows decides who of a partition leaves."""
        return self._seats.snapshot(partition)

    def restore_bounds(self, partition: TopicPartition, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot_bounds` returned."""
        self._seats.restore(partition, arrays)

    def restore(self, slots: IntArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot` returned; what was left by another model asks this one at its next record."""
        self._seats.restore_rows(slots, arrays)
        for name, column in self.columns.items():
            column[slots] = _known(name, arrays)

        self._emptied(slots)
        warming = arrays["interval_ms"] == 0
        counts = np.maximum(arrays["count"][warming] - 1, 0)
        if _STEPS in arrays:
            parts = np.split(arrays[_STEPS], np.cumsum(counts)[:-1])
        else:
            # The first checkpoints hold no steps: all are taken to be as long.
            span_ms = (arrays["last_time_ms"] - arrays["first_time_ms"])[warming]
            each_ms = (span_ms / np.maximum(counts, 1)).astype(np.float32)
            parts = [np.repeat(step_ms, count) for step_ms, count in zip(each_ms, counts, strict=True)]
        for slot, steps_ms in zip(slots[warming].tolist(), parts, strict=False):
            if self.columns["interval_ms"][slot] == 0:
                self._steps_ms[slot] = array("f", steps_ms.tobytes())

    def take_new(self) -> list[int]:
        """Return the slots given to series since the last call."""
        new, self._new = self._new, []
        return new

    def _late(self, slot_N: IntArray, time_ms_N: IntArray) -> BoolArray:
        """Mark points not later than every earlier one of their series, in this poll or before."""
        if not len(slot_N):
            return np.zeros(0, bool)
        first_N = runs(slot_N).rank_N == 0
        segment_N = np.cumsum(first_N) - 1
        highest_N = np.maximum.accumulate(time_ms_N + segment_N * _SEGMENT_MS) - segment_N * _SEGMENT_MS
        before_N = np.where(self.columns["count"][slot_N] > 0, self.columns["last_time_ms"][slot_N], -1)
        before_N[1:] = np.where(first_N[1:], before_N[1:], np.maximum(before_N[1:], highest_N[:-1]))
        return time_ms_N <= before_N

    def _hold(
        self,
        slot_N: IntArray,
        time_ms_N: IntArray,
        values_NF: FloatArray,
        late_N: BoolArray,
        held_N: BoolArray,
    ) -> dict[int, str]:
        """Fill missing features from the series' last values, point by point for the series that miss some.

        A point that cannot be filled is not admitted, so it may not make later ones late either: lateness
        of such a series is judged anew here. Returns why each point that cannot be filled cannot.
        """
        lacking: dict[int, str] = {}
        missing_NF = np.isnan(values_NF)
        for slot in np.unique(slot_N[missing_NF.any(axis=1)]):
            known = self.columns["count"][slot] > 0
            last_F = self.columns["last_values"][slot].copy()
            last_time_ms = self.columns["last_time_ms"][slot] if known else -1
            run = self.columns["held_run"][slot]
            for i in np.flatnonzero(slot_N == slot):
                late_N[i] = time_ms_N[i] <= last_time_ms
                if late_N[i]:
                    continue
                if missing_NF[i].any():
                    holds = known and not np.isnan(last_F[missing_NF[i]]).any()
                    if not holds or run >= self.hold_points:
                        lacking[int(i)] = "held_too_long" if holds else "missing_field"
                        continue
                    run += 1
                    held_N[i] = True
                    values_NF[i] = np.where(missing_NF[i], last_F, values_NF[i])
                else:
                    run = 0
                known, last_F, last_time_ms = True, values_NF[i], time_ms_N[i]
            self.columns["held_run"][slot] = run
        complete = np.setdiff1d(slot_N[~late_N], slot_N[missing_NF.any(axis=1)])
        self.columns["held_run"][complete] = 0
        return lacking

    def _advance(self, slot_M: IntArray, time_ms_M: IntArray, values_MF: FloatArray) -> IntArray:
        """Count the admitted points in; return each one's index in its series."""
        if not len(slot_M):
            return np.zeros(0, np.int64)
        columns, (start_S, length_S, rank_M) = self.columns, runs(slot_M)
        slots, end_S = slot_M[start_S], start_S + length_S
        index_M = columns["count"][slot_M] + rank_M

        new = columns["count"][slots] == 0
        provisional = new & ~columns["learned"][slots]
        columns["center"][slots[provisional]] = values_MF[start_S[provisional]]
        unknown = columns["interval_ms"][slots] == 0
        if unknown.any():
            step_ms_M = np.diff(time_ms_M, prepend=0)
            step_ms_M[start_S] = time_ms_M[start_S] - columns["last_time_ms"][slots]
            # The first point of a series comes after nothing.
            self._learn_intervals(slots[unknown], (start_S + new)[unknown], end_S[unknown], step_ms_M)

        columns["count"][slots] += length_S
        columns["last_time_ms"][slots] = time_ms_M[end_S - 1]
        if self.hold_points:
            columns["last_values"][slots] = values_MF[end_S - 1]
        return index_M

    def _learn_intervals(self, slots: IntArray, low_S: IntArray, high_S: IntArray, step_ms_M: IntArray) -> None:
        """Take the median of the first window's steps, as training does: one gap among them does not count."""
        steps_ms, wanted = step_ms_M.tolist(), self.window - 1
        full: list[int] = []
        for slot, low, high in zip(slots.tolist(), low_S.tolist(), high_S.tolist(), strict=True):
            first_ms = self._steps_ms.setdefault(slot, array("f"))
            first_ms.extend(steps_ms[low:high])
            if len(first_ms) >= wanted:
                full.append(slot)
        if full:
            first_SM = np.array([self._steps_ms.pop(slot)[:wanted] for slot in full])
            self.columns["interval_ms"][full] = np.maximum(np.median(first_SM, axis=1), 1.0)

    def _grow(self) -> None:
        more = self._seats.capacity - self.capacity
        if more:
            for name, column in self.columns.items():
                self.columns[name] = np.concatenate([column, np.zeros((more, *column.shape[1:]), column.dtype)])

    def _empty_points(self) -> Points:
        none, no_values = np.zeros(0, np.int64), np.zeros((0, self.n_features))
        return Points(none, none, none, no_values, np.zeros(0, bool), none, none)


def _known(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Return a column of a state; left without holding it knows no values to hold, by earlier versions no marks."""
    return arrays.get(name, np.nan if name == "last_values" else 0)
