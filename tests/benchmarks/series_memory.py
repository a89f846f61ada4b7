"""What a series costs in memory, and points a second beside that many: `python -m tests.benchmarks.series_memory`.

For each number of series the stages of one stream are restored from a synthesised state with full buffers (one
feature, window 64, one dense view) in a process of their own, and go on with live polls, every series once in each
point of time. `rss` is by how much the process has grown, in bytes a series; `of` adds up what each part of the
pipeline holds. `points_per_s` is of `process` alone, decoding from JSON included, by the time that one core worked:
others may be at work beside it.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from itertools import islice
from typing import Any

import torch

from pipeline.jobs.sizing_memory import held_bytes, resident_bytes
from pipeline.protocols import TopicPartition
from tests.benchmarks.many_series import TOPIC, lane_of, live_polls, model, state_of_many

COUNTS, POLLED, POLLS = (1_000, 200_000, 1_000_000), 16_000, 100
PLACE = TopicPartition(TOPIC, 0)


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
    lane.pipeline.restore(PLACE, [state])
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
