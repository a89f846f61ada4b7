"""From the start of a worker's process until it is ready: `python -m tests.benchmarks.start [--series N]`.

`offkey worker`, as users run it, on Apache Kafka: it loads its model, joins its group, restores a checkpoint of so
many series (synthesised, with full buffers) and replays what was committed behind it, ten seconds of a point a
minute each. `ready_s` is until `/readyz` says 200, the median of the starts; each but the first finds the
checkpoint of the one before, which was stopped by SIGTERM. `cpu_s` is the processor time of the worker, its stop
included. It may use all cores, which the broker shares but for the first.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch

from models.detector import Detector
from models.files import to_files
from pipeline.connectors.embedded import free_port
from pipeline.connectors.registry import StoredRegistry
from pipeline.protocols import ModelVersion
from pipeline.versions.log import Promotion
from tests.benchmarks.many_series import SETTINGS, model, state_of_many
from tests.benchmarks.many_series_kafka import INTERVAL_S, Deployment, deployed
from tests.commands import Running, configured

REPLAYED_S, STREAM = 10.0, "metrics"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--starts", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    committed = int(asked.series / INTERVAL_S * REPLAYED_S)
    with tempfile.TemporaryDirectory() as name, deployed(folder := Path(name)) as deployment:
        detector = model()
        deployment.begin(detector, state_of_many(detector, asked.series), 0)
        if deployment.producer(asked.series, 0, committed, 0).wait():
            raise SystemExit("the producer failed")
        deployment.commit(committed)
        port = free_port()
        config = _config(folder, deployment, detector, port)
        took_s, cpu_s, loads = [], [], []
        os.sched_setaffinity(0, deployment.cores)
        for _ in range(asked.starts):
            loads.append(os.getloadavg()[0])
            before_s = _children_s()
            took_s.append(_start(config, port))
            cpu_s.append(_children_s() - before_s)
        cores = len(deployment.cores)
    printed = {
        "series": asked.series,
        "ready_s": round(statistics.median(took_s), 2),
        "each_s": [round(each, 2) for each in took_s],
        "cpu_s": round(statistics.median(cpu_s), 2),
        "replayed": committed,
        "load": round(statistics.median(loads), 1),
        "machine": f"{platform.machine()}, {cores} cores, Python {platform.python_version()}",
    }
    print(json.dumps(printed))


def _config(folder: Path, deployment: Deployment, detector: Detector, port: int) -> Path:
    """Store the model, and write the configuration of the deployment."""
    registry = StoredRegistry(deployment.storage)
    registry.add(ModelVersion(STREAM, "v1", to_files(detector)))
    registry.promote(STREAM, Promotion(1, "v1", 0, "benchmark"))
    servers = deployment.connection.bootstrap_servers
    return configured(
        folder,
        servers,
        kafka={"bootstrap_servers": servers, "group_id": deployment.group_id},
        topics={"alerts": "alerts", "dead_letters": "dead"},
        streams={STREAM: SETTINGS.model_dump(mode="json", exclude_unset=True)},
        metrics={"port": port},
    )


def _start(config: Path, port: int) -> float:
    """Start a worker, wait until it is ready, and stop it; return how long the first two took."""
    began_s, pause = time.perf_counter(), threading.Event()
    with Running(config, "error") as running:
        while not _ready(port):
            if running.process.poll() is not None:
                raise SystemExit(running.process.communicate()[1])
            pause.wait(0.01)
        took_s = time.perf_counter() - began_s
        if said := running.end():
            raise SystemExit(said)
    return took_s


def _children_s() -> float:
    """Return the processor time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(json.loads(answer.read())["partitions_restored"])
    except (urllib.error.URLError, ConnectionError):
        return False


if __name__ == "__main__":
    main()
