"""Flaws for a worker process: imported in it before its command begins.

Each changes one thing at one moment, in the way that an honest mistake in the worker's code would.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.adopting import Adopting
from pipeline.connectors.kafka import KafkaSource, KafkaTransactions
from pipeline.protocols import Message, PartitionRecords, TopicPartition


def lose_record(which: int) -> None:
    """Lose the which-eth good record of a series that arrives."""
    poll, seen = KafkaSource.poll, 0

    def losing(source: KafkaSource, timeout_s: float) -> Sequence[PartitionRecords]:
        nonlocal seen
        kept: list[PartitionRecords] = []
        for arrived in poll(source, timeout_s):
            records: list[Any] = []
            for record in arrived.records:
                seen += (record.key or b"").startswith(b"new-")
                if seen != which:
                    records.append(record)
                else:
                    seen += 1
            if records:
                kept.append(PartitionRecords(arrived.partition, records))
        return kept

    setattr(KafkaSource, "poll", losing)  # noqa: B010  # an assignment is none that types allow


def lose_alert(which: int) -> None:
    """Lose the which-eth alert on its way out."""
    _alter(which, lambda message: [])


def double_alert(which: int) -> None:
    """Send the which-eth alert twice."""
    _alter(which, lambda message: [message, message])


def change_score(which: int) -> None:
    """Say another score in the which-eth alert."""

    def changed(message: Message) -> Sequence[Message]:
        body = json.loads(message.value or b"")
        body["score"] += 0.001
        return [replace(message, value=json.dumps(body).encode())]

    _alter(which, changed)


def heed_unwritten() -> None:
    """Have feedback act on each partition at once, and write no entry that says so."""

    def heeding(adopting: Any, partition: TopicPartition, offset: int, lag: int) -> bool:
        lane = adopting._lane_of[partition.topic]
        if lane.feedback.words is not None:
            lane.pipeline.adopt_feedback(partition, offset, lane.feedback.words.said)
        return False

    setattr(Adopting, "_adopt", heeding)  # noqa: B010  # as above


def _alter(which: int, alter: Any) -> None:
    send, seen = KafkaTransactions.send, 0

    def altering(delivery: KafkaTransactions, message: Message) -> None:
        nonlocal seen
        is_alert = any(name == "ce_id" for name, _ in message.headers)
        seen += is_alert
        for each in alter(message) if is_alert and seen == which else [message]:
            send(delivery, each)

    setattr(KafkaTransactions, "send", altering)  # noqa: B010  # as above
