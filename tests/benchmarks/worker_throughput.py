"""The whole worker against a bare poll loop of the same client: `python -m tests.benchmarks.worker_throughput`.

A topic on Apache Kafka is filled beforehand. The legs read all of it in turn, five times each, on one core; the
broker is pinned to the others, so its share is kept out. The worker does everything that production does: JSON of
three features in a thousand series, alerts published, offsets committed, checkpoints. It runs with one dense view,
once at least once and once with alerts and offsets in transactions, with the default, and with one recurrent view.
Needs KAFKA_HOME.
"""

import json
import statistics
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from models.detector import Detector
from models.fitting import fit_detector
from models.plan import plan_of
from pipeline.collector import quiet_collector
from pipeline.config import StreamSettings
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaPublisher, KafkaSource, open_delivery
from pipeline.connectors.storage import ObjectStorage
from pipeline.lanes import build_lane
from pipeline.protocols import Message
from pipeline.worker import Worker, WorkerOptions
from tests.benchmarks.beside import broker_beside

RECORDS, SERIES, RUNS = 300_000, 1_000, 5
CPU = torch.device("cpu")
STREAM = StreamSettings.model_validate(
    {
        "topic": "metrics",
        "time": "ts",
        "features": ["cpu", "mem", "net"],
        "alerts": {"budget": "1 per day"},
    }
)
BEGIN_MS, STEP_MS, HISTORY = 1_700_000_000_000, 60_000, 500


def values(first: int, points: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return noisy cycles [point, series, feature] from a point in time on."""
    random = np.random.default_rng(first)
    phase = np.arange(first, first + points)[:, None, None] / 60 + np.arange(SERIES)[None, :, None] + np.arange(3)
    return np.sin(phase) + 0.1 * random.standard_normal((points, SERIES, 3))


def fill(connection: Connection, records: int = RECORDS) -> float:
    """Produce the records, one in 2,000 of them strange; return their mean size in bytes."""
    points = records // SERIES
    x = values(HISTORY, points)
    x[np.random.default_rng(2).random((points, SERIES)) < 0.0005] += 5
    size = 0
    with closing(KafkaPublisher(connection, 60)) as publisher:
        for point in range(points):
            for series in range(SERIES):
                cpu, mem, net = x[point, series].round(4).tolist()
                row = {"ts": BEGIN_MS + STEP_MS * (HISTORY + point), "cpu": cpu, "mem": mem, "net": net}
                value = json.dumps(row, separators=(",", ":")).encode()
                size += len(value)
                publisher.send(Message("metrics", b"host-%04d" % series, value))
            publisher.flush(60)
    return size / records


def model(architecture: str, scale: float = 1.0) -> Detector:
    """Train on history of the same kind, so many times as large."""
    x = scale * values(0, HISTORY)
    time_ms = BEGIN_MS + STEP_MS * np.arange(HISTORY)
    columns = {f"host-{series:04d}": (time_ms, x[:, series]) for series in range(SERIES)}
    plan = plan_of("series", 3, architecture, {} if architecture == "default" else {"max_epochs": 2})
    return fit_detector("series", ("cpu", "mem", "net"), plan, columns, device=CPU)


def options() -> GroupOptions:
    return GroupOptions(uuid.uuid4().hex, fetch_min_bytes=20_000)


def bare_poll(connection: Connection) -> float:
    """Return records a second of a loop that only polls."""
    with closing(KafkaSource(connection, options(), ["metrics"])) as source:
        started_s, read = 0.0, 0
        while read < RECORDS:
            for place in source.assignment().gained:
                source.start(place, 0)
            polled = sum(len(records.records) for records in source.poll(1.0))
            started_s = started_s or (time.perf_counter() if polled else 0.0)
            read += polled
        return RECORDS / (time.perf_counter() - started_s)


def worker(
    connection: Connection,
    detector: Detector,
    folder: Path,
    way: Literal["at_least_once", "exactly_once"] = "at_least_once",
) -> float:
    """Return records a second of the whole worker."""
    lane = build_lane("metrics", STREAM, detector, "v1", CPU)
    storage = ObjectStorage((folder / uuid.uuid4().hex).as_uri())
    with ExitStack() as stack:
        group = options()
        source = stack.enter_context(closing(KafkaSource(connection, group, ["metrics"])))
        delivery = stack.enter_context(closing(open_delivery(way, connection, group, source)))
        state = StoredCheckpoints(storage), StoredAdoptions(storage)
        running = Worker([lane], source, delivery, *state, WorkerOptions("alerts", "dead"))
        started_s, done = 0.0, 0
        while done < RECORDS:
            before_s = time.perf_counter()
            moved = running.step()
            # The first poll that brings records counts from its own start.
            started_s = started_s or (before_s if moved else 0.0)
            done += moved
        return RECORDS / (time.perf_counter() - started_s)


def main() -> None:
    with broker_beside({"metrics": 1, "alerts": 1, "dead": 1}) as beside:
        connection, folder = beside.connection, beside.folder
        record_bytes = fill(connection)
        models = {name: model(name) for name in ("vanilla", "default", "recurrent")}
        quiet_collector()
        legs: dict[str, Callable[[], float]] = {
            "bare": lambda: bare_poll(connection),
            "worker": lambda: worker(connection, models["vanilla"], folder),
            "default": lambda: worker(connection, models["default"], folder),
            "exactly_once": lambda: worker(connection, models["vanilla"], folder, "exactly_once"),
            "recurrent": lambda: worker(connection, models["recurrent"], folder),
        }
        runs = {name: [] for name in legs}  # type: dict[str, list[float]]
        for _ in range(RUNS):
            for name, leg in legs.items():
                runs[name].append(leg())
    per_s = {name: statistics.median(figures) for name, figures in runs.items()}
    printed = {
        "bare_poll_per_s": round(per_s["bare"]),
        "worker_per_s": round(per_s["worker"]),
        "ratio": round(per_s["worker"] / per_s["bare"], 3),
        **{
            f"{name}_ratio": round(per_s[name] / per_s["bare"], 3)
            for name in ("default", "exactly_once", "recurrent")
        },
        "records": RECORDS,
        "record_bytes": round(record_bytes, 1),
        "runs": {name: [round(each) for each in figures] for name, figures in runs.items()},
        "machine": beside.machine,
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
