"""Everything outside of notifiers: a broker in memory, and a real server that is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.connectors.http_post import HttpPost
from pipeline.connectors.memory import MemoryBroker, MemoryPublisher, MemorySource
from pipeline.delivery import AtLeastOnce
from pipeline.notifier import Notifier, NotifierOptions
from pipeline.protocols import TopicPartition
from pipeline.receivers.alertmanager import Alertmanager
from pipeline.receivers.answers import Poster
from pipeline.receivers.told import Receiver
from pipeline.receivers.webhooks import Webhook, generic
from pipeline.stages.alerts import Alert, message
from pipeline.stages.dead_letters import RECEIVER, letter
from tests.pipeline.stages.test_alerts import alert
from tests.receiving import Hook, Reply

NOW_MS = 1_700_000_100_000
ALERTS, LETTERS = "alerts", "letters"
FIRST = TopicPartition(ALERTS, 0)
DOWN, UP = Reply(503), Reply(200)


@dataclass
class World:
    """Everything outside of notifiers, which come and go."""

    hook: Hook
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    now_s: float = 1000.0
    options: NotifierOptions = field(
        default_factory=lambda: NotifierOptions(LETTERS, "earliest", retry_for_s=100.0, poll_timeout_s=0)
    )
    publisher: MemoryPublisher | None = None
    poll_records: int = 1000

    def __post_init__(self) -> None:
        self.broker.create_topic(ALERTS, 2)
        self.broker.create_topic(LETTERS)

    def publish(self, *said: Alert, partition: int = 0, timestamp: int = NOW_MS) -> None:
        for each in said:
            sent = message(each, ALERTS)
            self.broker.append(
                ALERTS,
                sent.value,
                key=sent.key,
                headers=sent.headers,
                partition=partition,
                timestamp=timestamp,
            )

    def notifier(self, manager: bool = False, **options: Any) -> Notifier:
        """Return a new one, in a process of its own as it were."""
        self.broker.members.clear()
        poster = Poster("hook", HttpPost(self.hook.url, lambda: NOW_MS / 1000, timeout_s=2))
        receiver: Receiver = Webhook(generic(None, lambda: NOW_MS), poster)
        if manager:
            receiver = Alertmanager("hook", poster, lambda: NOW_MS)
        source = MemorySource(self.broker, [ALERTS], self.poll_records)
        return Notifier(
            "hook",
            ALERTS,
            source,
            AtLeastOnce(self.publisher or MemoryPublisher(self.broker), source),
            receiver,
            replace(self.options, **options),
            lambda: NOW_MS,
            lambda: self.now_s,
            lambda: 1.0,
        )

    def told(self) -> list[str]:
        """Return the incidents that the receiver has taken, in order."""
        return [request.json["data"]["incident"] for request in self.hook.requests]

    def firing(self) -> list[tuple[str, bool]]:
        """Return the incidents of the last post to an Alertmanager, and whether each goes on."""
        posts = self.hook.requests[-1].json
        return [(post["labels"]["incident"], post["endsAt"] > "2023-11-14T22:15") for post in posts]

    def letters(self) -> list[tuple[str, str, str]]:
        """Return receiver, reason and text of each dead letter."""
        found = []
        for record in self.broker.records(LETTERS):
            read = letter(TopicPartition(LETTERS, 0), record)
            assert read is not None
            assert record.value == self.broker.topics[ALERTS][read.origin.partition][read.origin_offset].value
            found.append((dict(record.headers)[RECEIVER].decode(), read.reason, read.text))
        return found


def incidents(*names: str) -> Sequence[Alert]:
    return [alert(incident=name, offset=number) for number, name in enumerate(names)]
