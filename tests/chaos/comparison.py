"""What a run left behind, and how it differs from what an undisturbed one leaves.

An `Outcome` is what readers of committed records find: alerts and dead letters in their order, and the state in the
newest checkpoints. All of it comes through what users have too: the records of the topics and `Checkpoints.newest`.

The undisturbed run is the worker itself, in this process and on memory twins, over the records that lie in the real
topics. It looks for no champion and hears no feedback: what each record is judged by, models and words, is told by
the logs of adoptions that the disturbed run has left. Scores do not depend on how polls cut the records, so on one
machine the two agree to the last bit.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.detector import Detector
from pipeline.adoptions import Adoption, AdoptionLog
from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryAdoptions
from pipeline.errors import TransientError
from pipeline.feedback import Words
from pipeline.protocols import Checkpoint, Checkpoints, RawRecord, TopicPartition
from pipeline.worker import WorkerOptions
from tests import streams
from tests.streams import SERIES, VERSIONS, Bench, drain

STREAMS = {"machines": "metrics", "payments": "payments"}
"""The streams of a run, and by which name each one's topic is known in `Bench`."""
_ERRORS = "__connect.errors."
_MOST_NAMED = 8


@dataclass(frozen=True)
class Published:
    """One alert or dead letter: which it is, which record it is about, and all that it says."""

    id: str
    place: TopicPartition
    """Where the record lies that it is about."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


State = Mapping[str, Mapping[str, bytes]]
"""Of each series its arrays' bytes; under "" those of the whole partition."""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    alerts: Sequence[Published]
    letters: Sequence[Published]
    state: Mapping[TopicPartition, State] = field(default_factory=dict)


def alerts_of(records: Iterable[RawRecord]) -> list[Published]:
    """Return what the records of an alert topic say."""
    found = []
    for record in records:
        body = json.loads(record.value or b"")
        place = TopicPartition(body["topic"], body["partition"])
        found.append(_published(dict(record.headers)["ce_id"].decode(), place, record))
    return found


def letters_of(records: Iterable[RawRecord]) -> list[Published]:
    """Return what the records of a dead-letter topic say; such a record is known by where it came from."""
    found = []
    for record in records:
        # The last ones are ours: a record may have such headers already, from an earlier dead-lettering.
        headers = dict(record.headers)
        topic, partition, offset = (headers[_ERRORS + name].decode() for name in ("topic", "partition", "offset"))
        place = TopicPartition(topic, int(partition))
        found.append(_published(f"{topic}/{partition}@{offset}", place, record))
    return found


def state_of(checkpoint: Checkpoint) -> State:
    """Return a checkpoint's state by series, as a new worker restores it from its parts."""
    names: list[str] = []
    arrays = streams.state_of(checkpoint)
    if "names" in arrays:
        names = msgspec.json.decode(arrays["names"].tobytes())
    state: dict[str, dict[str, bytes]] = {name: {} for name in names}
    whole: dict[str, bytes] = {
        "next_offset": str(checkpoint.next_offset).encode(),
        "model_version": checkpoint.model_version.encode(),
        "shape": checkpoint.shape.encode(),
        "series": json.dumps(sorted(names)).encode(),
    }
    for array, values in arrays.items():
        if array == "names":
            continue
        if array in ("incidents", "resolved"):
            for index, incident in msgspec.json.decode(values.tobytes()).items():
                state[names[int(index)]][array] = msgspec.json.encode(incident)
        elif names and values.ndim and len(values) == len(names):
            for name, row in zip(names, values, strict=True):
                state[name][array] = _bytes(row)
        else:
            whole[array] = _bytes(values)
    return {**state, "": whole}


def final_state(checkpoints: Checkpoints, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, State]:
    """Return the newest state of every partition; one without a checkpoint has none."""
    stream_of = {topic: stream for stream, topic in STREAMS.items()}
    found = {}
    for place, end in ends.items():
        newest = checkpoints.newest(_stream(place, stream_of), place, end)
        found[place] = state_of(newest) if newest is not None else {}
    return found


