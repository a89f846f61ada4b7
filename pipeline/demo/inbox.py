"""The demo as a consumer of alerts: it reads the alerts topic as any other program would."""

from collections.abc import Set
from pathlib import Path

import msgspec

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaSource
from pipeline.protocols import TopicPartition
from pipeline.stages.alerts import Alert, CloudEvent, structured

_WAITING_POLLS = 60


class Inbox:
    """Alerts consumed so far, from the beginning of a topic with one partition."""

    def __init__(self, connection: Connection, topic: str) -> None:
        group = GroupOptions("offkey-demo-alerts", max_poll_interval_s=6.0)
        self._source = KafkaSource(connection, group, [topic])
        self._topic = topic
        self._next_offset = 0
        self.events: list[CloudEvent] = []

    def poll(self, timeout_s: float) -> list[CloudEvent]:
        """Return what has arrived since the last call."""
        for partition in self._source.assignment().gained:
            self._source.start(partition, self._next_offset)
        new = []
        for arrived in self._source.poll(timeout_s):
            self._next_offset = arrived.next_offset
            new += [structured(dict(record.headers), record.value or b"") for record in arrived.records]
        self.events += new
        return new

    def ends(self, topic: str, partitions: int) -> list[int]:
        """Return the end offset of each partition of any topic."""
        return [self._source.offsets(TopicPartition(topic, number)).end for number in range(partitions)]

    def wait_for(self, ids: Set[str]) -> int:
        """Read on until alerts of these ids have come; return how many of them never did."""
        for _ in range(_WAITING_POLLS):
            missing = ids - {event.id for event in self.events}
            if not missing:
                break
            self.poll(0.5)
        return len(missing)

    def alerts(self) -> list[Alert]:
        """Return each alert once, in the order of arrival, whatever was published twice."""
        return list({event.id: event.data for event in self.events}.values())

    def write(self, path: Path) -> None:
        """Write what was consumed, one CloudEvent a line."""
        with path.open("wb") as file:
            for event in self.events:
                file.write(msgspec.json.encode(event) + b"\n")

    def close(self) -> None:
        self._source.close()
