"""Which model version each partition is scored with, by what its worker has written: its newest checkpoint.

That is as durable as the state itself, and needs no channel of its own. It is as old as the checkpoint, which says
when it was written. Only the facts of a checkpoint are read, not its arrays, so its hash is not looked at.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.objects import Storage
from pipeline.errors import CheckpointError
from pipeline.part_memory import read_facts
from pipeline.protocols import TopicPartition
from pipeline.versions.usage import Serving

_AT_ONCE = 8
"""Partitions that are asked at a time: a store may take long for each answer, and a topic may have hundreds."""
_EARLY = re.compile(r"\d+-\d+")
_EARLY_HASH, _EARLY_HEADER = 32, 40
"""An object of earlier versions: a hash, the length of a header, and the header, all as safetensors has it."""


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
    with ThreadPoolExecutor(_AT_ONCE, "serving") as pool:
        found = pool.map(partial(_of_partition, storage, stream), sorted(places))
        return [each for each in found if each is not None]


def _of_partition(storage: Storage, stream: str, partition: TopicPartition) -> Serving | None:
    """Return what the part says that lies furthest on, of the topic of the newest chain.

    A worker that was late may have begun the newest chain, behind the owner's.
    """
    best: tuple[str, Serving] | None = None
    for name in StoredCheckpoints(storage).newest_parts(stream, partition):
        stat = storage.stat(name)
        if stat is None:
            # Its worker has replaced it meanwhile.
            continue
        try:
            facts = _facts(storage, name, stat.size_bytes)
            topic_id = str(facts["topic_id"])
            told = Serving(partition, str(facts["model_version"]), int(facts["next_offset"]), stat.written_ms)
        except (CheckpointError, KeyError, TypeError, ValueError):
            topic_id, told = "", Serving(partition, None, 0, stat.written_ms)
        if best is None or (best[0] == topic_id and told.next_offset > best[1].next_offset):
            best = topic_id, told
    return None if best is None else best[1]


def _facts(storage: Storage, name: str, size_bytes: int) -> Mapping[str, Any]:
    def read(start: int, end: int) -> bytes:
        """Return what it has of these bytes."""
        if start >= min(end, size_bytes):
            return b""
        content = storage.get_range(name, start, min(end, size_bytes))
        if content is None:
            raise CheckpointError("it is gone")
        return content

    if not _EARLY.fullmatch(name.rpartition("/")[2]):
        return read_facts(read)
    length = int.from_bytes(read(_EARLY_HASH, _EARLY_HEADER), "little")
    header = json.loads(read(_EARLY_HEADER, _EARLY_HEADER + length))
    facts: Mapping[str, Any] = json.loads(header["__metadata__"]["checkpoint"])
    return facts
