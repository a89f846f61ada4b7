"""Scores of every replayed point, for the report: `python -m pipeline.demo.curves CONFIG FOLDER BEGINS`.

The worker publishes alerts only. This reads the same records from the same topics, from the offsets in
BEGINS (`{"topic": [offset of each partition]}`) on, and runs the worker's own stages over them with the models that
its log of adoptions names; so it has to come to the same alerts, and their ids are kept beside the scores as the
proof.

It is a program of its own because it needs torch, which the demo keeps out of its own process.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.adopting import Adopting
from pipeline.config import Settings, load_settings
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, history
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.lanes import champion_of, choose_device, lane_around, load_model
from pipeline.protocols import PartitionRecords, TopicPartition

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
    load = partial(load_model, name, stream, registry, choose_device(settings.device))
    lane = lane_around(name, stream, load(champion_of(name, registry).version), load=load)
    connection = Connection(settings.kafka.bootstrap_servers)
    followed = Adopting({stream.topic: lane}, StoredAdoptions(ObjectStorage(settings.storage)))
    with closing(KafkaCluster(connection)) as cluster:
        topic_id = cluster.topic(stream.topic).id
    for number, begin in enumerate(begins[stream.topic]):
        followed.follow(TopicPartition(stream.topic, number), topic_id, begin, None)
    series: list[str] = []
    columns: list[tuple[npt.NDArray[np.generic], ...]] = []
    ids: list[str] = []
    late = 0
    runs = (
        run
        for arrived in _since(history(connection, stream.topic, _ALL), begins)
        for run in followed.runs([arrived])
    )
    for model, run in runs:
        lane.pipeline.use(model)
        outcome = lane.pipeline.process(run)
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
