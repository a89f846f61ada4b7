"""A worker comes back with very many series: `python -m tests.benchmarks.restart [--series N]`.

`restore_s` is from the start of a new worker until its partition has its state, joining the group included;
`replay_s` until it stands where its group had committed, 10 s of a point a minute each behind the checkpoint. The
checkpoint is synthesised, with full buffers (one feature, window 64, one dense view). How cores are shared out is
told in `many_series_kafka`.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import torch

from pipeline.collector import quiet_collector
from tests.benchmarks.many_series import model, state_of_many
from tests.benchmarks.many_series_kafka import INTERVAL_S, PLACE, deployed

REPLAYED_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1_000_000)
    series = parser.parse_args().series
    torch.set_num_threads(1)
    committed = int(series / INTERVAL_S * REPLAYED_S)
    with tempfile.TemporaryDirectory() as folder, deployed(Path(folder)) as deployment:
        detector = model()
        deployment.begin(detector, state_of_many(detector, series), 0)
        if deployment.producer(series, 0, committed, 0).wait():
            raise SystemExit("the producer failed")
        deployment.commit(committed)
        quiet_collector()
        began_s = time.perf_counter()
        with deployment.worker(detector) as worker:
            while PLACE not in worker.partitions.progress:
                # What a step begins with; the rest of it would replay.
                worker.source.poll(0.1)
                worker.partitions.follow_assignment()
            restored_s = time.perf_counter()
            while worker.partitions.progress[PLACE].next_offset < committed:
                worker.step()
            replayed_s = time.perf_counter()
            held = worker.lanes[0].pipeline.series_held
    printed = {
        "series": held,
        "restore_s": round(restored_s - began_s, 2),
        "replay_s": round(replayed_s - restored_s, 2),
        "replayed": committed,
        "machine": f"{platform.machine()}, {len(deployment.cores)} cores, Python {platform.python_version()}",
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
