"""A user of Kafka with some of the rights that a command needs, and all that commands work on."""

import re
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ResourceType

from deploy.rights import KEYS, Right, filled
from pipeline.cli_who_when import now_ms
from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaLog, KafkaPublisher
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.feedback import message as message_of_feedback
from pipeline.protocols import Message, OffsetRange, TopicPartition
from pipeline.stages import alerts
from tests.commands import configured, produce, promote
from tests.pipeline.letters.desks import rejected
from tests.pipeline.stages.test_alerts import alert
from tests.receiving import Hook
from tests.said import said
from tests.secured import PASSWORD, SecuredBroker, rule
from tests.snapshots import rows_of
from tests.streams import SERIES, STEP_MS, payloads_of, series_rows

INCIDENT = "3f2a9c41d07be65890abf3e1c2d47765"
SAID = "5a" * 16
"""Of something was said."""


class Ground:
    """A user without rights, a configuration that logs in as it, and its own topics with all that commands read."""

    def __init__(self, folder: Path, broker: SecuredBroker, hook: Hook) -> None:
        """`hook` is what `notify` tells."""
        self.folder, self.broker = folder, broker
        self.names = {key: _unique(name) for key, name in KEYS.items()}
        self.open = Connection(broker.open)
        self.hook = hook
        self._admin = KafkaAdminClient(bootstrap_servers=broker.open)
        (folder / "password").write_text(f"{PASSWORD}\n")
        policies = {self.names["topics.feedback"]: {"cleanup.policy": "compact"}}
        topics = [name for key, name in self.names.items() if "topic" in key]
        made = {"num_partitions": 1, "replication_factor": 1}
        self._admin.create_topics({name: {**made, "configs": policies.get(name, {})} for name in topics})
        self.begin_anew()
        promote(self.configured())
        self._fill()

    def begin_anew(self) -> None:
        """Go on as another user, in another group."""
        self.user, self.names["kafka.group_id"] = _unique("user"), _unique("group")
        self.broker.let_in(self.user, with_all_rights=False)

    def close(self) -> None:
        self._admin.close()

    def configured(self, retrained: bool = False, **kafka: Any) -> Path:
        """Write the configuration."""
        security = {
            "tls": True,
            "ca_file": str(self.broker.authority.certificate),
            "mechanism": "SCRAM-SHA-512",
            "username": self.user,
            "password_file": str(self.folder / "password"),
        }
        receiver = {"type": "webhook", "url": self.hook.url, "start": "earliest"}
        at = {"bootstrap_servers": self.broker.addresses["SECURE"], "security": security}
        topics = {key: self.named(f"{{topics.{key}}}") for key in ("alerts", "dead_letters", "feedback", "control")}
        stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": self.named("{streams.*.topic}")}
        stream["model"] = {"architecture": "vanilla", "hidden": 8, "max_epochs": 1}
        if retrained:
            stream["retrain"] = {"every": "24h"}
        return configured(
            self.folder,
            kafka={
                **at,
                "group_id": self.named("{kafka.group_id}"),
                "instance_id": self.named("{kafka.instance_id}"),
                "connect_timeout": 20,
                "session_timeout": 6,
                **kafka,
            },
            topics=topics,
            streams={"machines": stream},
            recorder={"port": 0, "file_age": 0.2},
            scheduler={"port": 0},
            notify={"port": 0, "receivers": {self.named("{notify.receivers.*}"): receiver}},
        )

    def named(self, template: str) -> str:
        return filled(template, self.names)

    def committed(self, group: str) -> int:
        """Return the offset that a group has committed of the one topic that it reads; 0: none."""
        offsets = self._admin.list_group_offsets({self.named(group): None})[self.named(group)]
        return max((at.offset for at in offsets.values()), default=0)

    def end(self, topic: str) -> int:
        """Return where whoever has read all of a topic goes on: not behind the end of a transaction."""
        read = KafkaLog(self.open, self.named(topic)).read()
        return max((record.offset + 1 for arrived in read for record in arrived.records), default=0)

    def read(self, topic: str) -> int:
        """Return how many records whoever reads committed ones finds."""
        return sum(len(arrived.records) for arrived in KafkaLog(self.open, self.named(topic)).read())

    def rules(self, rights: Sequence[Right]) -> list[ACL]:
        return [
            rule(
                self.user,
                ResourceType[constant_of(right.resource)],
                self.named(right.name),
                ACLOperation[constant_of(right.operation)],
                prefixed=right.prefixed,
            )
            for right in rights
        ]

    def grant(self, *rights: Right) -> None:
        self.broker.grant(self.rules(rights))

    def take(self, *rights: Right) -> None:
        for _, taken, _ in self._admin.delete_acls(self.rules(rights)):
            assert len(taken) == 1

    def alert(self) -> None:
        """Have one alert more on its topic."""
        topic = self.named("{streams.*.topic}")
        self._publish(alerts.message(alert(incident=INCIDENT, topic=topic), self.named("{topics.alerts}")))

    def _publish(self, *messages: Message) -> None:
        with closing(KafkaPublisher(self.open)) as publisher:
            for each in messages:
                publisher.send(each)
            publisher.flush(30)

    def _fill(self) -> None:
        """Write a topic that a model can learn from, a letter and an alert; keep rows as a recorder does."""
        names, points = ["a", "b"], 900
        x_STF = series_rows(names, points, 3, {"a": [700]})
        topic, letters = self.named("{streams.*.topic}"), self.named("{topics.dead_letters}")
        produce(self.open, topic, [*payloads_of(names, x_STF), (b"a", b"no JSON")])
        letter = rejected(0, topic=topic)
        before = message_of_feedback(said(SAID, topic=topic), self.named("{topics.feedback}"))
        self._publish(Message(letters, letter.key, letter.value, letter.headers), before)
        self.alert()
        snapshots = StoredSnapshots(ObjectStorage(load_settings(self.configured()).storage))
        time_ms_T = now_ms() - STEP_MS * np.arange(points, 0, -1)
        rows = rows_of(x_STF.transpose(1, 0, 2), time_ms_T, names, place=TopicPartition(topic, 0))
        snapshots.write("machines", rows, OffsetRange(0, len(rows)), int(time_ms_T[-1]))


def constant_of(word: str) -> str:
    """Return what the client calls a resource or an operation of Kafka's command: `DescribeConfigs`."""
    return re.sub(r"-|(?<=[a-z])(?=[A-Z])", "_", word).upper()


def _unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"
