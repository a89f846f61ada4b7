"""The versions in shadow of a worker: the same stages with another model, on the same records, which alert nobody.

Once the champion's alerts on a poll are confirmed and committed, the shadow's stages judge the same records, and
how far the two agree is counted. A partition begins in shadow with the champion's state, as if the version had been
swapped in there; so does one whose state is restored. A model that cannot take that state over begins without, and
its series warm up.

Whatever goes wrong in shadow ends it and is said, and the champion goes on. It takes as much again as the stages of
the champion, in time and in memory.
"""

import copy
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from pipeline import metrics
from pipeline.agreement import Agreement
from pipeline.errors import ConfigError, TransientError
from pipeline.feedback import Words
from pipeline.flight import Flight
from pipeline.logs import about
from pipeline.partitions import Standing
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.shadows import SIDES, Example, Shadows, Tally
from pipeline.stream import Lane, Outcome
from pipeline.stream_model import StreamModel

logger = logging.getLogger(__name__)

EVERY_S = 30.0
"""How often what was seen is stored; of a worker that is killed, what it saw since is not told."""
_MOST_TOLD = 5
"""Incidents of one poll that are logged."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the champion made of some records, and what was said that acted on each partition's."""

    lane: Lane
    part: Sequence[PartitionRecords]
    outcome: Outcome
    words: Mapping[TopicPartition, Words]


class Shadowing:
    """Runs the versions that the lanes' slots have in shadow; called from the records' thread."""

    def __init__(self, shadows: Shadows, clock: Callable[[], float] = time.monotonic) -> None:
        self._shadows = shadows
        self._clock = clock
        self._beside: dict[str, _Beside] = {}
        """By stream."""
        self._failed: dict[str, StreamModel] = {}
        """By stream: what has failed in shadow and is not tried again."""

    def is_on(self, lane: Lane) -> bool:
        """Whether a version of this stream is in shadow."""
        return lane.name in self._beside

    def prepare(self, lane: Lane, standing: Callable[[str], Mapping[TopicPartition, Standing]]) -> None:
        """Begin or end what the slot says, and have each partition's state in place before the next poll.

        `standing` tells where the partitions of a topic stand.
        """
        model, beside = lane.slot.shadow, self._beside.get(lane.name)
        if beside is not None and beside.model is not model:
            self._end(lane.name, 0)
        if model is None or model is self._failed.get(lane.name):
            return
        with self._guarded(lane.name, model):
            if lane.name not in self._beside:
                self._begin(lane, model)
            beside = self._beside[lane.name]
            beside.keep_up(standing(lane.topic))
            if self._clock() >= beside.due_s:
                beside.due_s = self._clock() + EVERY_S
                beside.store(self._shadows)

    def follow(self, judged: Iterable[Judged]) -> None:
        """Judge records that the champion has judged, and whose alerts are out."""
        for each in judged:
            beside = self._beside.get(each.lane.name)
            if beside is not None:
                with self._guarded(each.lane.name, beside.model), metrics.measure("shadow"):
                    beside.follow(each)

    def close(self, most_s: float) -> None:
        """End all, and store what they saw, as far as storage takes it meanwhile."""
        until_s = self._clock() + most_s
        for stream in list(self._beside):
            self._end(stream, max(until_s - self._clock(), 0))

    def _begin(self, lane: Lane, model: StreamModel) -> None:
        self._beside[lane.name] = _Beside(lane, model)
        metrics.SHADOW.labels(lane.name, model.version).set(1)
        logger.info(
            "stream %s: model %s is in shadow, beside %s",
            *(lane.name, model.version, lane.slot.champion.version),
            extra=about(stream=lane.name, version=model.version),
        )

    def _end(self, stream: str, most_s: float) -> None:
        beside = self._beside.pop(stream)
        metrics.SHADOW.remove(stream, beside.model.version)
        version, said = beside.model.version, about(stream=stream, version=beside.model.version)
        logger.info("stream %s: model %s is in shadow no more", stream, version, extra=said)
        try:
            beside.store(self._shadows, most_s)
        except Exception:
            # What is wrong with storing it may be what has ended it; the champion goes on.
            logger.exception("stream %s: what was seen of model %s is not stored", stream, version, extra=said)

    @contextmanager
    def _guarded(self, stream: str, model: StreamModel) -> Iterator[None]:
        try:
            yield
        except Exception:
            # Whatever it is: what people rely on is the champion.
            logger.exception(
                "stream %s: model %s has failed in shadow, and the champion goes on without it until the worker is "
                "restarted or another version is named",
                *(stream, model.version),
                extra=about(stream=stream, version=model.version),
            )
            metrics.SHADOW_FAILED.labels(stream).inc()
            self._failed[stream] = model
            if stream in self._beside:
                self._end(stream, 0)