@dataclass
class Chapter:
    """The records between two faults that change the outcome, and where each partition begins in it."""

    logs: Mapping[TopicPartition, Sequence[RawRecord]]
    """Every record of each partition from offset 0 on, those that were read before the chapter included."""
    begins: Mapping[TopicPartition, int]
    """The offset that a partition's state begins before, empty."""
    publishes: Mapping[TopicPartition, int]
    """The first offset whose alerts and dead letters belong to this chapter."""
    adopted: Mapping[TopicPartition, Sequence[Adoption]] = field(default_factory=dict)
    """What the workers' logs say each partition was judged by, from its begin on."""
    words: Mapping[str, Sequence[Words]] = field(default_factory=dict)
    """What these entries name, by stream."""


class GivenAdoptions(MemoryAdoptions):
    """Logs that a run is given: it follows them, and adopts nothing of its own."""

    def __init__(self, chapter: Chapter) -> None:
        super().__init__()
        self._adopted = chapter.adopted
        for stream, said in chapter.words.items():
            for words in said:
                self.keep(stream, words)

    def since(self, stream: str, partition: TopicPartition, topic_id: str, offset: int) -> AdoptionLog:
        entries = self._adopted.get(partition, ())
        return AdoptionLog(entries, entries[-1].number if entries else 0)

    def write(self, stream: str, partition: TopicPartition, topic_id: str, adoption: Adoption) -> bool:
        raise TransientError("this run is given its adoptions")


def undisturbed(
    chapter: Chapter,
    versions: Mapping[str, Callable[[], Detector]] = VERSIONS,
    series: StreamSettings = SERIES,
) -> Outcome:
    """Run the worker over a chapter's records in memory, as its logs say, with nothing in its way.

    `versions` are those that the logs may name; where they say nothing, it is v1. `series` is what the stream of
    series is set to.
    """
    topics = {kind: next(at.topic for at in chapter.logs if at.topic.startswith(kind)) for kind in STREAMS.values()}
    partitions = sum(at.topic == topics["metrics"] for at in chapter.logs)
    options = WorkerOptions("alerts", "dead", poll_timeout_s=0, checkpoint_every_s=float("inf"))
    adoptions = GivenAdoptions(chapter)
    bench = Bench(partitions, topics["metrics"], topics["payments"], adoptions=adoptions, options=options)
    for place, records in chapter.logs.items():
        bench.broker.begin[place] = chapter.begins[place]
        for record in records:
            bench.broker.append(
                place.topic,
                record.value,
                key=record.key,
                headers=record.headers,
                timestamp=record.timestamp,
                partition=place.partition,
            )
    worker = bench.worker(others=versions, series=series)
    drain(worker)
    worker.checkpoint()
    ends = {place: len(records) for place, records in chapter.logs.items()}
    alerts = alerts_of(bench.broker.records("alerts"))
    letters = letters_of(bench.broker.records("dead"))
    return Outcome(_of(chapter, alerts), _of(chapter, letters), final_state(bench.checkpoints, ends))


def differences(expected: Outcome, found: Outcome, *, exactly_once: bool) -> list[str]:
    """Return what a disturbed run did otherwise, a line for each; empty: nothing.

    Exactly once, each partition's alerts and dead letters are the same list; how those of several partitions lie
    between each other depends on who was first. At least once they are the same set, and what is there twice says
    the same twice. The state is the same to the last bit.
    """
    return [
        *_of_topic("alert", expected.alerts, found.alerts, exactly_once),
        *_of_topic("dead letter", expected.letters, found.letters, exactly_once),
        *_of_state(expected.state, found.state),
    ]


