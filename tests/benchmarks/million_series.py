"""A million series, a point a minute each, on a worker: `python -m tests.benchmarks.million_series [--seconds S]`.

One feature, window 64, one dense view. The worker begins with a synthesised checkpoint with full buffers and works
off a backlog of half a minute (`catch_up`: how many times the live rate), while the producer is not at work. Then
records come in their pace for so many seconds:

- `lag_flat`: the records that wait are no more in the last quarter than in the first one, by a second of records.
- `bytes_per_series`: by how much the process has grown since before it took the state over, at the end of all.
- `longest_pause_ms`: the longest step of the loop, less what it waited for records; `longest_cpu_ms` is the most
  processor time of its thread in one. What is between the two is waiting: for broker, storage or the core.
- `checkpoint_share`: the core's time that checkpoints took: that of the process with them, each 10 s, less that of
  a fifth of the time without any.

How cores are shared out is told in `many_series_kafka`.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.collector import quiet_collector
from pipeline.heap import give_back_large_pieces
from pipeline.jobs.sizing_memory import resident_bytes
from pipeline.protocols import PartitionRecords
from pipeline.worker import Worker
from tests.benchmarks.many_series import lane_of, live_polls, model, state_of_many
from tests.benchmarks.many_series_kafka import INTERVAL_S, PLACE, Deployment, deployed

BACKLOG_S, WITHOUT_SHARE = 30.0, 0.2


class Waits:
    """Stands before a source and adds up how long its polls took."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.waited_s = self.cpu_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def poll(self, timeout_s: float) -> Sequence[PartitionRecords]:
        began_s, cpu_s = time.perf_counter(), time.thread_time()
        polled: Sequence[PartitionRecords] = self._source.poll(timeout_s)
        self.waited_s += time.perf_counter() - began_s
        self.cpu_s += time.thread_time() - cpu_s
        return polled


def live(worker: Worker, waits: Waits, seconds: float) -> dict[str, Any]:
    """Run for so long; return what was seen of lag, pauses and the process' own time."""
    lags: list[int] = []
    pauses_s: list[float] = []
    pauses_cpu_s: list[float] = []
    began_s, cpu_s, done = time.perf_counter(), time.process_time(), 0
    while (now_s := time.perf_counter()) - began_s < seconds:
        waited_s, polled_s, began_cpu_s = waits.waited_s, waits.cpu_s, time.thread_time()
        done += worker.step()
        pauses_s.append(time.perf_counter() - now_s - (waits.waited_s - waited_s))
        pauses_cpu_s.append(time.thread_time() - began_cpu_s - (waits.cpu_s - polled_s))
        if time.perf_counter() - began_s >= len(lags):
            lags.append(sum(waits.lag().values()))
    took_s = time.perf_counter() - began_s
    return {
        "lags": lags,
        "pause_s": max(pauses_s),
        "pause_cpu_s": max(pauses_cpu_s),
        "cpu_share": (time.process_time() - cpu_s) / took_s,
        "per_s": done / took_s,
    }


def run(deployment: Deployment, series: int, seconds: float) -> dict[str, Any]:
    rate = series / INTERVAL_S
    backlog = int(rate * BACKLOG_S)
    detector = model()
    deployment.begin(detector, state_of_many(detector, series), 0)
    if deployment.producer(series, 0, backlog, 0).wait():
        raise SystemExit("the producer failed")
    # What is loaded with the first poll is no part of a series.
    lane_of(detector).pipeline.process([next(live_polls(PLACE, 100, 100))])
    before = resident_bytes()
    quiet_collector()
    give_back_large_pieces()
    with deployment.worker(detector) as worker:
        waits = Waits(worker.source)
        worker.source = waits
        worker.partitions.source = waits
        while PLACE not in worker.partitions.progress:
            worker.step()
        began_s, first = time.perf_counter(), worker.partitions.progress[PLACE].next_offset
        while worker.partitions.progress[PLACE].next_offset < backlog:
            worker.step()
        caught_up = (backlog - first) / (time.perf_counter() - began_s)

        without_s = seconds * WITHOUT_SHARE
        until = backlog + int(rate * (seconds + without_s + 10))
        producer = deployment.producer(series, backlog, until, rate)
        try:
            while worker.partitions.progress[PLACE].next_offset < backlog + rate:
                worker.step()
            with_them = live(worker, waits, seconds)
            worker.settings = type(worker.settings)("alerts", "dead", checkpoint_every_s=1e9)
            worker.checkpoint()
            without = live(worker, waits, without_s)
        finally:
            producer.terminate()
            producer.wait()
        after = resident_bytes()
        held = worker.lanes[0].pipeline.series_held
    quarter = max(len(with_them["lags"]) // 4, 1)
    first_lag, last_lag = (
        float(np.mean(part)) for part in (with_them["lags"][:quarter], with_them["lags"][-quarter:])
    )
    return {
        "series": held,
        "seconds": seconds,
        "lag_flat": last_lag <= first_lag + rate,
        "bytes_per_series": round((after - before) / series),
        "checkpoint_share": round(max(with_them["cpu_share"] - without["cpu_share"], 0.0), 3),
        "longest_pause_ms": round(1000 * max(with_them["pause_s"], without["pause_s"])),
        "longest_cpu_ms": round(1000 * max(with_them["pause_cpu_s"], without["pause_cpu_s"])),
        "catch_up": round(caught_up / rate, 1),
        "lag_records": {"first_quarter": round(first_lag), "last_quarter": round(last_lag)},
        "records_per_s": {"asked": round(rate), "done": round(with_them["per_s"])},
        "cpu_share": round(with_them["cpu_share"], 3),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, deployed(Path(folder)) as deployment:
        found = run(deployment, asked.series, asked.seconds)
        cores = len(deployment.cores)
    print(
        json.dumps({**found, "machine": f"{platform.machine()}, {cores} cores, Python {platform.python_version()}"})
    )


if __name__ == "__main__":
    main()
