"""The whole recorder against a bare poll loop of the same client: `python -m tests.benchmarks.recorder`.

A topic on Apache Kafka is filled beforehand with the records of `worker_throughput`, of features that have a name
and a number each. Both legs read all of it in turn, five times each, on one core; the broker is pinned to the
others, so its share is kept out. The recorder does everything that production does: decoding, late rows flagged,
files of the usual size on a folder, offsets committed. Its memory is the largest that a process held that did
nothing else, client and libraries included. Needs KAFKA_HOME.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack, closing
from pathlib import Path

from pipeline.collector import quiet_collector
from pipeline.config import StreamSettings
from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaSource
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.fields import decoder_of
from pipeline.recorded_partitions import RecordedStream
from pipeline.recorder import Recorder, RecorderOptions

RUNS = 5
FEATURES = ("cpu", "mem", "net")
STREAM = StreamSettings.model_validate({"topic": "metrics", "time": "ts", "features": list(FEATURES)})


def options() -> GroupOptions:
    return GroupOptions(uuid.uuid4().hex, fetch_min_bytes=20_000)


def bare_poll(connection: Connection, records: int) -> float:
    """Return records a second of a loop that only polls."""
    with closing(KafkaSource(connection, options(), ["metrics"])) as source:
        started_s, read = 0.0, 0
        while read < records:
            for place in source.assignment().gained:
                source.start(place, 0)
            polled = sum(len(arrived.records) for arrived in source.poll(1.0))
            started_s = started_s or (time.perf_counter() if polled else 0.0)
            read += polled
        return records / (time.perf_counter() - started_s)


def record(connection: Connection, folder: Path, records: int) -> tuple[float, int]:
    """Return records a second of the whole recorder, its last files closed, and the bytes of all files."""
    storage = ObjectStorage((folder / uuid.uuid4().hex).as_uri())
    stream = RecordedStream("metrics", "metrics", decoder_of(STREAM, FEATURES), FEATURES, "earliest")
    with closing(KafkaSource(connection, options(), ["metrics"])) as source:
        running = Recorder([stream], source, StoredSnapshots(storage), RecorderOptions(), lambda: 0)
        started_s, done = 0.0, 0
        while done < records:
            before_s = time.perf_counter()
            moved = running.step()
            # The first poll that brings records counts from its own start.
            started_s = started_s or (before_s if moved else 0.0)
            done += moved
        running.close_files()
        per_s = records / (time.perf_counter() - started_s)
    return per_s, sum(storage.sizes("snapshots").values())


def leg(kind: str, address: str, folder: Path, records: int) -> None:
    """Run one leg in this process, and print what it came to."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    quiet_collector()
    stored = 0
    if kind == "bare":
        per_s = bare_poll(Connection(address), records)
    else:
        per_s, stored = record(Connection(address), folder, records)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "torch" not in sys.modules
    print(json.dumps({"per_s": per_s, "stored": stored, "peak_rss_mib": peak_kib / 1024}))


def main() -> None:
    if len(sys.argv) > 1:
        kind, address, where, records = sys.argv[1:]
        return leg(kind, address, Path(where), int(records))
    # Before torch is loaded, which may leave this process a single core.
    cores = sorted(os.sched_getaffinity(0))
    from pipeline.connectors.kafka import KafkaCluster
    from tests.benchmarks.worker_throughput import RECORDS, fill
    from tests.brokers import MISSING, ApacheBroker

    if not os.environ.get("KAFKA_HOME"):
        sys.exit(MISSING)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
        broker = stack.enter_context(closing(ApacheBroker(folder)))
        os.sched_setaffinity(0, set(cores))
        connection = Connection(broker.bootstrap_servers)
        with closing(KafkaCluster(connection)) as cluster:
            cluster.create_topics({"metrics": 1})
        record_bytes = fill(connection)
        runs = {"bare": [], "recorder": []}  # type: dict[str, list[dict[str, float]]]
        for _ in range(RUNS):
            for kind in runs:
                asked = [sys.executable, "-m", "tests.benchmarks.recorder", kind, broker.bootstrap_servers]
                done = subprocess.run([*asked, str(folder), str(RECORDS)], capture_output=True, check=True)
                runs[kind].append(json.loads(done.stdout))
    per_s = {kind: statistics.median(each["per_s"] for each in of_kind) for kind, of_kind in runs.items()}
    printed = {
        "bare_poll_per_s": round(per_s["bare"]),
        "recorder_per_s": round(per_s["recorder"]),
        "ratio": round(per_s["recorder"] / per_s["bare"], 3),
        "peak_rss_mib": round(max(each["peak_rss_mib"] for each in runs["recorder"])),
        "records": RECORDS,
        "record_bytes": round(record_bytes, 1),
        "stored_bytes_per_record": round(runs["recorder"][0]["stored"] / RECORDS, 1),
        "runs": {kind: [round(each["per_s"]) for each in of_kind] for kind, of_kind in runs.items()},
        "machine": f"{platform.machine()}, {len(cores)} cores, Python {platform.python_version()}",
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
