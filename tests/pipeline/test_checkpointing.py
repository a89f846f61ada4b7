"""Checkpoints of a pipeline: whatever is written, damaged or lost, what is restored is the state of its offset."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpointing import Checkpointing, Progress
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryCheckpoints
from pipeline.errors import CheckpointError, TransientError
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import Chain, Checkpoint, Part, PartitionRecords
from tests import streams
from tests.pipeline.checkpointed import (
    PLACES,
    Failing,
    assert_same,
    lane_of,
    records_of,
    scored,
    state_of,
    undisturbed,
)
from tests.streams import (
    Bench,
    series_payloads,
)


class Owner:
    """One owner of a partition: its pipeline, and the chain that it writes."""

    def __init__(self, stream: str, storage: Failing) -> None:
        self.stream, self.place, self.storage = stream, PLACES[stream], storage
        self.checkpoints = StoredCheckpoints(storage)
        self.pipeline, self.memory, self.offset = lane_of(stream).pipeline, PartMemory(), 0
        self.renew()

    def poll(self, count: int) -> None:
        high = min(self.offset + count, len(records_of(self.stream)))
        scored(self.pipeline, self.stream, self.offset, high)
        self.offset = high

    def renew(self) -> None:
        self.chain = Chain()
        self.pipeline.begin_chain(self.place)

    def write(self, most_bytes: int) -> bool:
        """Write a part; return whether the state is whole with it, as far as storage says."""
        cut = self.pipeline.cut(self.place, self.memory, most_bytes)
        facts = Checkpoint(self.stream, self.place, "t", self.offset, "v1", self.pipeline.shape)
        try:
            self.checkpoints.write(Part(facts, self.chain, self.memory, cut.closes, cut.whole))
        except TransientError:
            self.pipeline.uncut(self.place, cut)
            return False
        return cut.closes

    def restore(self) -> None:
        newest = self.checkpoints.newest(self.stream, self.place, 10**9)
        parts: Iterator[Arrays] = iter(())
        if newest is not None:
            parts = newest.parts()
        self.pipeline.restore(self.place, parts)
        self.offset = 0 if newest is None else newest.next_offset


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("poll"), st.integers(1, 40)),
        st.tuples(st.just("part"), st.sampled_from(["", "", "", "refused", "unanswered"])),
        st.tuples(st.just("part"), st.just("")),
        st.tuples(st.just("renew"), st.none()),
        st.tuples(st.just("other owner"), st.none()),
    ),
    max_size=40,
)


@pytest.mark.parametrize("stream", ["machines", "payments"])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS, most_bytes=st.sampled_from([1, 2_000, 1 << 20]))
def test_what_is_restored_is_the_state_of_its_offset(
    stream: str, steps: list[tuple[str, Any]], most_bytes: int
) -> None:
    """Random polls, parts that fail in both ways, new chains, and owners that take over."""
    storage = Failing()
    owner, whole = Owner(stream, storage), 0
    for step, how in steps:
        storage.fails = ""
        if step == "poll":
            owner.poll(how)
        elif step == "renew":
            owner.renew()
        elif step == "part":
            storage.fails = how
            whole = owner.offset if owner.write(most_bytes) else whole
        else:
            owner = Owner(stream, storage)
            owner.restore()
            # Past it where storage took a part and its answer was lost.
            assert owner.offset >= whole
            whole = owner.offset
            assert_same(owner.pipeline.snapshot(owner.place), undisturbed(stream, owner.offset))
    storage.fails = ""
    for _ in range(100):
        if owner.write(most_bytes):
            break
    heir = Owner(stream, storage)
    heir.restore()
    assert heir.offset == owner.offset
    assert_same(heir.pipeline.snapshot(heir.place), undisturbed(stream, owner.offset))


@settings(max_examples=40, deadline=None)
@given(
    polls=st.lists(st.integers(1, 60), min_size=3, max_size=8),
    hit=st.integers(0, 10**6),
    how=st.sampled_from(["cut off", "gone", "a bit"]),
)
def test_whatever_part_is_damaged_a_state_of_its_offset_is_restored(polls: list[int], hit: int, how: str) -> None:
    storage = Failing()
    owner = Owner("machines", storage)
    for number, count in enumerate(polls):
        owner.poll(count)
        if number == 2:
            owner.renew()
        while not owner.write(3_000):
            pass
    names = storage.list("checkpoints")
    name = names[hit % len(names)]
    content = storage.objects.pop(name)
    place = hit % len(content)
    if how == "cut off":
        storage.put(name, content[:place])
    elif how == "a bit":
        storage.put(name, content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
    heir = Owner("machines", storage)
    for _ in names:
        try:
            heir.restore()
            break
        except CheckpointError:
            continue
    assert_same(heir.pipeline.snapshot(heir.place), undisturbed("machines", heir.offset))


def test_the_stream_has_all_that_may_change_a_state() -> None:
    pipeline, place = lane_of("machines").pipeline, PLACES["machines"]
    outcome = pipeline.process([PartitionRecords(place, records_of("machines"))])
    assert {alert.state for alert in outcome.alerts} >= {"opened", "resolved", "silent", "stale", "storm"}
    assert {why for _, _, why in outcome.evicted} == {"max_series", "series_ttl"}
    assert outcome.late > 3
    assert len(outcome.muted)


@pytest.mark.parametrize("at_once", [1, 17])
def test_each_record_is_in_the_parts_after_it(at_once: int) -> None:
    """What a series' last record did to it, silence and leaving included, is not lost between two parts."""
    storage = Failing()
    owner = Owner("machines", storage)
    usual = lane_of("machines").pipeline
    while owner.offset < len(records_of("machines")):
        before = owner.offset
        owner.poll(at_once)
        scored(usual, "machines", before, owner.offset)
        assert owner.write(1 << 20)
        if owner.offset % 31 < at_once or owner.offset > 300:
            heir = Owner("machines", storage)
            heir.restore()
            assert_same(heir.pipeline.snapshot(heir.place), usual.snapshot(heir.place))
        if owner.offset % 40 < at_once:
            owner.renew()
    assert_same(usual.snapshot(owner.place), undisturbed("machines", owner.offset))