def _of_topic(
    what: str, expected: Sequence[Published], found: Sequence[Published], exactly_once: bool
) -> Iterable[str]:
    wanted = {each.id: each for each in expected}
    times = Counter(each.id for each in found)
    yield from _named(f"{what} is missing", [each for each in expected if each.id not in times])
    yield from _named(f"{what} should not be there", [each for each in found if each.id not in wanted])
    for each in found:
        if each.id in wanted and each != wanted[each.id]:
            yield f"{what} says something else: {_told(each)}: {_changes(wanted[each.id], each)}"
    if not exactly_once:
        return
    yield from _named(f"{what} is there twice", [wanted[id] for id, n in times.items() if n > 1 and id in wanted])
    for place in sorted({each.place for each in expected}):
        in_order = [each.id for each in expected if each.place == place]
        as_found = list(dict.fromkeys(each.id for each in found if each.place == place))
        if in_order != as_found and sorted(in_order) == sorted(as_found):
            yield f"{what}s of {place.topic}/{place.partition} are in another order"


def _of_state(expected: Mapping[TopicPartition, State], found: Mapping[TopicPartition, State]) -> Iterable[str]:
    for place in sorted(expected.keys() | found.keys()):
        wanted, there = expected.get(place, {}), found.get(place, {})
        for series in sorted(wanted.keys() | there.keys()):
            of_wanted, of_there = wanted.get(series, {}), there.get(series, {})
            other = [
                name
                for name in sorted(of_wanted.keys() | of_there.keys())
                if of_wanted.get(name) != of_there.get(name)
            ]
            if other or series not in wanted or series not in there:
                about = f"series {series}" if series else "as a whole"
                lacks = "" if series in there else ", which is not there"
                yield f"state of {place.topic}/{place.partition}, {about}{lacks}: {', '.join(other)} differ"


def _named(what: str, which: Sequence[Published]) -> Iterable[str]:
    for each in which[:_MOST_NAMED]:
        yield f"{what}: {_told(each)}"
    if len(which) > _MOST_NAMED:
        yield f"{what}: and {len(which) - _MOST_NAMED} more"


def _told(each: Published) -> str:
    headers = dict(each.headers)
    if _ERRORS + "offset" in headers:
        return f"{each.id} ({headers[_ERRORS + 'exception.message'].decode()})"
    body = json.loads(each.value or b"")
    about = f"{body['state']} {body['series'] or body['stream']}"
    return f"{each.id} ({about} at {each.place.topic}/{each.place.partition}@{body['offset']})"


def _changes(wanted: Published, there: Published) -> str:
    changes = [
        f"{name} is {getattr(there, name)!r}, not {getattr(wanted, name)!r}"
        for name in ("key", "headers")
        if getattr(wanted, name) != getattr(there, name)
    ]
    if wanted.value == there.value:
        return "; ".join(changes)
    try:
        one, other = json.loads(wanted.value or b""), json.loads(there.value or b"")
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        changes += [f"{name} is {other.get(name)!r}, not {one.get(name)!r}" for name in names]
    except (ValueError, TypeError, AttributeError):
        # A dead letter may hold any bytes.
        changes.append(f"value is {there.value!r:.80}, not {wanted.value!r:.80}")
    return "; ".join(changes)


def _published(id: str, place: TopicPartition, record: RawRecord) -> Published:
    return Published(id, place, record.key, record.value, tuple(record.headers))


def _of(chapter: Chapter, found: Sequence[Published]) -> list[Published]:
    """Leave out what is about records before the chapter."""

    def offset(each: Published) -> int:
        headers = dict(each.headers)
        if _ERRORS + "offset" in headers:
            return int(headers[_ERRORS + "offset"])
        return int(json.loads(each.value or b"")["offset"])

    return [each for each in found if offset(each) >= chapter.publishes[each.place]]


def _stream(place: TopicPartition, stream_of: Mapping[str, str]) -> str:
    return next(stream for topic, stream in stream_of.items() if place.topic.startswith(topic))


def _bytes(values: npt.NDArray[Any]) -> bytes:
    array = np.ascontiguousarray(values)
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