class _Beside:
    """One version in shadow of one stream."""

    def __init__(self, lane: Lane, model: StreamModel) -> None:
        self.model = model
        self.due_s = 0.0
        """When what was seen is stored next."""
        self._run = secrets.token_hex(8)
        """Of this time in shadow: the next one of the same version begins with a tally of its own."""
        self._lane = lane
        self._pipeline = lane.pipeline_of(model)
        self._agreement = Agreement(Tally(model.version, -1, -1))
        self._at: dict[TopicPartition, Standing] = {}
        """Where the partitions stand whose state is in place."""
        self._counted: dict[tuple[TopicPartition, str], int] = {}
        """By partition and topic id: what lies before this offset was counted, here or by the owner before."""
        self._stored: Tally | None = None
        self._flight: Flight[None] | None = None

    def keep_up(self, standing: Mapping[TopicPartition, Standing]) -> None:
        """Forget partitions whose state was thrown away or restored, and put that of new ones in place."""
        for place, at in list(self._at.items()):
            now = standing.get(place)
            if now is None or (now.topic_id, now.next_offset) != (at.topic_id, at.next_offset):
                del self._at[place]
                self._pipeline.drop(place)
                self._agreement.forget(place)
        for place, at in standing.items():
            if place not in self._at:
                self._take_over(place, at)

    def follow(self, judged: Judged) -> None:
        """Judge the records of partitions whose state is in place, and compare."""
        for records in judged.part:
            place, words = records.partition, judged.words[records.partition]
            if words.name != self._at[place].words.name:
                self._pipeline.adopt_feedback(place, records.records[0].offset, words.said)
            self._at[place] = replace(self._at[place], next_offset=records.next_offset, words=words)
        outcome = self._pipeline.process(judged.part)
        counted = {place: self._counted[place, at.topic_id] for place, at in self._at.items()}
        before = copy.deepcopy(self._agreement.tally)
        alone = self._agreement.follow(judged.outcome, outcome, counted)
        # A part of which some was counted before counts as one that was.
        if all(records.records[0].offset >= counted[records.partition] for records in judged.part):
            self._count(judged, outcome)
        for records in judged.part:
            key = records.partition, self._at[records.partition].topic_id
            self._counted[key] = max(self._counted[key], records.next_offset)
        self._tell(before, self._agreement.tally, alone)

    def _take_over(self, place: TopicPartition, at: Standing) -> None:
        self._pipeline.divide(place, at.partitions)
        takes_over = not self.model.unlike(self._lane.slot.champion)
        self._pipeline.restore(place, [self._lane.pipeline.snapshot(place)] if takes_over else [])
        self._pipeline.adopt_feedback(place, at.next_offset, at.words.said)
        self._at[place] = at
        key = place, at.topic_id
        self._counted[key] = max(self._counted.get(key, 0), at.publish_from)

    def store(self, shadows: Shadows, most_s: float = 0) -> None:
        """Have storage take what was seen, beside the records; what it does not take is tried with the next."""
        stream, tally = self._lane.name, copy.deepcopy(self._agreement.tally)
        if (flight := self._flight) is not None:
            if not flight.landed(most_s):
                return
            self._flight = None
            try:
                flight.result()
            except (TransientError, ConfigError) as error:
                self._stored = None
                said = about(stream=stream)
                logger.warning("stream %s: what was seen in shadow is not stored: %s", stream, error, extra=said)
        if tally.records and tally != self._stored:
            self._stored = tally
            self._flight = Flight(partial(shadows.keep, stream, self._run, tally), "shadow")
            self._flight.landed(most_s)

    def _count(self, judged: Judged, shadow: Outcome) -> None:
        tally, part = self._agreement.tally, judged.part
        tally.records += sum(len(records.records) for records in part)
        tally.champion.points += judged.outcome.points_scored
        tally.shadow.points += shadow.points_scored
        times_ms = [record.timestamp for records in part for record in (records.records[0], records.records[-1])]
        tally.since_ms = min(times_ms) if tally.since_ms < 0 else min(tally.since_ms, *times_ms)
        tally.until_ms = max(tally.until_ms, *times_ms)

    def _tell(self, before: Tally, now: Tally, alone: Sequence[Example]) -> None:
        stream = self._lane.name
        metrics.SHADOW_POINTS.labels(stream).inc(now.shadow.points - before.shadow.points)
        for side in SIDES:
            earlier, later = before.of(side), now.of(side)
            metrics.SHADOW_INCIDENTS.labels(stream, side, "both").inc(later.shared - earlier.shared)
            metrics.SHADOW_INCIDENTS.labels(stream, side, "alone").inc(later.alone - earlier.alone)
        for example in alone[:_MOST_TOLD]:
            logger.info(
                "stream %s: %s alone had an incident of %s from %s to %s, highest score %.1f",
                *(stream, f"model {now.version} in shadow" if example.side == "shadow" else "the champion"),
                *(example.series or "the stream", _at(example.begun_ms), _at(example.ended_ms), example.score),
                extra=about(stream=stream, version=now.version),
            )


def _at(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
