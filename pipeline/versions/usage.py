"""Which version each partition is scored with, as far as its checkpoints tell."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.protocols import TopicPartition


@dataclass(frozen=True, slots=True)
class Serving:
    """What the newest checkpoint of a partition says of the worker that wrote it."""

    partition: TopicPartition
    model_version: str | None
    """None: the checkpoint cannot be read."""
    next_offset: int
    written_ms: int
    """When storage took it, by its clock."""


def partitions_of(version: str | None, serving: Iterable[Serving]) -> Sequence[tuple[str, Sequence[int], int]]:
    """Return (topic, its partitions that a version serves, when the oldest of their checkpoints was written).

    `version` None: those that do not tell.
    """
    own = sorted((each for each in serving if each.model_version == version), key=lambda each: each.partition)
    return [
        (topic, [each.partition.partition for each in group], min(each.written_ms for each in group))
        for topic, group in ((topic, list(part)) for topic, part in groupby(own, lambda each: each.partition.topic))
    ]
