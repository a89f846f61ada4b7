"""A training that lasts: its epochs end by time, so that one that is ended early has some left for a second run."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster
from pipeline.connectors.storage import ObjectStorage
from tests.commands import configured, produce
from tests.streams import SERIES, series_payloads


def lasting_training(
    folder: Path, broker: str, unique: Callable[[str], str], seconds: float
) -> tuple[Path, ObjectStorage]:
    """Fill a topic; return the configuration of a stream that trains for so long, and its storage."""
    topic, connection = unique("metrics"), Connection(broker)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 1})
    produce(connection, topic, series_payloads(100))
    model = {"architecture": "vanilla", "max_epochs": 100_000, "max_seconds": seconds, "patience": 10**9}
    stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": topic, "model": model}
    path = configured(folder, broker, streams={"machines": stream})
    return path, ObjectStorage((folder / "storage").as_uri())
