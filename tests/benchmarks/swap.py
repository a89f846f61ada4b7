"""What a swap costs at full load: `KAFKA_HOME=... python -m tests.benchmarks.swap`.

A topic on Apache Kafka is filled beforehand; a worker reads all of it on one core, the broker runs on the other. In
every second leg ten promotions are written to the registry while it reads, in turn of two versions of the default
that know the thousand series by other scalings. The watcher finds, loads and tries each on its own thread, as in
`offkey worker`, but looks a hundred times as often, for the whole topic is read in seconds.

A gap is the time from the end of one turn of the loop that brought records to the end of the next, once a twentieth
of the topic is read: before, series begin. What is printed are medians of the legs' longest. Needs KAFKA_HOME.
"""

import json
import statistics
import threading
import time
import uuid
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY

from models.files import to_files
from pipeline.collector import quiet_collector
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaSource, open_delivery
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.lanes import lane_around, load_model
from pipeline.protocols import ModelVersion
from pipeline.swap import Watcher
from pipeline.versions.log import Promotion
from pipeline.worker import Worker, WorkerOptions
from tests.benchmarks.beside import broker_beside
from tests.benchmarks.worker_throughput import CPU, STREAM, fill, model, options

SWAPS, RUNS, RECORDS = 10, 9, 600_000
_POINTS = ("scored", "warming")


class Leg(NamedTuple):
    """What one run of the worker came to."""

    longest_gap_ms: float
    records_lost: int
    records_per_s: float
    swaps: int


def points() -> float:
    """Return how many points there were, scored or warming."""
    return sum(
        REGISTRY.get_sample_value(f"offkey_points_{kind}_total", {"stream": "metrics"}) or 0 for kind in _POINTS
    )


def adoptions() -> float:
    return REGISTRY.get_sample_value("offkey_model_adoptions_total", {"stream": "metrics"}) or 0


def run(connection: Connection, files: list[dict[str, bytes]], folder: Path, swaps: int) -> Leg:
    """Read the whole topic, with so many promotions meanwhile."""
    storage = ObjectStorage((folder / uuid.uuid4().hex).as_uri())
    registry = StoredRegistry(storage)
    for version, content in zip("ab", files, strict=True):
        registry.add(ModelVersion("metrics", version, content))
    registry.promote("metrics", Promotion(1, "a", 0, "benchmark"))
    load = partial(load_model, "metrics", STREAM, registry, CPU)
    lane = lane_around("metrics", STREAM, load("a"), load=load)
    ended, read, began = threading.Event(), [0], (points(), adoptions())

    def promote() -> None:
        for number in range(1, swaps + 1):
            # The next one comes when the one before serves.
            due = RECORDS * number / (swaps + 1)
            while not (read[0] >= due and adoptions() - began[1] >= number - 1) and not ended.wait(0.05):
                pass
            registry.promote("metrics", Promotion(number + 1, "ab"[number % 2], number, "benchmark"))

    with ExitStack() as stack:
        group = options()
        source = stack.enter_context(closing(KafkaSource(connection, group, ["metrics"])))
        delivery = stack.enter_context(closing(open_delivery("at_least_once", connection, group, source)))
        state = StoredCheckpoints(storage), StoredAdoptions(storage)
        worker = Worker([lane], source, delivery, *state, WorkerOptions("alerts", "dead"))
        watching = Watcher({"metrics": lane.slot}, registry).begin(0.1)
        stack.callback(watching.set)
        promoting = threading.Thread(target=promote)
        promoting.start()
        gaps_s, last_s, first_s = [], 0.0, 0.0
        while read[0] < RECORDS:
            moved = worker.step()
            now_s = time.perf_counter()
            if moved:
                gaps_s.append(now_s - last_s if read[0] > RECORDS / 20 else 0.0)
                last_s, first_s = now_s, first_s or now_s
            read[0] += moved
        ended.set()
        promoting.join()
    lost = RECORDS - round(points() - began[0])
    return Leg(1000 * max(gaps_s), lost, RECORDS / (last_s - first_s), round(adoptions() - began[1]))


def main() -> None:
    with broker_beside({"metrics": 1, "alerts": 1, "dead": 1}) as beside:
        connection, folder = beside.connection, beside.folder
        fill(connection, RECORDS)
        files = [to_files(model("default", scale)) for scale in (1.0, 1.2)]
        quiet_collector()
        legs: dict[int, list[Leg]] = {0: [], SWAPS: []}
        run(connection, files, folder, 1)
        for _ in range(RUNS):
            for swaps, done in legs.items():
                done.append(run(connection, files, folder, swaps))
    without, with_swaps = legs[0], legs[SWAPS]
    printed = {
        "longest_gap_with_swap_ms": round(statistics.median(leg.longest_gap_ms for leg in with_swaps), 1),
        "longest_gap_without_ms": round(statistics.median(leg.longest_gap_ms for leg in without), 1),
        "records_lost": sum(leg.records_lost for leg in with_swaps),
        "swaps": [leg.swaps for leg in with_swaps],
        "records_per_s": [
            round(statistics.median(leg.records_per_s for leg in each)) for each in (without, with_swaps)
        ],
        "gaps_ms": [[round(leg.longest_gap_ms, 1) for leg in each] for each in (without, with_swaps)],
        "machine": beside.machine,
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
