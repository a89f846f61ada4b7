"""Rounds of checkpoints: which partition is written when, beside the records and on slow storage."""

import threading
import time

import pytest

from pipeline.checkpointing import Checkpointing, Progress
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryCheckpoints
from pipeline.errors import TransientError
from pipeline.protocols import Part, TopicPartition
from tests.pipeline.checkpointed import PLACES, Failing, assert_same, lane_of, scored, state_of, undisturbed


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
