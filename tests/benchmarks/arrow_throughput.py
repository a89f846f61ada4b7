"""Points of Arrow records against JSON ones: `python -m tests.benchmarks.arrow_throughput`.

Two topics on Apache Kafka are filled beforehand with the same rows of three features in a thousand series: one JSON
object a record, and one Arrow stream of a thousand rows a record, each series once. The legs, a worker on each,
read all of it in turn, five times each, on one core; the broker is pinned to the others, so its share is kept out.
A worker does everything that production does: a dense model, alerts published, offsets committed, checkpoints.
Needs KAFKA_HOME. `--rows N`: rows of an Arrow record.
"""

import argparse
import json
import statistics
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow

from pipeline.collector import quiet_collector
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaPublisher, KafkaSource, open_delivery
from pipeline.connectors.storage import ObjectStorage
from pipeline.lanes import build_lane
from pipeline.protocols import Message
from pipeline.worker import Worker, WorkerOptions
from tests.arrows import stream_of
from tests.benchmarks.beside import broker_beside
from tests.benchmarks.worker_throughput import (
    BEGIN_MS,
    CPU,
    HISTORY,
    RECORDS,
    RUNS,
    SERIES,
    STEP_MS,
    STREAM,
    model,
    options,
    values,
)

POINTS = RECORDS // SERIES
NAMES = [f"host-{series:04d}" for series in range(SERIES)]
STREAMS = {
    "json": STREAM,
    "arrow": STREAM.model_copy(update={"topic": "columns", "format": "arrow", "series": ["host"]}),
}


def fill(connection: Connection, rows: int) -> dict[str, float]:
    """Produce the rows to both topics, one in 2,000 of them strange; return the bytes of a row in each."""
    x = values(HISTORY, POINTS)
    x[np.random.default_rng(2).random((POINTS, SERIES)) < 0.0005] += 5
    x = x.round(4)
    size = {"json": 0, "arrow": 0}
    with closing(KafkaPublisher(connection, 60)) as publisher:
        for point in range(POINTS):
            time_ms = BEGIN_MS + STEP_MS * (HISTORY + point)
            for series in range(SERIES):
                cpu, mem, net = x[point, series].tolist()
                row = {"ts": time_ms, "cpu": cpu, "mem": mem, "net": net}
                value = json.dumps(row, separators=(",", ":")).encode()
                size["json"] += len(value)
                publisher.send(Message("metrics", NAMES[series].encode(), value))
            for low in range(0, SERIES, rows):
                value = arrow_record(time_ms, NAMES[low : low + rows], x[point, low : low + rows])
                size["arrow"] += len(value)
                publisher.send(Message("columns", None, value))
            publisher.flush(60)
    return {name: round(each / RECORDS, 1) for name, each in size.items()}


def arrow_record(time_ms: int, names: Sequence[str], x_NF: np.ndarray[Any, np.dtype[np.float64]]) -> bytes:
    """Return an Arrow stream of one row for each series."""
    columns = {
        "host": pyarrow.array(names).dictionary_encode(),
        "ts": pyarrow.array(np.full(len(names), time_ms), pyarrow.timestamp("ms", "UTC")),
    }
    columns |= {name: pyarrow.array(x_NF[:, i]) for i, name in enumerate(STREAM.features or ())}
    return stream_of(pyarrow.record_batch(columns))


class Leg(NamedTuple):
    """What one worker did."""

    points_per_s: float
    points_per_cpu_s: float
    """By the time of its own processor, which other work on the machine does not change as much."""
    shares: dict[str, float]
    """Of each stage in its time."""


def worker(connection: Connection, detector: Any, folder: Path, leg: str) -> Leg:
    """Let a worker read the topic of a leg to its end."""
    lane = build_lane("metrics", STREAMS[leg], detector, "v1", CPU)
    storage = ObjectStorage((folder / uuid.uuid4().hex).as_uri())
    with ExitStack() as stack:
        group = options()
        source = stack.enter_context(closing(KafkaSource(connection, group, [lane.topic])))
        delivery = stack.enter_context(closing(open_delivery("at_least_once", connection, group, source)))
        state = StoredCheckpoints(storage), StoredAdoptions(storage)
        running = Worker([lane], source, delivery, *state, WorkerOptions("alerts", "dead"))
        started_s = cpu_s = 0.0
        before, lag = stages(), 1
        while not started_s or lag:
            clocks = time.perf_counter(), time.process_time()
            # The first poll that brings records counts from its own start.
            if running.step() and not started_s:
                started_s, cpu_s = clocks
            lag = sum(source.lag().values())
        took_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        shares = {name: (each - before.get(name, 0)) / took_s for name, each in stages().items()}
        return Leg(RECORDS / took_s, RECORDS / cpu_s, shares)


def stages() -> dict[str, float]:
    """Return the seconds that each stage has taken in this process."""
    from pipeline.metrics import STAGE_DURATION_SECONDS

    samples = next(iter(STAGE_DURATION_SECONDS.collect())).samples
    return {each.labels["stage"]: each.value for each in samples if each.name.endswith("_sum")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=SERIES)
    rows = parser.parse_args().rows
    with broker_beside({"metrics": 1, "columns": 1, "alerts": 1, "dead": 1}) as beside:
        connection, folder = beside.connection, beside.folder
        row_bytes, detector = fill(connection, rows), model("vanilla")
        quiet_collector()
        runs: dict[str, list[Leg]] = {name: [] for name in STREAMS}
        for _ in range(RUNS):
            for name, figures in runs.items():
                figures.append(worker(connection, detector, folder, name))
    of_json, of_arrow = (statistics.median(leg.points_per_s for leg in runs[name]) for name in ("json", "arrow"))
    cpu_json, cpu_arrow = (
        statistics.median(leg.points_per_cpu_s for leg in runs[name]) for name in ("json", "arrow")
    )
    printed = {
        "points_per_s": round(of_arrow),
        "json_points_per_s": round(of_json),
        "ratio": round(of_arrow / of_json, 2),
        "cpu_ratio": round(cpu_arrow / cpu_json, 2),
        "rows": RECORDS,
        "rows_per_record": rows,
        "row_bytes": row_bytes,
        "runs": {name: [round(leg.points_per_s) for leg in legs] for name, legs in runs.items()},
        "cpu_runs": {name: [round(leg.points_per_cpu_s) for leg in legs] for name, legs in runs.items()},
        "stages": {
            name: {stage: round(statistics.median(leg.shares[stage] for leg in legs), 3) for stage in stages()}
            for name, legs in runs.items()
        },
        "machine": beside.machine,
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
