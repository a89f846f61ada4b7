"""Scores of every replayed point, for the report: `python -m pipeline.demo.curves CONFIG FOLDER BEGINS`.

The worker publishes alerts only. This reads the same records from the same topics, from the offsets in
BEGINS (`{"topic": [offset of each partition]}`) on, and runs the worker's own stages over them with the same
model; so it has to come to the same alerts, and their ids are kept beside the scores as the proof.

It is a program of its own because it needs torch, which the demo keeps out of its own process.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config import Settings, load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import history
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.lanes import build_lane, choose_device, load_champion
from pipeline.protocols import PartitionRecords

_ALL = 1 << 40


def main(config: Path, folder: Path, begins: Mapping[str, Sequence[int]]) -> None:
    """Write one `STREAM.npz` for each stream."""
    settings = load_settings(config)
    for name in settings.streams:
        np.savez(folder / f"{name}.npz", **curves_of(name, settings, begins), allow_pickle=False)


def curves_of(
    name: str, settings: Settings, begins: Mapping[str, Sequence[int]]
) -> dict[str, npt.NDArray[np.generic]]:
    """Return series, time, offset, score and threshold of each point, the ids of alerts, how many came late."""
    stream, registry = settings.streams[name], StoredRegistry(ObjectStorage(settings.storage))
    device = choose_device(settings.device)
    pipeline = build_lane(name, stream, *load_champion(name, stream, registry), device).pipeline
    series: list[str] = []
    columns: list[tuple[npt.NDArray[np.generic], ...]] = []
    ids: list[str] = []
    late = 0
    for arrived in _since(history(Connection(settings.kafka.bootstrap_servers), stream.topic, _ALL), begins):
        outcome = pipeline.process([arrived])
        scored = outcome.scored
        series += scored.series
        columns.append((scored.time_ms_M, scored.offset_M, scored.score_M, scored.threshold_M))
        ids += [alert.id for alert in outcome.alerts]
        late += outcome.late
    time_ms_N, offset_N, score_N, threshold_N = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return {
        "series": np.array(series, np.str_),
        "time_ms": time_ms_N,
        "offset": offset_N,
        "score": score_N,
        "threshold": threshold_N,
        "alert_ids": np.array(ids, np.str_),
        "late": np.array(late),
    }


def _since(arrived: Iterator[PartitionRecords], begins: Mapping[str, Sequence[int]]) -> Iterator[PartitionRecords]:
    for records in arrived:
        begin = begins[records.partition.topic][records.partition.partition]
        rest = [record for record in records.records if record.offset >= begin]
        if rest:
            yield PartitionRecords(records.partition, rest)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
