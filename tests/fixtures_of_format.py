"""Write the files of a format that later versions must still read: `python -m tests.fixtures_of_format v4`.

Run once, when the format was made; never again, since the files stand for what users have. What a new format left
as it was is kept once: of the third and the fourth only the checkpoints.
"""

import json
import sys
from pathlib import Path

import msgspec

from models.files import to_files
from pipeline.stages.alerts import structured
from tests import recording
from tests.streams import Bench, feature_payloads, series_detector, series_payloads

FIXTURES = Path(__file__).parent / "fixtures"
ARCHITECTURES = {"v1": "vanilla", "v2": "views", "v3": "views", "v4": "views"}
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
    # So few records that of a series less is new than is held.
    worker = bench.worker(architecture=architecture, max_poll_records=13)
    while worker.step():
        worker.checkpoint()
    for name in bench.checkpoints.storage.list("checkpoints/machines"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bench.checkpoints.storage.objects[name])
    with (folder / "alerts.jsonl").open("w") as lines:
        for record in bench.broker.records("alerts"):
            event = structured(dict(record.headers), record.value or b"")
            lines.write(msgspec.json.encode(event).decode() + "\n")


def snapshots(version: str) -> None:
    """Write snapshot files of two partitions and three days, and the rows that a reader finds in them."""
    folder = FIXTURES / version
    if folder.exists():
        raise SystemExit(f"{folder} is there already; it stays as it is")
    bench = recording.Bench()
    bench.fill(recording.payloads(90))
    recording.finish(bench.recorder())
    for name, content in bench.storage.objects.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with (folder / "rows.jsonl").open("w") as lines:
        for place, rows in sorted(bench.found().items()):
            for *row, values in rows:
                lines.write(json.dumps([*place, *row, values.hex()]) + "\n")


if __name__ == "__main__":
    {"snapshots1": snapshots}.get(sys.argv[1], main)(sys.argv[1])
