"""What a series costs in memory, and points a second beside that many: `python -m tests.benchmarks.series_memory`.

For each number of series the stages of one stream are restored from a synthesised state with full buffers (one
feature, window 64, one dense view) in a process of their own, and go on with live polls, every series once in each
point of time. `rss` is by how much the process has grown, in bytes a series; `of` adds up what each part of the
pipeline holds. `points_per_s` is of `process` alone, decoding from JSON included, by the time that one core worked:
others may be at work beside it.
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from ctypes import CDLL
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.protocols import TopicPartition
from tests.benchmarks.many_series import TOPIC, lane_of, live_polls, model, state_of_many

COUNTS, POLLED, POLLS = (1_000, 200_000, 1_000_000), 16_000, 100
PLACE = TopicPartition(TOPIC, 0)


def resident_bytes() -> int:
    """Return what this process holds in memory, once it has given back what is free."""
    gc.collect()
    CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def held_bytes(owner: object, seen: set[int]) -> dict[str, int]:
    """Return the bytes that the objects below `owner` take, by kind; those in `seen` belong to others."""
    found: dict[str, int] = {}
    waiting: list[Any] = [owner]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type) or callable(each):
            continue
        seen.add(id(each))
        if isinstance(each, torch.Tensor):
            storage = each.untyped_storage()
            kind, size = "tensors", 0 if storage.data_ptr() in seen else storage.nbytes()
            seen.add(storage.data_ptr())
        elif isinstance(each, np.ndarray):
            base = each
            while isinstance(base.base, np.ndarray):
                base = base.base
            kind, size = "columns", 0 if base.ctypes.data in seen else base.nbytes
            seen.add(base.ctypes.data)
        else:
            kind, size = type(each).__name__, sys.getsizeof(each)
            if isinstance(each, dict):
                waiting += [*each.keys(), *each.values()]
            elif isinstance(each, list | tuple | set):
                waiting += each
            elif hasattr(each, "__dict__"):
                waiting += vars(each).values()
        found[kind] = found.get(kind, 0) + size
    return found


def measure(series: int) -> dict[str, Any]:
    """Return the figures of so many series."""
    torch.set_num_threads(1)
    detector = model()
    state = state_of_many(detector, series)
    # What is loaded with the first poll is no part of a series.
    lane = lane_of(detector)
    for polled in islice(live_polls(PLACE, 100, 100), 3):
        lane.pipeline.process([polled])
    lane = lane_of(detector)
    before = resident_bytes()
    lane.pipeline.restore(PLACE, state)
    restored = resident_bytes()
    seconds, points = 0.0, 0
    for polled in islice(live_polls(PLACE, series, POLLED), POLLS):
        began_s = time.process_time()
        points += lane.pipeline.process([polled]).points_scored
        seconds += time.process_time() - began_s
    after = resident_bytes()
    seen = {id(detector)}
    owners = {name: held_bytes(part, seen) for name, part in vars(lane.pipeline).items()}
    rounded = {
        f"{name.removeprefix('_')}.{kind}": round(size / series, 1)
        for name, kinds in owners.items()
        for kind, size in kinds.items()
        if size / series >= 0.5
    }
    return {
        "series": series,
        "rss": round((after - before) / series),
        "rss_restored": round((restored - before) / series),
        "held": round(sum(sum(kinds.values()) for kinds in owners.values()) / series),
        "of": rounded,
        "points_per_s": round(points / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--here", action="store_true", help="in this process; of one number of series")
    asked = parser.parse_args()
    if asked.here:
        print(json.dumps(measure(asked.series[0])))
        return
    command = [sys.executable, "-m", "tests.benchmarks.series_memory", "--here", "--series"]
    legs = [
        json.loads(subprocess.run([*command, str(series)], check=True, capture_output=True).stdout)
        for series in asked.series
    ]
    print(json.dumps({"legs": legs, "machine": f"{platform.machine()}, Python {platform.python_version()}"}))


if __name__ == "__main__":
    main()
