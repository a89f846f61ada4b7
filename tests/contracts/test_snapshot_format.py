"""Snapshots that the first version wrote are read by this one."""

import json
from pathlib import Path

from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.snapshots import Gap
from tests.snapshots import told

KEPT = Path(__file__).parent.parent / "fixtures" / "snapshots1"


def test_those_of_the_first_format_are_read() -> None:
    def whole(gap: Gap) -> None:
        raise AssertionError(str(gap))

    snapshots, found = StoredSnapshots(ObjectStorage(KEPT.as_uri())), []
    for rows in snapshots.read("machines", 0, 2**62, whole, ("cpu", "mem")):
        found += [[*rows.partition, *row, values.hex()] for *row, values in told(rows)]
    expected = [json.loads(line) for line in (KEPT / "rows.jsonl").read_text().splitlines()]
    assert len(expected) == 77
    assert sorted(found) == sorted(expected)
