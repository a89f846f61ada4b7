"""Points -> series that went quiet, by the time of their partition.

A partition's time is its *watermark*: the highest event time of its accepted records so far, each taken for no
later than its Kafka timestamp. So one series whose clock is ahead does not move the time of the others, as long
as the broker stamps the records, or other producers' clocks do; where a producer stamps both wrong, decoding
refuses what lies further ahead than the broker allows, and time stands still until it has caught up. A partition
without records has no time that passes: nothing is said of its series.

A series is quiet when the watermark has moved by `intervals` of the series' own intervals since its last admitted
record. That is measured from the watermark that stood when the record came, so a series whose clock is ahead or
behind, or whose records come in bulk, is no quieter than others. A series is watched from its first full window
on, for then its interval is known. One jump of the watermark by all that time says that the partition was quiet,
not the series, which then has that time once more: after a pause of all, nobody is silent before the others have
come back.

With `alerts.silence` a quiet series has an incident of its own, `silent`: resolved by its next record, or `stale`
when the silence is `STALE` times as long. Without, a series has stopped after `STOPPED_AFTER` intervals. In both
cases an open incident of the series ends as `stale`: what it told is no longer seen. A series that has to leave,
see `pipeline.stages.bounds`, stops at once, and its silence is over.

What happens is decided by records in offset order, never by polls: its cause is the record that moves the
watermark to the deadline, and its time is the deadline. One deadline is kept for each partition, the earliest
that may come; only when the watermark reaches it are all series of the partition looked at.

A series is live from its first full window until it is quiet or leaves, and again with its next record.

Legend: N accepted records of a partition's poll, K admitted points of them, G spells between two points, S slots,
C changes of how many series are live.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray, IntArray
from models.snapshots import Memory, copied, fresh
from pipeline.protocols import TopicPartition
from pipeline.stages.bounds import Evicted
from pipeline.stages.decode import Batch
from pipeline.stages.series import Points, SeriesTable

STOPPED_AFTER = 100
"""Intervals after which a series has stopped, where `alerts.silence` is not set."""
STALE = 10
"""A silence that lasts so many times the asked one is no news any more."""
_NEVER = int(np.iinfo(np.int64).max)
NO_MORE = (_NEVER, 0)
_LONGEST_MS = 1 << 58
"""Keeps the sums of times within 64 bits."""

_UNWATCHED, _WATCHED, _SPARED, _SILENT, _GONE = range(5)
"""A series with too few points; one that is on time; one that was given time again; quiet; quiet for good."""
_LIVE = (_WATCHED, _SPARED)

ByteArray = npt.NDArray[np.int8]


class Quiet(msgspec.Struct, frozen=True):
    """What the silence of one series came to."""

    slot: int
    state: Literal["stopped", "silent", "resolved", "stale"]
    """stopped: as silent, where nothing is told of it."""
    opened_ms: int
    """The deadline that it missed, ms since the epoch."""
    event_ms: int
    """The deadline that makes it silent or stale, the watermark when it leaves, or the event time of the record
    that resolves it."""
    offset: int
    """Of the record that the watermark reached the deadline with, that it leaves at, or that resolves it."""
    row: int
    """Of that record."""
    until: tuple[int, int]
    """Offset and row of the series' next point in this poll; `NO_MORE`: there is none."""


class Passed(NamedTuple):
    """How a partition's time went on in a poll, and how many of its series are live."""

    offset_N: IntArray
    """Of its accepted records."""
    watermark_ms_N: IntArray
    """The partition's time with each of them."""
    live: int
    """Series that were live before the poll."""
    change_offset_C: IntArray
    """Where that changes, in order."""
    change_C: IntArray

    def live_at(self, offset_K: IntArray) -> IntArray:
        """Return how many series are live with the record at each of these offsets."""
        live_C = self.live + np.append(0, np.cumsum(self.change_C))
        return live_C[np.searchsorted(self.change_offset_C, offset_K, side="right")]


