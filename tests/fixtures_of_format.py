"""Write the files of a format that later versions must still read: `python -m tests.fixtures_of_format v2`.

Run once, when the format was made; never again, since the files stand for what users have.
"""

import sys
from pathlib import Path

import msgspec

from models.files import to_files
from pipeline.connectors import checkpoints
from pipeline.protocols import TopicPartition
from pipeline.stages.alerts import structured
from tests.streams import Bench, drain, feature_payloads, series_detector, series_payloads

FIXTURES = Path(__file__).parent / "fixtures"
ARCHITECTURES = {"v1": "vanilla", "v2": "views"}
"""What the model of each format is made of."""


def main(version: str) -> None:
    folder, architecture = FIXTURES / version, ARCHITECTURES[version]
    if folder.exists():
        raise SystemExit(f"{folder} is there already; it stays as it is")
    (folder / "model").mkdir(parents=True)
    for name, content in to_files(series_detector(architecture)).items():
        (folder / "model" / name).write_bytes(content)
    bench = Bench(partitions=1)
    bench.fill(series_payloads(100), feature_payloads())
    worker = bench.worker(architecture=architecture)
    drain(worker)
    worker.checkpoint()
    kept = bench.checkpoints.newest("machines", TopicPartition("metrics", 0), 10**9)
    assert kept is not None
    (folder / "checkpoint").write_bytes(checkpoints.encode(kept))
    with (folder / "alerts.jsonl").open("w") as lines:
        for record in bench.broker.records("alerts"):
            event = structured(dict(record.headers), record.value or b"")
            lines.write(msgspec.json.encode(event).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
