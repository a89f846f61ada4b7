"""Apache Kafka beside what a benchmark measures, which has the first core to itself; the broker has the others."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster
from tests.brokers import MISSING, ApacheBroker


@dataclass(frozen=True)
class Beside:
    """A broker with its topics, and a folder that goes with it."""

    connection: Connection
    folder: Path
    machine: str
    """What the figures were measured on."""


@contextmanager
def broker_beside(topics: Mapping[str, int]) -> Iterator[Beside]:
    """Start a broker with topics of so many partitions; this process, on one thread, keeps to the first core.

    Without KAFKA_HOME the process ends and says how to get one.
    """
    if not os.environ.get("KAFKA_HOME"):
        sys.exit(MISSING)
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {len(cores)} cores, Python {platform.python_version()}"
    with tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
        with closing(ApacheBroker(Path(folder))) as broker:
            os.sched_setaffinity(0, {cores[0]})
            connection = Connection(broker.bootstrap_servers)
            with closing(KafkaCluster(connection)) as cluster:
                cluster.create_topics(topics)
            yield Beside(connection, Path(folder), machine)