class _Spells(NamedTuple):
    """Times without a record of a series: from one point to the next, or to the end of the poll."""

    slot_G: IntArray
    state_G: ByteArray
    since_ms_G: IntArray
    """Watermark that the time is counted from; of a quiet series the deadline that it missed."""
    end_G: IntArray
    """Place of the series' next record among those of the poll; N: there is none."""
    until_G: IntArray
    """Offset of that record, and which row of it; `NO_MORE`: there is none."""
    until_row_G: IntArray

    def take(self, chosen_G: Any) -> "_Spells":
        return _Spells(*(column[chosen_G] for column in self))


class Silence:
    """How long the series of a stream have been quiet, by slot."""

    def __init__(self, table: SeriesTable, intervals: int | None) -> None:
        """`intervals` is `alerts.silence`."""
        self._table = table
        self._telling = intervals is not None
        self._intervals = STOPPED_AFTER if intervals is None else intervals
        self._watermark_ms: dict[TopicPartition, int] = {}
        self._due_ms: dict[TopicPartition, int] = {}
        """No series of the partition has an earlier deadline."""
        self._live: dict[TopicPartition, int] = {}
        self.passed: dict[TopicPartition, Passed] = {}
        """What the last poll was to each of its partitions."""
        self.altered = np.zeros(0, np.int64)
        """Slots whose state the last poll changed though their series had no record in it."""
        self._columns: dict[str, npt.NDArray[Any]] = {
            "since_ms": np.zeros(0, np.int64),
            "state": np.zeros(0, np.int8),
        }

    @property
    def silent(self) -> int:
        """How many series have an open incident `silent`."""
        return int((self._columns["state"] == _SILENT).sum())

    def follow(
        self, batches: Sequence[Batch], points: Points, place_M: IntArray, evicted: Sequence[Evicted] = ()
    ) -> list[Quiet]:
        """Move the partitions' time on; return what became of their series, in order for each of them.

        Args:
            batches: the accepted records, one batch a partition.
            points: those of them that were admitted.
            place_M: where each point stands among the records of all batches.
            evicted: series that had to leave at some of these records.
        """
        self._reserve()
        self.passed, self.altered = {}, np.zeros(0, np.int64)
        found: list[Quiet] = []
        begin = 0
        for batch in batches:
            end = begin + len(batch)
            left = [each for each in evicted if self._table.partitions[each.slot] == batch.partition]
            if len(batches) == 1:
                found += self._follow(batch, points, place_M, left)
            elif len(batch):
                chosen_K = np.flatnonzero((place_M >= begin) & (place_M < end))
                found += self._follow(batch, points.take(chosen_K), place_M[chosen_K] - begin, left)
            begin = end
        return found

    def snapshot_rows(self, slots: IntArray, memory: Memory = fresh) -> dict[str, npt.NDArray[Any]]:
        """Return the state of these slots, for a checkpoint."""
        self._reserve()
        return {name: copied(name, column[slots], memory) for name, column in self._columns.items()}

    def snapshot(self, partition: TopicPartition) -> dict[str, npt.NDArray[Any]]:
        """Return a partition's watermark."""
        return {"watermark_ms": np.array([self._watermark_ms.get(partition, -1)])}

    def restore_rows(self, slots: IntArray, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot_rows` returned; of nothing, begin anew with the times that the table knows."""
        self._reserve()
        if state:
            for name, column in self._columns.items():
                column[slots] = state[name]
        else:
            table = self._table.columns
            self._columns["since_ms"][slots] = table["last_time_ms"][slots]
            watched_S = table["count"][slots] >= self._table.window
            self._columns["state"][slots] = np.where(watched_S, _WATCHED, _UNWATCHED)

    def restore(self, partition: TopicPartition, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `snapshot` returned, once all rows are there; of nothing, begin anew as they do.

        Series that were quiet already when they were first watched are not told of.
        """
        self._reserve()
        slots = self._table.held(partition)
        if state:
            self._watermark_ms[partition] = int(state["watermark_ms"][0])
        else:
            now_ms = int(self._table.columns["last_time_ms"][slots].max(initial=-1))
            self._watermark_ms[partition] = now_ms
            self._columns["state"][slots[self._deadline_ms(self._now(slots)) <= now_ms]] = _GONE
        self._due_ms[partition] = int(self._deadline_ms(self._now(slots)).min(initial=_NEVER))
        self._live[partition] = int(np.isin(self._columns["state"][slots], _LIVE).sum())

    def drop(self, partition: TopicPartition, slots: IntArray) -> None:
        """Forget a partition, and the slots that its series had."""
        self._watermark_ms.pop(partition, None)
        self._due_ms.pop(partition, None)
        self._live.pop(partition, None)
        self.forget(slots)

    def forget(self, slots: IntArray) -> None:
        """Forget the series that these slots had."""
        self._reserve()
        for column in self._columns.values():
            column[slots] = 0

    def _follow(self, batch: Batch, points: Points, place_K: IntArray, left: Sequence[Evicted]) -> list[Quiet]:
        partition, count = batch.partition, len(batch)
        before_ms = self._watermark_ms.get(partition, -1)
        time_ms_N = np.where(
            batch.published_ms_N >= 0, np.minimum(batch.time_ms_N, batch.published_ms_N), batch.time_ms_N
        )
        # With the watermark of before in front: place n stands at n + 1.
        watermark_ms_N = np.maximum.accumulate(np.append(before_ms, time_ms_N))
        now_ms = int(watermark_ms_N[-1])
        self._watermark_ms[partition] = now_ms

        found: list[Quiet] = []
        come_C = np.zeros(0, np.int64)
        left_slots = np.array([each.slot for each in left], np.int64)
        left_at = np.array([each.place for each in left], np.int64)
        if len(points):
            slot_K = points.slot_M
            first_K = np.append(True, slot_K[1:] != slot_K[:-1])
            last_K = np.append(first_K[1:], True)
            carried = self._now(slot_K[first_K])._replace(
                end_G=place_K[first_K], until_G=points.offset_M[first_K], until_row_G=points.inner_M[first_K]
            )
            after = _Spells(
                slot_K,
                np.where(points.index_M >= self._table.window - 1, _WATCHED, _UNWATCHED).astype(np.int8),
                watermark_ms_N[place_K + 1],
                np.where(last_K, _ends(slot_K, count, left_slots, left_at), np.append(place_K[1:], count)),
                np.where(last_K, _NEVER, np.append(points.offset_M[1:], _NEVER)),
                np.where(last_K, 0, np.append(points.inner_M[1:], 0)),
            )
            spells = _joined(carried, after)
            spells = self._pass(spells, batch, watermark_ms_N, found)
            # Each carried spell ends with the first point of its series, each other one with the next point.
            next_G = np.append(np.flatnonzero(first_K), np.arange(1, len(slot_K) + 1))
            _tell_resolved(spells, next_G, points, found)
            back_G = ~np.isin(spells.state_G, (_UNWATCHED, *_LIVE)) & (spells.until_G < _NEVER)
            first_watched_K = points.index_M == self._table.window - 1
            come_C = np.append(points.offset_M[first_watched_K], spells.until_G[back_G])
            latest = spells.take(len(carried.slot_G) + np.flatnonzero(last_K))
            self._write(latest)
            deadline_ms = int(self._deadline_ms(latest).min(initial=_NEVER))
            self._due_ms[partition] = min(self._due_ms.get(partition, _NEVER), deadline_ms)
        if now_ms >= self._due_ms.get(partition, _NEVER):
            held = np.append(self._table.held(partition), left_slots)
            due_ms = self._deadline_ms(self._now(held))
            # Of very many series few are late at a time, and only those are followed to the end of the poll.
            late_at = np.flatnonzero(due_ms <= now_ms)
            late = held[late_at]
            spells = self._now(late)._replace(end_G=_ends(late, count, left_slots, left_at))
            # Those with points of this poll have been followed to its end: none of their deadlines has come.
            spells = self._pass(spells, batch, watermark_ms_N, found)
            # Whatever becomes of a spell, it has another state then.
            self.altered = np.append(self.altered, late[spells.state_G != self._columns["state"][late]])
            self._write(spells)
            due_ms[late_at] = self._deadline_ms(spells)
            self._due_ms[partition] = int(due_ms.min(initial=_NEVER))
        gone_C = np.array([quiet.offset for quiet in found if quiet.state in ("stopped", "silent")], np.int64)
        gone_C = np.append(gone_C, self._leave(left, watermark_ms_N, found))
        self._pass_on(batch, watermark_ms_N[1:], come_C, gone_C)
        return sorted(found, key=lambda quiet: (quiet.offset, quiet.row))

    def _leave(self, left: Sequence[Evicted], watermark_ms_N: IntArray, found: list[Quiet]) -> list[int]:
        """Forget series that had to leave; return the offsets with which live ones did."""
        gone: list[int] = []
        for slot, place, offset, row, _ in left:
            state = self._columns["state"][slot]
            if state in _LIVE:
                gone.append(offset)
            now_ms = int(watermark_ms_N[place + 1])
            silent = state == _SILENT
            opened_ms = int(self._columns["since_ms"][slot]) if silent else now_ms
            found.append(Quiet(slot, "stale" if silent else "stopped", opened_ms, now_ms, offset, row, NO_MORE))
            for column in self._columns.values():
                column[slot] = 0
        return gone

    def _pass_on(self, batch: Batch, watermark_ms_N: IntArray, come_C: IntArray, gone_C: IntArray) -> None:
        """Note what the poll was to the partition: its time, and the offsets where series came alive or left."""
        offset_C = np.append(come_C, gone_C)
        change_C = np.append(np.ones(len(come_C), np.int64), -np.ones(len(gone_C), np.int64))
        order_C = np.argsort(offset_C, kind="stable")
        live = self._live.get(batch.partition, 0)
        self._live[batch.partition] = live + len(come_C) - len(gone_C)
        self.passed[batch.partition] = Passed(
            batch.offset_N, watermark_ms_N, live, offset_C[order_C], change_C[order_C]
        )

    def _pass(self, spells: _Spells, batch: Batch, watermark_ms_N: IntArray, found: list[Quiet]) -> _Spells:
        """Let the time of each spell pass; return the spells as they end."""
        passed, row_N = spells.take(np.arange(len(spells.slot_G))), batch.place_in_record_N
        in_time_G = self._deadline_ms(spells) > watermark_ms_N[spells.end_G]
        # Watched, spared, silent, gone: each at most once.
        for _ in range(3):
            at_G = np.flatnonzero(~in_time_G)
            if not len(at_G):
                break
            late = passed.take(at_G)
            deadline_ms_G = self._deadline_ms(late)
            # A deadline lies beyond the watermark of before, unless settings have changed: the first record then.
            place_G = np.maximum(np.searchsorted(watermark_ms_N, deadline_ms_G), 1)
            late_G = place_G <= late.end_G
            at_G, place_G, deadline_ms_G, late = (
                at_G[late_G],
                place_G[late_G],
                deadline_ms_G[late_G],
                late.take(late_G),
            )
            jump_ms_G = watermark_ms_N[place_G] - watermark_ms_N[place_G - 1]
            spared_G = (late.state_G == _WATCHED) & (jump_ms_G >= self._allowed_ms(late.slot_G))
            ends_G = late.state_G == _SILENT
            passed.since_ms_G[at_G[spared_G]] = watermark_ms_N[place_G[spared_G]]
            opens_G = ~spared_G & ~ends_G
            passed.since_ms_G[at_G[opens_G]] = deadline_ms_G[opens_G]
            quiet = _SILENT if self._telling else _GONE
            passed.state_G[at_G] = np.where(spared_G, _SPARED, np.where(ends_G, _GONE, quiet))
            for k in np.flatnonzero(~spared_G).tolist():
                found.append(
                    Quiet(
                        slot=int(late.slot_G[k]),
                        state="stale" if ends_G[k] else "silent" if self._telling else "stopped",
                        opened_ms=int(passed.since_ms_G[at_G[k]]),
                        event_ms=int(deadline_ms_G[k]),
                        offset=int(batch.offset_N[place_G[k] - 1]),
                        row=int(row_N[place_G[k] - 1]),
                        until=(int(late.until_G[k]), int(late.until_row_G[k])),
                    )
                )
            in_time_G = np.ones(len(in_time_G), bool)
            in_time_G[at_G] = False
        return passed

    def _now(self, slots: IntArray) -> _Spells:
        """Return the spells in which these slots are, without their ends."""
        columns, none = self._columns, np.full(len(slots), _NEVER)
        since_ms = columns["since_ms"][slots]
        return _Spells(slots, columns["state"][slots], since_ms, none, none, np.zeros(len(slots), np.int64))

    def _write(self, spells: _Spells) -> None:
        self._columns["state"][spells.slot_G] = spells.state_G
        self._columns["since_ms"][spells.slot_G] = spells.since_ms_G

    def _allowed_ms(self, slots: IntArray) -> IntArray:
        interval_ms: FloatArray = self._table.columns["interval_ms"][slots]
        return np.clip(np.rint(self._intervals * interval_ms), 1, _LONGEST_MS).astype(np.int64)

    def _deadline_ms(self, spells: _Spells) -> IntArray:
        """Return the watermark at which each spell has the next consequence."""
        allowed_ms_G, state_G = self._allowed_ms(spells.slot_G), spells.state_G
        quiet_G = (state_G == _WATCHED) | (state_G == _SPARED)
        stale_ms_G = np.where(state_G == _SILENT, spells.since_ms_G + (STALE - 1) * allowed_ms_G, _NEVER)
        return np.where(quiet_G, spells.since_ms_G + allowed_ms_G, stale_ms_G)

    def _reserve(self) -> None:
        more = self._table.capacity - len(self._columns["state"])
        if more > 0:
            for name, column in self._columns.items():
                self._columns[name] = np.append(column, np.zeros(more, column.dtype))


def _joined(first: _Spells, second: _Spells) -> _Spells:
    return _Spells(*(np.concatenate([a, b]) for a, b in zip(first, second, strict=True)))


def _ends(slot_G: IntArray, count: int, left_slots: IntArray, left_at: IntArray) -> IntArray:
    """Return where the last spell of each slot ends: with the poll's records, or where its series has to leave."""
    if not len(left_slots):
        return np.full(len(slot_G), count)
    order = np.argsort(left_slots)
    near_G = np.minimum(np.searchsorted(left_slots, slot_G, sorter=order), len(order) - 1)
    found_G = order[near_G]
    return np.where(left_slots[found_G] == slot_G, left_at[found_G], count)


def _tell_resolved(spells: _Spells, next_G: IntArray, points: Points, found: list[Quiet]) -> None:
    """Tell of the silences that a point ended."""
    for g in np.flatnonzero((spells.state_G == _SILENT) & (spells.until_G < _NEVER)).tolist():
        slot, point = int(spells.slot_G[g]), int(next_G[g])
        event_ms, place = int(points.time_ms_M[point]), (int(points.offset_M[point]), int(points.inner_M[point]))
        found.append(Quiet(slot, "resolved", int(spells.since_ms_G[g]), event_ms, *place, NO_MORE))
