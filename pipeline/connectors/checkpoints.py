"""Checkpoints in storage: `checkpoints/STREAM/TOPIC/PARTITION/SEQUENCE-OFFSET`, one object each.

An object is the sha256 of the rest, then safetensors with the checkpoint's facts as metadata. The sequence
rises with each write, so the newest is the one written last: a topic that was made anew begins at low
offsets again.

`checkpoints/STREAM/TOPIC/first-TOPIC_ID.json` says how many partitions the topic had when the stream began on it.

They are a stream's, whichever group works on it: two groups on one storage would forget each other's. Give each
group its own storage.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator

import numpy as np
import safetensors
import safetensors.numpy

from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import CheckpointError, ConfigError
from pipeline.protocols import Checkpoint, TopicPartition

logger = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "offkey.checkpoint", 1
KEPT = 3
_HASH_BYTES = hashlib.sha256().digest_size


class StoredCheckpoints:
    """Checkpoints of all partitions on an `ObjectStorage`."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage

    def write(self, checkpoint: Checkpoint) -> None:
        folder = _folder(checkpoint.stream, checkpoint.partition)
        there = sorted(self._found(folder))
        sequence = max((found[0] for found in there), default=0) + 1
        self._storage.put(f"{folder}/{sequence:012d}-{checkpoint.next_offset}", encode(checkpoint))
        for _, _, name in there[: max(len(there) + 1 - KEPT, 0)]:
            self._storage.delete(name)

    def newest(self, stream: str, partition: TopicPartition, at_or_below: int) -> Checkpoint | None:
        for _, next_offset, name in sorted(self._found(_folder(stream, partition)), reverse=True):
            if next_offset > at_or_below:
                continue
            try:
                return decode(self._storage.get(name))
            except CheckpointError as error:
                logger.error("checkpoint %s is refused, the one before is taken: %s", name, error)
        return None

    def partitions_at_first(self, stream: str, topic: str, topic_id: str, partitions_now: Callable[[], int]) -> int:
        name = f"checkpoints/{stream}/{topic}/first-{topic_id}.json"
        if self._storage.get(name) is None:
            # Where another worker is first, its answer is the one that is there.
            self._storage.create(name, json.dumps({"partitions": partitions_now()}).encode())
        content = self._storage.get(name) or b""
        try:
            return int(json.loads(content)["partitions"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"storage {self._storage.url}: {name} is damaged ({error!r}); remove it: partitions without a "
                "committed offset then begin where the stream's `start` says"
            ) from error

    def _found(self, folder: str) -> Iterator[tuple[int, int, str]]:
        """Yield (sequence, next offset, name) of each checkpoint; what has another name is reported and left."""
        for name in self._storage.list(folder):
            sequence, _, offset = name.rpartition("/")[2].partition("-")
            if sequence.isdecimal() and offset.isdecimal():
                yield int(sequence), int(offset), name
            else:
                logger.error("%s is no checkpoint and is left alone; remove it from the folder", name)


def encode(checkpoint: Checkpoint) -> bytes:
    """Return the bytes of a checkpoint."""
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "stream": checkpoint.stream,
        "topic": checkpoint.partition.topic,
        "partition": checkpoint.partition.partition,
        "topic_id": checkpoint.topic_id,
        "next_offset": checkpoint.next_offset,
        "model_version": checkpoint.model_version,
        "shape": checkpoint.shape,
    }
    # safetensors writes an array's memory as it lies: a view or a transposed array would come back scrambled.
    arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}
    body = safetensors.numpy.save(arrays, {"checkpoint": json.dumps(facts)})
    return hashlib.sha256(body).digest() + body


def decode(content: bytes | None) -> Checkpoint:
    """Read a checkpoint back.

    Raises:
        CheckpointError: it is gone, damaged or of an unknown format.
    """
    if content is None:
        raise CheckpointError("it is gone")
    body = content[_HASH_BYTES:]
    if hashlib.sha256(body).digest() != content[:_HASH_BYTES]:
        raise CheckpointError("its sha256 differs")
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        facts = json.loads(header["__metadata__"]["checkpoint"])
        if (facts["format"], facts["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise CheckpointError(f"format {facts['format']} {facts['format_version']} is not {FORMAT_VERSION}")
        return Checkpoint(
            facts["stream"],
            TopicPartition(facts["topic"], facts["partition"]),
            facts["topic_id"],
            facts["next_offset"],
            facts["model_version"],
            facts["shape"],
            safetensors.numpy.load(body),
        )
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"it is whole, but no checkpoint of a known format ({error!r})") from error


def _folder(stream: str, partition: TopicPartition) -> str:
    return f"checkpoints/{stream}/{partition.topic}/{partition.partition}"
