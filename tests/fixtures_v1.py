"""Write the files of format 1 that later versions must still read: `python -m tests.fixtures_v1`.

Run once, when the format was made; never again, since the files stand for what users have.
"""

from pathlib import Path

import msgspec

from models.files import to_files
from pipeline.connectors import checkpoints
from pipeline.protocols import TopicPartition
from pipeline.stages.alerts import structured
from tests.streams import Bench, drain, feature_payloads, series_detector, series_payloads

FOLDER = Path(__file__).parent / "fixtures" / "v1"


def main() -> None:
    (FOLDER / "model").mkdir(parents=True, exist_ok=True)
    for name, content in to_files(series_detector()).items():
        (FOLDER / "model" / name).write_bytes(content)
    bench = Bench(partitions=1)
    bench.fill(series_payloads(100), feature_payloads())
    worker = bench.worker()
    drain(worker)
    worker.checkpoint()
    kept = bench.checkpoints.newest("machines", TopicPartition("metrics", 0), 10**9)
    assert kept is not None
    (FOLDER / "checkpoint").write_bytes(checkpoints.encode(kept))
    with (FOLDER / "alerts.jsonl").open("w") as lines:
        for record in bench.broker.records("alerts"):
            event = structured(dict(record.headers), record.value or b"")
            lines.write(msgspec.json.encode(event).decode() + "\n")


if __name__ == "__main__":
    main()
