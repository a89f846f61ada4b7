"""Checkpoints in storage: `checkpoints/STREAM/TOPIC/PARTITION/SEQUENCE-RUN-NUMBER-FOLLOWS-OFFSET`, a part each.

SEQUENCE-RUN is the chain of parts of one run of a worker. The sequence rises with each chain, so the newest is the
one begun last: a topic that was made anew begins at low offsets again. RUN is drawn at random, so that two workers
that both believe to own a partition write two chains and not one. A chain has no folder of its own: on a disk that
would stay, empty, and whoever removed it might do so just as another part was put there. A part rests on the one
whose number is FOLLOWS, 0 for the first and for one that holds a whole state. OFFSET tells where the state stands
that a part completes; it is `open` where it completes none.
What a part holds is told in `pipeline.part_memory`. Objects are only created, never written over: a part that
storage seemed not to take, and took, stays beside the one that was written in its place.

A state is read from the first part of its chain to the one with its offset. A part that is damaged, missing or of
an unknown format takes all that rest on it with it, and the newest state without it is taken, of the same chain or
of the one before. So the chain before is kept until the next one holds a state, and what was begun after it. It
goes newest part first: what is left of it by a crash is a chain still.

Earlier versions wrote `checkpoints/STREAM/TOPIC/PARTITION/SEQUENCE-OFFSET`, a whole state each: the sha256 of the
rest, then safetensors. They count as chains of one part.

`checkpoints/STREAM/TOPIC/first-TOPIC_ID.json` says how many partitions the topic had when the stream began on it.

They are a stream's, whichever group works on it: two groups on one storage would forget each other's. Give each
group its own storage.
"""

import hashlib
import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import safetensors
import safetensors.numpy

from pipeline import metrics
from pipeline.connectors.objects import Storage
from pipeline.errors import CheckpointError, ConfigError, TransientError
from pipeline.logs import about
from pipeline.part_memory import Arrays, read_part
from pipeline.protocols import Chain, Checkpoint, Part, TopicPartition

logger = logging.getLogger(__name__)

_READ_AHEAD = 3
"""Parts that are read while one is restored."""
_PRUNED_AT_ONCE = 16
"""Old parts that are removed with each new one: a store may take long for each."""
_LOOKS_EVERY = 10
"""So many parts apart a chain looks for a newer one: to a store listing costs as much as writing."""
_EARLY_FORMAT = ("offkey.checkpoint", 1)
_HASH_BYTES = hashlib.sha256().digest_size
_PART = re.compile(r"(\d+)-([0-9a-f]+)-(\d+)-(\d+)-(\d+|open)")
_EARLY = re.compile(r"(\d+)-(\d+)")


class _Place(NamedTuple):
    """Where a part stands, by its name."""

    sequence: int
    run: str
    number: int
    follows: int
    next_offset: int | None
    """None: with it no state is complete."""
    name: str

    @property
    def chain(self) -> tuple[int, str]:
        return self.sequence, self.run


