"""Checkpoints of a pipeline and of a worker: whatever fails, what is restored is the state of its offset."""

import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alert_settings import AlertSettings
from pipeline.checkpointing import Checkpointing, Progress
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryCheckpoints, MemoryStorage
from pipeline.errors import CheckpointError, ConfigError, TransientError
from pipeline.lanes import build_lane
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import Chain, Checkpoint, Part, PartitionRecords, TopicPartition
from pipeline.stream import Lane, StreamPipeline
from tests import streams
from tests.records import Record
from tests.streams import (
    BEGIN_MS,
    CPU,
    FEATURES,
    SERIES,
    STEP_MS,
    Bench,
    Payload,
    bench_options,
    drain,
    feature_payloads,
    features_detector,
    payloads_of,
    series_detector,
    series_payloads,
    series_rows,
)

NAMES = ["a", "b", "c", *(f"new-{number}" for number in range(9))]
EVENTFUL = SERIES.model_copy(
    update={
        "alerts": AlertSettings.model_validate(
            {"budget": "1 per day", "stream_budget": "2 per day", "silence": 3, "storm": 3, "storm_within": "5 min"}
        ),
        "max_series": 12,
        "series_ttl": 15 * STEP_MS / 1000,
    }
)
"""Whatever may change the state of a series is asked for."""
PLACES = {"machines": TopicPartition("metrics", 0), "payments": TopicPartition("payments", 0)}


@cache
def records_of(stream: str) -> list[Record]:
    payloads: list[Payload] = feature_payloads(310)
    if stream == "machines":
        strange = {"a": [12, 13], "b": [13], "new-1": [13], "new-2": [14], "new-3": [20]}
        payloads = payloads_of(NAMES, series_rows(NAMES, 25, 5, strange))
        # Some end, one comes back, one stands still while its records are late, and names come once.
        payloads = [
            early if key == b"new-4" and at > 150 else (key, value)
            for early, (at, (key, value)) in zip(payloads[43:44] * len(payloads), enumerate(payloads), strict=True)
            if not (key == b"new-8" and at > 130) and not (key in (b"new-7", b"c") and 150 < at < 250)
        ]
        # Some are seen for the first time in the middle.
        late = payloads_of(["late", "once", "later"], series_rows(["late", "once", "later"], 12, 6, {}))
        payloads += [payload for at, payload in enumerate(late) if payload[0] != b"once" or at < 3]
        payloads += payloads_of(NAMES[:3], series_rows(NAMES[:3], 45, 7, {"b": [30]}))[75:]
    return [Record(offset, BEGIN_MS + 10**9, key, value) for offset, (key, value) in enumerate(payloads)]


def lane_of(stream: str) -> Lane:
    if stream == "machines":
        lane = build_lane(stream, EVENTFUL, series_detector(), "v1", CPU)
        lane.pipeline.divide(PLACES[stream], 1)
        return lane
    return build_lane(stream, FEATURES, features_detector(), "v1", CPU)


def scored(pipeline: StreamPipeline, stream: str, low: int, high: int) -> None:
    if low < high:
        pipeline.process([PartitionRecords(PLACES[stream], records_of(stream)[low:high])])


@cache
def undisturbed(stream: str, offset: int) -> Arrays:
    """The state before an offset, of a pipeline that nothing happened to."""
    pipeline = lane_of(stream).pipeline
    scored(pipeline, stream, 0, offset)
    return pipeline.snapshot(PLACES[stream])


def state_of(checkpoint: Checkpoint) -> Arrays:
    """The state that a checkpoint restores."""
    pipeline = lane_of(checkpoint.stream).pipeline
    pipeline.restore(checkpoint.partition, checkpoint.parts())
    return pipeline.snapshot(checkpoint.partition)


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


class Failing(MemoryStorage):
    """Storage that does not take the next part, or does and does not say so."""

    fails: str = ""

    def create(self, name: str, content: bytes | memoryview) -> bool:
        if self.fails == "refused":
            raise TransientError("storage is full")
        created = super().create(name, content)
        if self.fails == "unanswered":
            raise TransientError("no answer")
        return created


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
    while owner.offset < len(records_of("machines")):
        owner.poll(at_once)
        assert owner.write(1 << 20)
        if owner.offset % 31 < at_once or owner.offset > 300:
            heir = Owner("machines", storage)
            heir.restore()
            assert_same(heir.pipeline.snapshot(heir.place), undisturbed("machines", owner.offset))


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


class Ended(BaseException):
    """Ends a worker at a call of its storage, as SIGKILL would."""


