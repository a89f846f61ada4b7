"""Which model version each partition is scored with, by what its worker has written: its newest checkpoint.

That is as durable as the state itself, and needs no channel of its own. It is as old as the checkpoint, which says
when it was written. Only the facts of a checkpoint are read, not its arrays, so its hash is not looked at.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.connectors.checkpoints import Storage, StoredCheckpoints
from pipeline.errors import CheckpointError
from pipeline.part_memory import read_facts
from pipeline.protocols import TopicPartition
from pipeline.versions.usage import Serving

_EARLY_HASH, _EARLY_LENGTH = 32, 8
"""An object of earlier versions: a hash, then safetensors, whose header has its length before it."""


def serving(storage: Storage, stream: str) -> Sequence[Serving]:
    """Return what the newest checkpoint of each partition of a stream says, in the order of topics and partitions.

    Raises:
        TransientError: storage does not answer.
        ConfigError: there is no right to read it.
    """
    folder = f"checkpoints/{stream}/"
    places = set()
    for name in storage.list(folder.rstrip("/")):
        topic, _, below = name.removeprefix(folder).partition("/")
        number, _, part = below.partition("/")
        if number.isdecimal() and part:
            places.add(TopicPartition(topic, int(number)))
    found = (_of_partition(storage, stream, place) for place in sorted(places))
    return [each for each in found if each is not None]


def _of_partition(storage: Storage, stream: str, partition: TopicPartition) -> Serving | None:
    """Return what the part says that lies furthest on, of the topic of the newest chain.

    A worker that was late may have begun the newest chain, behind the owner's.
    """
    best: tuple[str, Serving] | None = None
    for name in StoredCheckpoints(storage).newest_parts(stream, partition):
        written_ms = storage.written_ms(name)
        if written_ms is None:
            # Its worker has replaced it meanwhile.
            continue
        try:
            facts = _facts(storage, name)
            topic_id = str(facts["topic_id"])
            told = Serving(partition, str(facts["model_version"]), int(facts["next_offset"]), written_ms)
        except (CheckpointError, KeyError, TypeError, ValueError):
            topic_id, told = "", Serving(partition, None, 0, written_ms)
        if best is None or (best[0] == topic_id and told.next_offset > best[1].next_offset):
            best = topic_id, told
    return None if best is None else best[1]


def _facts(storage: Storage, name: str) -> Mapping[str, Any]:
    if "-" in name.rpartition("/")[2].replace("-", "", 1):
        return read_facts(partial(_read, storage, name))
    length = int.from_bytes(_read(storage, name, _EARLY_HASH, _EARLY_HASH + _EARLY_LENGTH), "little")
    begin = _EARLY_HASH + _EARLY_LENGTH
    header = json.loads(_read(storage, name, begin, begin + length))
    facts: Mapping[str, Any] = json.loads(header["__metadata__"]["checkpoint"])
    return facts


def _read(storage: Storage, name: str, start: int, end: int) -> bytes:
    content = storage.get_range(name, start, end)
    if content is None:
        raise CheckpointError("it is gone")
    return content