class StoredCheckpoints:
    """Checkpoints of all partitions on a `Storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._refused: set[str] = set()
        """Names of parts that were found damaged or missing."""

    def write(self, part: Part) -> None:
        checkpoint, chain = part.checkpoint, part.chain
        folder = _folder(checkpoint.stream, checkpoint.partition)
        if not chain.sequence:
            chain.sequence = 1 + max((place.sequence for place in self._found(folder)), default=0)
        chain.tried += 1
        ends = checkpoint.next_offset if part.closes else "open"
        number = f"{chain.tried:06d}-{0 if part.whole else chain.last:06d}"
        name = f"{folder}/{chain.sequence:012d}-{chain.run}-{number}-{ends}"
        content = part.memory.seal(
            {
                "stream": checkpoint.stream,
                "topic": checkpoint.partition.topic,
                "partition": checkpoint.partition.partition,
                "topic_id": checkpoint.topic_id,
                "next_offset": checkpoint.next_offset,
                "model_version": checkpoint.model_version,
                "shape": checkpoint.shape,
                "part": name.removeprefix(f"{folder}/"),
            }
        )
        if not self._storage.create(name, content):
            raise TransientError(f"storage {self._storage.url}: {name} is there already; the next name is taken")
        if chain.closed:
            chain.later_bytes += len(content)
            chain.later_parts += 1
        else:
            chain.base_bytes += len(content)
        chain.last, chain.closed, chain.whole = chain.tried, chain.closed or part.closes, part.closes
        if chain.closed and (not chain.pruned or chain.tried % _LOOKS_EVERY == 0):
            self._look_around(folder, checkpoint.stream, chain)

    def newest(self, stream: str, partition: TopicPartition, at_or_below: int) -> Checkpoint | None:
        best: Checkpoint | None = None
        for chain in self._chains(_folder(stream, partition)):
            for path in self._states(chain, stream):
                place = path[-1]
                if place.next_offset is None or place.next_offset > at_or_below:
                    continue
                # A worker that was late may have begun the newest chain, from a state that the owner is past.
                if best is not None and place.next_offset <= best.next_offset:
                    break
                try:
                    checkpoint, arrays = self._read(place, stream, partition)
                except CheckpointError as error:
                    self._refuse(place.name, stream, str(error))
                    continue
                if best is None or checkpoint.topic_id == best.topic_id:
                    parts = self._reader(checkpoint, path, arrays)
                    best = replace(checkpoint, parts=parts, refuse=partial(self._refuse_path, path, stream))
                break
        return best

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

    def newest_parts(self, stream: str, partition: TopicPartition) -> list[str]:
        """Return the name of the last part of each chain, of the newest chain first."""
        return [chain[0].name for chain in self._chains(_folder(stream, partition))]

    def _found(self, folder: str) -> Iterator[_Place]:
        """Yield each part; what has another name is reported and left."""
        for name in self._storage.list(folder):
            short = name.removeprefix(f"{folder}/")
            if found := _PART.fullmatch(short):
                sequence, run, number, follows, ends = found.groups()
                next_offset = None if ends == "open" else int(ends)
                yield _Place(int(sequence), run, int(number), int(follows), next_offset, name)
            elif found := _EARLY.fullmatch(short):
                yield _Place(int(found[1]), "", 1, 0, int(found[2]), name)
            else:
                logger.error("%s is no checkpoint and is left alone; remove it from the folder", name)

    def _chains(self, folder: str) -> list[list[_Place]]:
        """Return the parts of each chain, newest chain and newest part first."""
        newest_last = sorted(self._found(folder), key=lambda place: (*place.chain, place.number, place.name))
        return [list(chain) for _, chain in groupby(reversed(newest_last), key=lambda place: place.chain)]

    def _states(self, chain: Sequence[_Place], stream: str) -> Iterator[list[_Place]]:
        """Yield the parts of each state of a chain, newest state and first part first, as far as they are good."""
        parts = {place.number: place for place in chain}
        for place in chain:
            if place.next_offset is None:
                continue
            path = [place]
            while path[-1].follows:
                before = parts.get(path[-1].follows)
                # What a part rests on has a lower number: a name that says otherwise is no part's.
                if before is None or before.number >= path[-1].number:
                    lacks = f"part {path[-1].follows:06d}, on which it rests, is missing"
                    self._refuse(path[-1].name, stream, lacks)
                    break
                path.append(before)
            if not any(each.name in self._refused for each in path):
                yield path[::-1]

    def _reader(self, state: Checkpoint, path: Sequence[_Place], last: Arrays) -> Callable[[], Iterator[Arrays]]:
        """Return what reads the parts; the last one has been read."""

        def parts() -> Iterator[Arrays]:
            ahead: deque[tuple[_Place, Future[tuple[Checkpoint, Arrays]]]] = deque()
            with ThreadPoolExecutor(_READ_AHEAD, "checkpoint") as pool:
                for place in path[:-1]:
                    ahead.append((place, pool.submit(self._read, place, state.stream, state.partition)))
                    if len(ahead) > _READ_AHEAD:
                        yield result(*ahead.popleft())
                while ahead:
                    yield result(*ahead.popleft())
            yield last

        def result(place: _Place, reading: Future[tuple[Checkpoint, Arrays]]) -> Arrays:
            try:
                found, arrays = reading.result()
            except CheckpointError as error:
                self._refuse(place.name, state.stream, str(error))
                raise
            if (found.topic_id, found.shape) != (state.topic_id, state.shape):
                why = f"{place.name}, on which it rests, is of another topic or model"
                self._refuse(path[-1].name, state.stream, why)
                raise CheckpointError(why)
            return arrays

        return parts

    def _read(self, place: _Place, stream: str, partition: TopicPartition) -> tuple[Checkpoint, Arrays]:
        """Read one part.

        Raises:
            CheckpointError: it is gone, damaged, of an unknown format, or of another place than its name says.
        """
        content = self._storage.get(place.name)
        if content is None:
            raise CheckpointError("it is gone")
        checkpoint, arrays, part = decode_early(content) if not place.run else decode(content)
        if (checkpoint.stream, checkpoint.partition) != (stream, partition):
            topic, number = checkpoint.partition
            raise CheckpointError(f"it is of stream {checkpoint.stream}, {topic}/{number}, and was put here")
        if place.run and not place.name.endswith(f"/{part}"):
            raise CheckpointError(f"it was written as {part} and has another name now")
        return checkpoint, arrays

    def _refuse_path(self, path: Sequence[_Place], stream: str, why: str) -> None:
        """Have a state left out from now on, unless one of its parts is refused already."""
        if not any(place.name in self._refused for place in path):
            self._refuse(path[-1].name, stream, why)

    def _refuse(self, name: str, stream: str, why: str) -> None:
        """Say once that a part is no good, and have it left out from now on."""
        if name not in self._refused:
            self._refused.add(name)
            metrics.CHECKPOINTS_REFUSED.labels(stream).inc()
            said = about(stream=stream)
            logger.error("checkpoint %s is refused, the one before is taken: %s", name, why, extra=said)

    def _look_around(self, folder: str, stream: str, chain: Chain) -> None:
        """Note whether another worker has begun a newer chain, and remove old ones.

        That is the parts of all chains older than the newest one before this chain that holds a state. Chains
        between the two hold none yet: what is left of a run that ended, or the owner's that has just begun, where
        this is the chain of a worker that lost the partition without knowing. They go with the next chain, if it is
        so, and so do those that were begun at the same time or later. The chain itself is written, so what storage
        does not remove is only said; the next chain tries again.
        """
        try:
            chains = self._chains(folder)
            own = chain.sequence, chain.run
            chain.overtaken = any(parts[0].chain > own for parts in chains)
            before = [parts for parts in chains if parts[0].sequence < chain.sequence]
            kept = next((at for at, parts in enumerate(before) if any(self._states(parts, stream))), len(before))
            old = [place for parts in reversed(before[kept + 1 :]) for place in parts]
            for place in old[:_PRUNED_AT_ONCE]:
                self._storage.delete(place.name)
            chain.pruned = len(old) <= _PRUNED_AT_ONCE
        except (TransientError, ConfigError) as error:
            logger.warning("old checkpoints in %s are left: %s", folder, error, extra=about(stream=stream))
            chain.pruned = True


def decode(content: bytes) -> tuple[Checkpoint, Arrays, str]:
    """Return (what it is part of, its arrays, its name within the partition) of a part; raises as `read_part`."""
    # In memory that may be written to, as torch wants it.
    facts, arrays = read_part(bytearray(content))
    return _checkpoint(facts), arrays, str(facts["part"])


def decode_early(content: bytes) -> tuple[Checkpoint, Arrays, str]:
    """Read a checkpoint as earlier versions wrote it: a whole state.

    Raises:
        CheckpointError: it is damaged or of an unknown format.
    """
    body = content[_HASH_BYTES:]
    if hashlib.sha256(body).digest() != content[:_HASH_BYTES]:
        raise CheckpointError("its sha256 differs: it is damaged or cut off")
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        facts = json.loads(header["__metadata__"]["checkpoint"])
        if (facts["format"], facts["format_version"]) != _EARLY_FORMAT:
            raise CheckpointError(f"format {facts['format']} {facts['format_version']} is not {_EARLY_FORMAT[1]}")
        return _checkpoint(facts), safetensors.numpy.load(body), ""
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"it is whole, but no checkpoint of a known format ({error!r})") from error


def _checkpoint(facts: Mapping[str, Any]) -> Checkpoint:
    try:
        return Checkpoint(
            facts["stream"],
            TopicPartition(facts["topic"], facts["partition"]),
            facts["topic_id"],
            facts["next_offset"],
            facts["model_version"],
            facts["shape"],
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"it is whole, but no checkpoint of a known format ({error!r})") from error


def _folder(stream: str, partition: TopicPartition) -> str:
    return f"checkpoints/{stream}/{partition.topic}/{partition.partition}"
