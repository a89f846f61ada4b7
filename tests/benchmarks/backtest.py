"""A backtest against the live worker on the same records: `python -m tests.benchmarks.backtest`.

A topic on Apache Kafka is filled beforehand with the records of `worker_throughput`, and a recorder keeps them as
snapshots. Both legs take all of them in turn, five times each, on one core, the broker pinned to the others: the
worker with all that production does, the backtest with what `offkey backtest` does without `--output`, from the
reading of files to the incidents. Both with one dense view, then with the default. Needs KAFKA_HOME.
"""

import json
import statistics
import uuid
from contextlib import closing

from models.detector import Detector
from models.files import from_files, to_files
from pipeline.collector import quiet_collector
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaSource
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.fields import decoder_of
from pipeline.jobs.backtest import Replay
from pipeline.jobs.backtest_run import run_side
from pipeline.lanes import build_model, lane_around
from pipeline.recorded_partitions import RecordedStream
from pipeline.recorder import Recorder, RecorderOptions
from pipeline.replayed import ReplayDecoder
from tests.benchmarks.beside import broker_beside
from tests.benchmarks.worker_throughput import CPU, RECORDS, STREAM, fill, model, worker

RUNS = 5
LEGS = {"vanilla": "", "default": "default_"}
"""By the architecture, what stands before the figures of a model."""


def keep(connection: Connection, storage: ObjectStorage) -> None:
    """Have a recorder keep the whole topic."""
    features = tuple(STREAM.features or ())
    recorded = RecordedStream("metrics", "metrics", decoder_of(STREAM, features), features, "earliest")
    with closing(KafkaSource(connection, GroupOptions(uuid.uuid4().hex), ["metrics"])) as source:
        recorder = Recorder([recorded], source, StoredSnapshots(storage), RecorderOptions(), lambda: 0)
        left = RECORDS
        while left > 0:
            left -= recorder.step()
        recorder.close_files()


def backtest(storage: ObjectStorage, detector: Detector) -> tuple[float, int]:
    """Return (rows a second of a whole backtest, its incidents)."""
    built = build_model(STREAM, from_files(to_files(detector)), "v1", CPU)
    lane = lane_around("metrics", STREAM, built, decoder=ReplayDecoder(stateless=False))
    replay = Replay(lane, StoredSnapshots(storage), StoredCheckpoints(storage), StoredAdoptions(storage))
    result = run_side(replay, "live", None, None, lambda rows: None, None, False).result
    assert result.tally.rows == RECORDS
    return result.tally.rows / result.seconds, len(result.incidents)


def main() -> None:
    with broker_beside({"metrics": 1, "alerts": 1, "dead": 1}) as beside:
        connection, folder = beside.connection, beside.folder
        fill(connection)
        storage = ObjectStorage((folder / "storage").as_uri())
        keep(connection, storage)
        models = {architecture: model(architecture) for architecture in LEGS}
        quiet_collector()
        live = {name: [] for name in LEGS}  # type: dict[str, list[float]]
        rows = {name: [] for name in LEGS}  # type: dict[str, list[float]]
        found = dict.fromkeys(LEGS, 0)
        for _ in range(RUNS):
            for name, detector in models.items():
                live[name].append(worker(connection, detector, folder))
                per_s, found[name] = backtest(storage, detector)
                rows[name].append(per_s)
    printed: dict[str, object] = {}
    for name, before in LEGS.items():
        rows_per_s, live_per_s = statistics.median(rows[name]), statistics.median(live[name])
        printed |= {
            f"{before}rows_per_s": round(rows_per_s),
            f"{before}live_rows_per_s": round(live_per_s),
            f"{before}ratio": round(rows_per_s / live_per_s, 2),
            f"{before}incidents": found[name],
        }
    printed |= {
        "records": RECORDS,
        "runs": {
            name: {"rows_per_s": [*map(round, rows[name])], "live_rows_per_s": [*map(round, live[name])]}
            for name in LEGS
        },
        "machine": beside.machine,
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
