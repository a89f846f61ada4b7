"""Dead letters on a broker, and `offkey dead-letters` on them as users run it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaLog, KafkaPublisher
from pipeline.protocols import Message
from tests.commands import configured, offkey
from tests.streams import FEATURES, SERIES


@dataclass
class Setting:
    """A configuration of two streams, and its topics on a broker."""

    config: Path
    connection: Connection
    metrics: str
    payments: str
    dead: str

    def letters(self, messages: Sequence[Message]) -> None:
        """Publish letters, which name the topics `metrics` and `payments`, and other records as they are."""
        own = {"metrics": self.metrics.encode(), "payments": self.payments.encode()}
        with closing(KafkaPublisher(self.connection)) as publisher:
            for message in messages:
                headers = [
                    (name, own[value.decode()] if name == "__connect.errors.topic" else value)
                    for name, value in message.headers
                ]
                publisher.send(Message(self.dead, message.key, message.value, headers))
            publisher.flush(30)

    def records(self, topic: str) -> list[Any]:
        """Return (partition, record) of all committed records."""
        return [
            (arrived.partition.partition, record)
            for arrived in KafkaLog(self.connection, topic).read()
            for record in arrived.records
        ]

    def came(self) -> Counter[bytes]:
        """Return how often each value has come back to the topic `metrics`."""
        return Counter(record.value for _, record in self.records(self.metrics))


def setting(broker: str, unique: Callable[[str], str], tmp_path: Path) -> Setting:
    metrics, payments, dead = map(unique, ("metrics", "payments", "dead"))
    connection = Connection(broker)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({metrics: 3, payments: 1, dead: 2})
    streams = {
        "machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": metrics},
        "payments": FEATURES.model_dump(mode="json", exclude_unset=True) | {"topic": payments},
    }
    topics = {"alerts": unique("alerts"), "dead_letters": dead}
    return Setting(
        configured(tmp_path, broker, streams=streams, topics=topics), connection, metrics, payments, dead
    )


def listed(config: Path, *arguments: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the lines of kinds and those of letters."""
    done = offkey("dead-letters", "list", str(config), "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line for line in lines if "letters" in line], [line for line in lines if "letter" in line]


def replayed(config: Path, *arguments: str) -> dict[tuple[str, str], int]:
    done = offkey("dead-letters", "replay", str(config), "--yes", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {(line["stream"], line["reason"]): line["sent"] for line in lines}