class Sabotaged(MemoryStorage):
    """Storage that ends the worker, or fails, before or after its n-th call, and counts them."""

    def __init__(self, error: BaseException | None = None, at: int = -1, *, after: bool = False) -> None:
        super().__init__()
        self.error, self.at, self.after = error, at, after
        self.calls: list[str] = []

    def _call(self, name: str, *args: Any) -> Any:
        self.calls.append(name)
        fatal = self.error is not None and len(self.calls) == self.at
        if fatal and not self.after:
            raise self.error  # type: ignore[misc]
        result = getattr(super(), name)(*args)
        if fatal:
            raise self.error  # type: ignore[misc]
        return result

    def get(self, name: str) -> bytes | None:
        found: bytes | None = self._call("get", name)
        return found

    def create(self, name: str, content: bytes | memoryview) -> bool:
        return bool(self._call("create", name, content))

    def list(self, folder: str) -> list[str]:
        names: list[str] = self._call("list", folder)
        return names

    def delete(self, name: str) -> None:
        self._call("delete", name)


class On(MemoryCheckpoints):
    """Checkpoints on a storage that is there."""

    def __init__(self, storage: MemoryStorage) -> None:
        super().__init__()
        self.storage = self._storage = storage


def sabotaged(monkeypatch: pytest.MonkeyPatch, storage: Sabotaged) -> Bench:
    monkeypatch.setattr("pipeline.checkpointing.PART_BYTES", 1)
    monkeypatch.setattr("pipeline.patience._FIRST_BACKOFF_S", 0.0)
    bench = Bench(partitions=1, checkpoints=On(storage), options=bench_options(checkpoint_every_s=0))
    bench.fill(series_payloads(60), feature_payloads(310))
    return bench


def calls_of_a_run(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[dict[str, Any]]]:
    storage = Sabotaged()
    bench = sabotaged(monkeypatch, storage)
    drain(bench.worker(max_poll_records=60))
    return storage.calls, bench.alerts()