def test_an_offset_that_moves_alone_is_a_small_part() -> None:
    storage = Failing()
    owner = Owner("machines", storage)
    owner.poll(200)
    assert owner.write(1 << 20)
    owner.offset += 7
    assert owner.write(1 << 20)
    base, small = (len(storage.objects[name]) for name in storage.list("checkpoints"))
    assert small < 5_000 < base
    heir = Owner("machines", storage)
    heir.restore()
    assert heir.offset == 207
    assert_same(heir.pipeline.snapshot(heir.place), undisturbed("machines", 200))


def test_records_go_on_between_the_parts_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checkpointing.PART_BYTES", 1)
    monkeypatch.setattr("pipeline.checkpointing._TURN_S", 0.0)
    lane, checkpoints, place = lane_of("machines"), MemoryCheckpoints(), PLACES["machines"]
    progress = Progress(0, 0, -1, "t")
    checkpointing = Checkpointing({"metrics": lane}, checkpoints, {place: progress}, lambda place: "v1")
    turns = 0
    for low in range(0, 280, 4):
        scored(lane.pipeline, "machines", low, low + 4)
        progress.next_offset = low + 4
        if low % 80 == 60:
            checkpointing.begin_round()
        checkpointing.go_on(0)
        turns += checkpointing.busy
    checkpointing.begin_round()
    checkpointing.go_on(60)
    assert progress.checkpointed == 280
    assert turns > 3
    assert len({name.rpartition("-")[2] for name in checkpoints.storage.list("checkpoints")}) > 2
    newest = checkpoints.newest("machines", place, 10**9)
    assert newest is not None
    assert_same(state_of(newest), undisturbed("machines", 280))
    for offset in range(280):
        earlier = checkpoints.newest("machines", place, offset)
        if earlier is not None:
            assert_same(state_of(earlier), undisturbed("machines", earlier.next_offset))


def test_a_partition_that_comes_back_at_once_is_checkpointed_after_what_others_wrote() -> None:
    """Another worker had it for a moment and wrote a chain, but committed nothing."""
    place = PLACES["machines"]
    bench = Bench(partitions=1)
    bench.fill(series_payloads(40))
    worker = bench.worker(max_poll_records=60)
    for _ in range(2):
        worker.step()
        worker.checkpoint()
    lane, at = worker.lanes[0], worker.partitions.progress[place]
    facts = Checkpoint(lane.name, place, at.topic_id, at.next_offset, "v1", lane.pipeline.shape)
    theirs = PartMemory.of(lane.pipeline.snapshot(place))
    bench.checkpoints.write(Part(facts, Chain(), theirs, closes=True))
    # Lost and gained again between two looks: it is told as gained only.
    worker.source._told -= {place}  # type: ignore[attr-defined]
    worker.step()
    worker.checkpoint()
    assert worker.partitions.progress[place] is at, "its state is kept"
    newest = bench.checkpoints.newest(lane.name, place, 10**9)
    assert newest is not None
    assert newest.next_offset == bench.broker.committed[place] == 160
    assert_same(streams.state_of(newest), lane.pipeline.snapshot(place))


def test_a_state_of_one_part_outlives_damage_to_those_before_it(caplog: pytest.LogCaptureFixture) -> None:
    """Records of features are few numbers: each part holds them all."""
    lane, checkpoints, place = lane_of("payments"), MemoryCheckpoints(), PLACES["payments"]
    progress = Progress(0, 0, -1, "t")
    checkpointing = Checkpointing({"payments": lane}, checkpoints, {place: progress}, lambda place: "v1")
    for low in (0, 100):
        scored(lane.pipeline, "payments", low, low + 100)
        progress.next_offset = low + 100
        checkpointing.begin_round()
        checkpointing.go_on(60)
    first, _ = checkpoints.storage.list("checkpoints")
    checkpoints.storage.put(first, b"damaged")
    newest = checkpoints.newest("payments", place, 10**9)
    assert newest is not None
    assert newest.next_offset == 200
    assert_same(state_of(newest), undisturbed("payments", 200))
    assert "refused" not in caplog.text
