"""Checkpoints of a million series, written beside their records: `python -m tests.benchmarks.checkpoints [SERIES]`.

The state layer alone, without a broker: a stream of one feature with windows of 64 points whose buffers are full
takes polls of 1,000 records, and after each the loop's turn for checkpoints comes. First all is written, then, each
time that a sixth of the series has had a point (10 s of a point a minute), what has changed. `pause_ms` is what a
turn takes of the loop; `pause_cpu_ms` is the processor time in it, without what other work on the machine adds.
`cpu_share` is the processor time of all checkpoints, of the thread that writes too, over the time that the records
stand for. At last the state is restored from storage by a new pipeline, five times, and compared.
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.detector import Detector
from pipeline.checkpointing import Checkpointing, Progress
from pipeline.collector import quiet_collector
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import Part, PartitionRecords, TopicPartition
from pipeline.stream import Lane
from tests.benchmarks.many_series import TOPIC, lane_of, live_polls, model, state_of_many

SERIES, POLLED, INTERVALS, RESTORES = 1_000_000, 1_000, 12, 5
POINT_S, EVERY_S = 60, 10
PLACE = TopicPartition(TOPIC, 0)


class Measured(StoredCheckpoints):
    """Storage that notes the size of each part and the processor time of writing it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ObjectStorage(folder.as_uri()))
        self.cpu_s = 0.0
        self.states: list[int] = []
        """Bytes of each checkpoint's parts."""
        self.base: list[bool] = []
        self._bytes = 0

    def write(self, part: Part) -> None:
        chain, begun_s = part.chain, time.thread_time()
        before, closed = chain.base_bytes + chain.later_bytes, chain.closed
        super().write(part)
        self.cpu_s += time.thread_time() - begun_s
        self._bytes += chain.base_bytes + chain.later_bytes - before
        if part.closes:
            self.states.append(self._bytes)
            self.base.append(not closed)
            self._bytes = 0


@dataclass
class Loop:
    """A worker's loop but for broker and alerts."""

    lane: Lane
    checkpoints: Measured
    polls: Iterator[PartitionRecords]
    progress: Progress
    pauses_s: list[float] = field(default_factory=list)
    pauses_cpu_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.checkpointing = Checkpointing(
            {TOPIC: self.lane}, self.checkpoints, {PLACE: self.progress}, lambda place: "v1"
        )

    def turn(self) -> int:
        """Take a poll, and go on with a checkpoint that is due."""
        records = next(self.polls)
        self.lane.pipeline.process([records])
        self.progress.next_offset = records.next_offset
        if self.checkpointing.busy:
            begun_s, cpu_s = time.perf_counter(), time.thread_time()
            self.checkpointing.go_on(0)
            self.pauses_cpu_s.append(time.thread_time() - cpu_s)
            self.pauses_s.append(time.perf_counter() - begun_s)
        return len(records.records)

    def write_round(self) -> None:
        """Begin a checkpoint and take polls until it is written."""
        self.checkpointing.begin_round()
        while self.checkpointing.busy:
            self.turn()


def restore(lane: Lane, folder: Path) -> float:
    """Return the seconds that a new owner needs from storage to state."""
    begun_s = time.perf_counter()
    newest = StoredCheckpoints(ObjectStorage(folder.as_uri())).newest("metrics", PLACE, sys.maxsize)
    assert newest is not None
    lane.pipeline.restore(PLACE, newest.parts())
    return time.perf_counter() - begun_s


def differing(lane: Lane, other: Lane, detector: Detector) -> list[str]:
    """Return the names of the arrays in which two states differ."""
    # Of the errors in lean buffers a restart leaves out those that later ones exceed, and `other` has had one.
    again = lane_of(detector)
    again.pipeline.restore(PLACE, [lane.pipeline.snapshot(PLACE)])
    one, two = (each.pipeline.snapshot(PLACE) for each in (again, other))
    return [name for name in one if not np.array_equal(one[name], two[name], equal_nan=one[name].dtype.kind == "f")]


def measure(series: int, folder: Path) -> dict[str, Any]:
    detector = model()
    lane = lane_of(detector)
    lane.pipeline.restore(PLACE, [state_of_many(detector, series)])
    quiet_collector()
    progress = Progress(0, 0, -1, "id")
    loop = Loop(lane, Measured(folder), live_polls(PLACE, series, POLLED), progress)
    loop.write_round()
    base_pauses_s = loop.pauses_s.copy()
    for _ in range(INTERVALS):
        records = 0
        while records < series * EVERY_S / POINT_S:
            records += loop.turn()
        loop.write_round()
    loop.checkpointing.begin_round()
    loop.checkpointing.go_on(60)
    kept = loop.checkpoints
    full = [size for size, base in zip(kept.states, kept.base, strict=True) if base]
    changes = [size for size, base in zip(kept.states, kept.base, strict=True) if not base]
    restores_s, restores_cpu_s = [], []
    for _ in range(RESTORES):
        new, begun_s = lane_of(detector), time.process_time()
        restores_s.append(restore(new, folder))
        restores_cpu_s.append(time.process_time() - begun_s)
    cpu_s = kept.cpu_s + sum(loop.pauses_cpu_s)
    return {
        "series": series,
        "full_bytes": int(statistics.median(full)),
        "incremental_bytes": int(statistics.median(changes)),
        "bytes_per_series": round(statistics.median(full) / series, 1),
        "full_pause_ms": milliseconds(max(base_pauses_s)),
        "pause_ms": milliseconds(max(loop.pauses_s)),
        "pause_p99_ms": milliseconds(float(np.quantile(loop.pauses_s, 0.99))),
        "pause_cpu_ms": milliseconds(max(loop.pauses_cpu_s)),
        "cpu_share": round(cpu_s / (EVERY_S * INTERVALS), 4),
        "restore_s": round(statistics.median(restores_s), 2),
        "restore_cpu_s": round(statistics.median(restores_cpu_s), 2),
        "restores_s": [round(each, 2) for each in restores_s],
        "differing": differing(lane, new, detector),
        "checkpoints": {"full": len(full), "incremental": len(changes)},
        "processor": platform.processor() or platform.machine(),
    }


def milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else SERIES, Path(folder))))


if __name__ == "__main__":
    main()