@pytest.mark.parametrize("after", [False, True])
def test_a_worker_that_ends_at_any_call_of_storage_is_followed_by_one_that_knows_all(
    after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, expected = calls_of_a_run(monkeypatch)
    assert set(calls) == {"get", "create", "list", "delete"}
    assert expected
    for at in range(1, len(calls) + 1, 1 if len(calls) < 150 else 2):
        storage = Sabotaged(Ended(), at, after=after)
        bench = sabotaged(monkeypatch, storage)
        with pytest.raises(Ended):
            drain(bench.worker(max_poll_records=60))
        bench.broker.members.clear()
        storage.error = None
        drain(bench.worker(max_poll_records=45))
        assert bench.alerts() == expected, (at, calls[at - 1])
        for stream, place in PLACES.items():
            newest = On(storage).newest(stream, place, 10**9)
            assert newest is not None
            assert newest.next_offset == bench.broker.committed[place]
            assert_same(streams.state_of(newest), final_state(stream))


@cache
def final_state(stream: str) -> Arrays:
    bench = Bench(partitions=1)
    bench.fill(series_payloads(60), feature_payloads(310))
    worker = bench.worker()
    drain(worker)
    (pipeline,) = (lane.pipeline for lane in worker.lanes if lane.name == stream)
    return pipeline.snapshot(PLACES[stream])


@pytest.mark.parametrize("error", [TransientError("storage is full"), ConfigError("storage is read-only")])
def test_storage_that_fails_at_any_call_costs_no_state(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """But for what a partition begins with, which is refused where it cannot be read or written at first."""
    calls, expected = calls_of_a_run(monkeypatch)
    first = calls.index("create", calls.index("create") + 1) + 1
    for at in range(first + 1, len(calls) + 1, 3):
        caplog.clear()
        storage = Sabotaged(error, at)
        bench = sabotaged(monkeypatch, storage)
        worker, raised = bench.worker(max_poll_records=60), ""
        while len(storage.calls) < at:
            try:
                worker.step()
            except (TransientError, ConfigError) as refused:
                raised = str(refused)
        drain(worker)
        worker.checkpoint()
        assert {alert["id"] for alert in bench.alerts()} == {alert["id"] for alert in expected}
        assert str(error) in raised + caplog.text
        for stream, place in PLACES.items():
            newest = On(storage).newest(stream, place, 10**9)
            assert newest is not None
            assert newest.next_offset == bench.broker.committed[place]
            assert_same(streams.state_of(newest), final_state(stream))


class Slow(MemoryCheckpoints):
    """Storage that notes what it is asked to write, by partition, and writes once it `answers`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.answers = threading.Event()

    def write(self, part: Part) -> None:
        self.asked.append(part.checkpoint.partition.partition)
        self.answers.wait()
        super().write(part)


def moved(count: int) -> dict[TopicPartition, Progress]:
    """As many partitions, without series, that stand past their checkpoints."""
    return {TopicPartition("metrics", number): Progress(9, 0, -1, "t") for number in range(count)}


def test_small_partitions_are_written_in_one_turn_where_storage_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checkpointing._TURN_S", 60.0)
    progress = moved(64)
    checkpointing = Checkpointing(
        {"metrics": lane_of("machines")}, MemoryCheckpoints(), progress, lambda place: "v1"
    )
    checkpointing.begin_round()
    checkpointing.go_on(0)
    assert not checkpointing.busy
    assert {each.checkpointed for each in progress.values()} == {9}


def test_a_part_on_its_way_is_waited_for_in_no_later_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, progress = Slow(), moved(3)
    checkpointing = Checkpointing({"metrics": lane_of("machines")}, checkpoints, progress, lambda place: "v1")
    checkpointing.begin_round()
    checkpointing.go_on(0)
    monkeypatch.setattr("pipeline.checkpointing._TURN_S", 60.0)
    begun_s = time.monotonic()
    checkpointing.go_on(0)
    assert time.monotonic() - begun_s < 30
    assert checkpoints.asked == [0]
    checkpoints.answers.set()
    checkpointing.go_on(60)
    assert {each.checkpointed for each in progress.values()} == {9}


class Recovering(Slow):
    """Storage that fails where it is asked first, once it answers."""

    def write(self, part: Part) -> None:
        super().write(part)
        if len(self.asked) == 1:
            raise TransientError("no answer")


@pytest.mark.parametrize("storage", [Slow, Recovering])
def test_a_part_of_an_earlier_round_is_followed_by_another_after_all_others(storage: type[Slow]) -> None:
    """Be it written or not; the last round too leaves no partition out for it."""
    checkpoints, progress = storage(), moved(3)
    checkpointing = Checkpointing({"metrics": lane_of("machines")}, checkpoints, progress, lambda place: "v1")
    checkpointing.begin_round()
    checkpointing.go_on(0)
    for each in progress.values():
        each.next_offset += 1
    checkpointing.begin_round(last=True)
    checkpoints.answers.set()
    checkpointing.go_on(60)
    assert checkpoints.asked == [0, 1, 2, 0]
    assert checkpointing.behind() == []
    assert not checkpointing.busy


def test_storage_that_works_again_is_said_while_records_go_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.checkpointing._TURN_S", 0.0)
    lane, storage, place = lane_of("machines"), Failing(), PLACES["machines"]
    progress = Progress(0, 0, -1, "t")
    checkpointing = Checkpointing(
        {"metrics": lane}, StoredCheckpoints(storage), {place: progress}, lambda place: "v1"
    )
    for low in range(0, 40, 4):
        scored(lane.pipeline, "machines", low, low + 4)
        progress.next_offset = low + 4
        storage.fails = "refused" if low == 8 else ""
        # What was written before lands in the turn after.
        checkpointing.go_on(1)
        checkpointing.begin_round()
        checkpointing.go_on(0)
        while low == 8 and checkpointing.busy:
            checkpointing.go_on(1)
        assert checkpointing.behind()
    assert caplog.text.count("no checkpoint: storage is full") == 1
    assert caplog.text.count("storage takes checkpoints again") == 1


@pytest.mark.parametrize("last", [True, False])
def test_the_last_round_writes_no_more_than_what_has_changed(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.protocols.MOST_LATER_PARTS", 1)
    lane, checkpoints, place = lane_of("machines"), MemoryCheckpoints(), PLACES["machines"]
    progress = Progress(0, 0, -1, "t")
    checkpointing = Checkpointing({"metrics": lane}, checkpoints, {place: progress}, lambda place: "v1")
    for low, round_is_last in ((0, False), (60, False), (61, last)):
        high = low + 60 if low == 0 else low + 1
        scored(lane.pipeline, "machines", low, high)
        progress.next_offset = high
        checkpointing.begin_round(last=round_is_last)
        checkpointing.go_on(60)
        assert progress.checkpointed == high
    chains = {name.split("/")[4][:21] for name in checkpoints.storage.list("checkpoints")}
    assert len(chains) == (1 if last else 2)
    newest = checkpoints.newest("machines", place, 10**9)
    assert newest is not None
    assert_same(state_of(newest), undisturbed("machines", 62))


def test_parts_that_make_no_state_are_refused_and_those_before_them_taken(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1)
    bench.fill(series_payloads(60))
    first = bench.worker(max_poll_records=60)
    drain(first)
    first.checkpoint()
    at = first.partitions.progress[PLACES["machines"]]
    # A part whose rows no part names: it can be read, but not put together.
    arrays = {**first.lanes[0].pipeline.snapshot(PLACES["machines"]), "slots": np.array([0, 1, 2, 9])}
    arrays |= {"named": np.array([0]), "dropped": np.zeros(0, np.int64), "names": np.frombuffer(b'["a"]', np.uint8)}
    facts = Checkpoint("machines", PLACES["machines"], at.topic_id, 240, "v1", first.lanes[0].pipeline.shape)
    bench.checkpoints.write(Part(facts, Chain(), PartMemory.of(arrays), closes=True))
    bench.broker.members.clear()
    second = bench.worker()
    drain(second)
    assert caplog.text.count("3 of its series have no name in the parts before it") == 2
    assert caplog.text.count("is refused, the one before is taken") == 1
    assert_same(second.lanes[0].pipeline.snapshot(PLACES["machines"]), final_state("machines"))
