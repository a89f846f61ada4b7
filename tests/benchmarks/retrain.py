"""A large retraining beside a worker: `KAFKA_HOME=... python -m tests.benchmarks.retrain [--rows N]`.

Ten million rows of 16 features (1,000 series, a point a minute for a week) lie in snapshots. `offkey retrain`, with
a champion to beat, runs on one core; on the other a worker reads a filled topic again and again, with the broker,
which so takes its share of that core in the legs without the trainer too. Legs that the training's end cuts off do
not count. Needs KAFKA_HOME.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.detector import Detector
from models.files import to_files
from models.fitting import fit_detector
from models.plan import plan_of
from pipeline.collector import quiet_collector
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import ModelVersion, OffsetRange
from pipeline.versions.log import Promotion
from tests.benchmarks.worker_throughput import CPU, fill, model, worker
from tests.brokers import MISSING, ApacheBroker
from tests.snapshots import rows_of

SERIES, FEATURES, FILE_ROWS = 1_000, 16, 500_000
NAMES = tuple(f"f{number:02}" for number in range(FEATURES))
STEP_MS = 60_000
LEGS = 3


def values(points: range) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return noisy cycles [point, series, feature]."""
    random = np.random.default_rng(points.start)
    phase = np.arange(points.start, points.stop)[:, None, None] / 200 + np.arange(SERIES)[None, :, None]
    return np.sin(phase + np.arange(FEATURES)) + 0.2 * random.standard_normal((len(points), SERIES, FEATURES))


def write_snapshots(snapshots: StoredSnapshots, rows: int, now_ms: int) -> None:
    """Write the rows as the recorder leaves them, file by file."""
    names, a_file, points = [f"host-{n:04d}" for n in range(SERIES)], FILE_ROWS // SERIES, rows // SERIES
    for first in range(0, points, a_file):
        part = range(first, min(first + a_file, points))
        count, offset = len(part) * SERIES, first * SERIES
        time_ms_T = now_ms - STEP_MS * (points - np.arange(part.start, part.stop))
        made = rows_of(values(part), time_ms_T, names, NAMES, begin=offset)
        snapshots.write("metrics", made, OffsetRange(offset, offset + count), int(time_ms_T[-1]))


def champion() -> Detector:
    """Train on a little history of the same kind."""
    x, time_ms = values(range(500)), STEP_MS * np.arange(500)
    columns = {f"host-{series:04d}": (time_ms, x[:, series]) for series in range(SERIES)}
    return fit_detector("series", NAMES, plan_of("series", FEATURES, "default", {}), columns, device=CPU)


def configured(folder: Path, broker: str) -> Path:
    path = folder / "offkey.yaml"
    stream = {"topic": "retrained", "time": "ts", "features": list(NAMES), "alerts": {"budget": "1 per week"}}
    topics = {"alerts": "alerts", "dead_letters": "dead"}
    kafka = {"bootstrap_servers": broker}
    storage = (folder / "storage").as_uri()
    path.write_text(
        json.dumps({"kafka": kafka, "storage": storage, "topics": topics, "streams": {"metrics": stream}})
    )
    return path


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=10_000_000)
    rows = asked.parse_args().rows
    if not os.environ.get("KAFKA_HOME"):
        sys.exit(MISSING)
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.sched_setaffinity(0, {cores[0]})
        broker = stack.enter_context(closing(ApacheBroker(folder)))
        connection = Connection(broker.bootstrap_servers)
        with closing(KafkaCluster(connection)) as cluster:
            cluster.create_topics({"metrics": 1, "retrained": 1, "alerts": 1, "dead": 1})
        fill(connection)
        storage = ObjectStorage((folder / "storage").as_uri())
        write_snapshots(StoredSnapshots(storage), rows, int(time.time() * 1000))
        registry = StoredRegistry(storage)
        registry.add(ModelVersion("metrics", "champion", to_files(champion())))
        registry.promote("metrics", Promotion(1, "champion", 0, "benchmark"))
        scoring = model("vanilla")
        quiet_collector()
        alone = [worker(connection, scoring, folder) for _ in range(LEGS)]
        command = [sys.executable, "-c", "from pipeline.cli import main; main()", "retrain"]
        command += [str(configured(folder, broker.bootstrap_servers)), "--snapshots", "365d", "--json"]
        began_s, beside = time.perf_counter(), list[float]()
        trainer = subprocess.Popen(["taskset", "-c", str(cores[-1]), *command], stdout=subprocess.PIPE, text=True)
        peak_kib = 0
        while trainer.poll() is None:
            found = worker(connection, scoring, folder)
            peak_kib = max(peak_kib, peak_of(trainer.pid))
            if trainer.poll() is None:
                beside.append(found)
        seconds = time.perf_counter() - began_s
        assert trainer.stdout is not None
        said = json.loads(trainer.stdout.read())
    before, during = statistics.median(alone), statistics.median(beside)
    printed = {
        "rows": said["records"],
        "seconds": round(seconds),
        "peak_rss_mib": round(peak_kib / 1024),
        "worker_per_s": round(before),
        "worker_beside_per_s": round(during),
        "worker_falls_by": round(1 - during / before, 3),
        "legs": [[round(each) for each in runs] for runs in (alone, beside)],
        "said": {"accepted": said["verdict"]["accepted"], "reasons": said["verdict"]["reasons"]},
        "machine": f"{platform.machine()}, {len(cores)} cores, Python {platform.python_version()}",
    }
    print(json.dumps(printed))


def peak_of(pid: int) -> int:
    """Return the most memory that a process has had, in KiB; 0: it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
